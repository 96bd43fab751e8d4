"""User columns of a delivery: raw ids and older pseudonyms to the pseudonyms in force.

Ids are hashed once each and remembered from chunk to chunk, because logs repeat their users.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from expectations.suites import ID_LENGTH, VISIBLE
from stores.pseudonyms import Keys

_REMEMBERED = 1_000_000
"""Ids that are kept with their pseudonyms: some 80 MB, as Arrow arrays; Python's own strings take three times that."""
_NONE: pa.Array = pa.array([], pa.string())


class Users:
    """One delivery's users. A root is what a user's derived event ids are made of, whatever key is in force."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._ids = self._names = self._roots = _NONE

    def hashed(self, raw: pa.Array, *, column: str) -> tuple[pa.Array, pa.Array, dict[int, str]]:
        """(pseudonyms, roots, row → why there is none) of raw ids, null where they are.

        Raw ids leave here. A blank or endless one would hash to a fine pseudonym, so it is refused first.
        """
        coded = raw.dictionary_encode()
        ids = coded.dictionary
        fine = pc.and_(pc.match_substring_regex(ids, VISIBLE), pc.less_equal(pc.utf8_length(ids), ID_LENGTH))
        if pc.all(fine).as_py():
            names, roots = self._of(ids)
            return names.take(coded.indices), _spread(roots, coded.indices), {}
        names, roots = (_among(fine, found) for found in self._of(ids.filter(fine)))
        bad = pc.is_in(coded.indices, pc.indices_nonzero(pc.invert(fine)).cast(coded.indices.type))
        why = f"{column} is blank or longer than {ID_LENGTH} characters"
        refused = dict.fromkeys(pc.indices_nonzero(bad).to_pylist(), why)
        return names.take(coded.indices), _spread(roots, coded.indices), refused

    def lifted(self, pseudonyms: pa.Array) -> tuple[pa.Array, pa.Array]:
        """(pseudonyms in force, roots) of pseudonyms of any version; what is none stays as it is."""
        coded = pseudonyms.dictionary_encode()
        said = coded.dictionary.to_pylist()
        names, roots = (
            pa.array(self._keys.lift_all(said), pa.string()),
            pa.array(self._keys.roots_of(said), pa.string()),
        )
        return names.take(coded.indices), _spread(roots, coded.indices)

    def _of(self, ids: pa.Array) -> tuple[pa.Array, pa.Array]:
        """(pseudonyms, roots) of distinct ids."""
        place = pc.index_in(ids, value_set=self._ids)
        unknown = pc.is_null(place)
        new = ids.filter(unknown)
        if len(self._ids) + len(new) > _REMEMBERED:
            self._ids = self._names = self._roots = _NONE
            new, unknown = ids, pa.repeat(pa.scalar(True), len(ids))
        if len(new):
            first = len(self._ids)
            self._remember(new)
            numbers = pa.array(np.arange(first, first + len(new)), place.type)
            place = pc.replace_with_mask(place, unknown, numbers)
        return self._names.take(place), self._roots.take(place)

    def _remember(self, new: pa.Array) -> None:
        hashed = self._keys.roots(new.to_pylist())
        self._ids = pa.concat_arrays([self._ids, new])
        self._roots = pa.concat_arrays([self._roots, pa.array(hashed, pa.string())])
        if self._keys.version == 1:
            self._names = self._roots
        else:
            lifted = pa.array(self._keys.lift_all(hashed), pa.string())
            self._names = pa.concat_arrays([self._names, lifted])


def _spread(values: pa.Array, indices: pa.Array) -> pa.DictionaryArray:
    """The values by row, without a copy of each: roots are looked at only where an event has no id."""
    return pa.DictionaryArray.from_arrays(indices, values)


def _among(fine: pa.Array, values: pa.Array) -> pa.Array:
    """The values where `fine`, null elsewhere."""
    return pc.replace_with_mask(pa.nulls(len(fine), pa.string()), fine, values)
