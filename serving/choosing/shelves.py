"""Which items of an ordered list may be shown: offered by the catalogue, not blocked, and what a request filters for.

A list is a network's vocabulary, the popularity list, or a side index. Its shelf is made by the watcher whenever the
list, the catalogue or the blocklist changes, so that a request only looks up. Shapes: N items of the list, C of the
catalogue, E categories of all items; a mask has a place before the first item, which is padding.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count

import numpy as np
import numpy.typing as npt

from serving.choosing.filters import EVERYTHING, Wanted
from stores.catalogue import Catalogue, Places

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
_ADDED = np.array([-np.inf, 0.0], dtype=np.float32)
_BYTES = 9
"""An item takes in what is kept for a filter."""
_numbers = count()


@dataclass(frozen=True, eq=False)
class Offer:
    """What holds for everybody, at one moment. `blocked` is obeyed last, whatever else says that an item is fine."""

    catalogue: Catalogue | None = None
    blocked: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class Allowed:
    """What may be shown. One object for all requests that filter alike, so that they can be scored in one batch."""

    allowed_N: Bools
    _order_N: Places

    @cached_property
    def mask(self) -> Floats:
        """[N + 1], added to a network's scores: 0, or −∞; −∞ for padding."""
        mask_V1 = np.empty(len(self.allowed_N) + 1, dtype=np.float32)
        mask_V1[0] = -np.inf
        # A third of the time of an assignment through the booleans.
        np.take(_ADDED, self.allowed_N.view(np.uint8), out=mask_V1[1:], mode="clip")
        return mask_V1

    @cached_property
    def by_popularity(self) -> Places:
        """Places of what may be shown, most popular first."""
        return self._order_N[self.allowed_N[self._order_N]]


class Shelf:
    """Of one list and one offer. Not for several threads at once, but for what the making of it did."""

    def __init__(
        self,
        rows: Mapping[str, int],
        offer: Offer,
        *,
        order_N: Places | None = None,
        withdrawn_N: Bools | None = None,
        former: "Shelf | None" = None,
        megabytes: float = 64.0,
    ) -> None:
        """`rows`: item → its place in the list. `order_N`: all places, most popular first; None: the list's own order.
        `withdrawn_N`: what the list itself calls withdrawn; the catalogue,
        where it has the item, knows better. `former`: of the same list, to take over what did not change.
        `megabytes`: how much to keep for filters that come again."""
        self.offer = offer
        self.number = next(_numbers)
        """Another for each shelf of this process: what was chosen off one may not be what another would give."""
        self.rows = rows
        self._order_N = np.arange(len(rows), dtype=np.int32) if order_N is None else order_N
        self._most_bytes = megabytes * 1e6
        self._kept: OrderedDict[Wanted, Allowed] = OrderedDict()
        self._places_C = _places(rows, offer.catalogue, former)
        allowed_N = np.ones(len(rows), dtype=bool) if withdrawn_N is None else ~withdrawn_N
        self._price_N = np.full(len(rows), np.nan)
        if offer.catalogue is not None:
            here_C = self._places_C >= 0
            places = self._places_C[here_C]
            allowed_N[places] = offer.catalogue.available_C[here_C]
            self._price_N[places] = offer.catalogue.price_C[here_C]
        allowed_N[[row for item in offer.blocked if (row := rows.get(item)) is not None]] = False
        self.standing = Allowed(allowed_N, self._order_N)
        """For a request that filters for nothing."""
        self.standing.mask  # noqa: B018 -- made here, in the watcher's thread
        self._with_category()

    def allowed(self, wanted: Wanted = EVERYTHING) -> Allowed:
        """For a request that wants this, and from memory where one wanted it lately."""
        if wanted == EVERYTHING:
            return self.standing
        found = self._kept.get(wanted)
        if found is not None:
            self._kept.move_to_end(wanted)
            return found
        found = Allowed(self._filtered(wanted), self._order_N)
        self._kept[wanted] = found
        while len(self._kept) * _BYTES * len(self.rows) > self._most_bytes and len(self._kept) > 1:
            self._kept.popitem(last=False)
        return found

    def _filtered(self, wanted: Wanted) -> Bools:
        allowed_N = self.standing.allowed_N.copy()
        if wanted.items is not None:
            named_N = np.zeros_like(allowed_N)
            named_N[[row for item in wanted.items if (row := self.rows.get(item)) is not None]] = True
            allowed_N &= named_N
        if wanted.categories is not None:
            any_N = np.zeros_like(allowed_N)
            for name in wanted.categories:
                any_N[self._of_category(name)] = True
            allowed_N &= any_N
        for name in wanted.without:
            allowed_N[self._of_category(name)] = False
        if wanted.priced:  # an item without a price, NaN, is within nothing
            allowed_N &= (self._price_N >= wanted.min_price) & (self._price_N <= wanted.max_price)
        return allowed_N

    def _of_category(self, name: str) -> Places:
        """Places of the items that have it."""
        code = None if self.offer.catalogue is None else self.offer.catalogue.codes.get(name)
        if code is None:
            return np.empty(0, dtype=np.int32)
        begin, end = self._begins_K1[code : code + 2]
        return self._places_E[begin:end]

    def _with_category(self) -> None:
        """Order places by category, so that a filter touches only the items that it is about."""
        catalogue = self.offer.catalogue
        if catalogue is None:
            return
        place_E = np.repeat(self._places_C, np.diff(catalogue.category_ends_C, prepend=0))
        here_E = place_E >= 0
        place_E, code_E = place_E[here_E], catalogue.category_E[here_E]
        self._places_E = place_E[np.argsort(code_E, kind="stable")]
        self._begins_K1 = np.concatenate([[0], np.cumsum(np.bincount(code_E, minlength=len(catalogue.names)))])


def _places(rows: Mapping[str, int], catalogue: Catalogue | None, former: Shelf | None) -> Places:
    if catalogue is None:
        return np.empty(0, dtype=np.int32)
    before = None if former is None else former.offer.catalogue
    if former is not None and before is not None and former.rows is rows and before.same_items(catalogue):
        return former._places_C  # what an hourly change of prices leaves as it is costs most
    return catalogue.places(rows)
