"""What is known of items beside behaviour, in a recommender's columns.

Shapes: V items, G categories, D dimensions of a vector.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import sparse

from relations.errors import DataRejected


@dataclass(frozen=True)
class ItemFacts:
    """Item → its categories, and item → its vector. Items may be missing from either.

    Vectors must come from outside of the models that are compared (text, images): in its own space every model looks
    diverse in its own way.
    """

    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)
    vectors: Mapping[str, np.ndarray] = field(default_factory=dict)

    def category_shares(self, items: Sequence[str] | np.ndarray) -> sparse.csr_array:
        """Float [V, G]: each item's categories in equal parts of 1, nothing where it has none.

        Columns are the same for every choice of `items`. Source: Steck, RecSys 2018, §3.1, p(g|i).
        """
        indicator_VG = self._indicators(items)
        return _scaled(indicator_VG, 1 / np.maximum(indicator_VG.sum(axis=1), 1))

    def directions(self, items: Sequence[str] | np.ndarray) -> sparse.csr_array | np.ndarray:
        """Unit vectors [V, D], or unit category indicators where no item has a vector; zeros for an item without.

        The product of two indicators is the cosine of two sets, |A ∩ B| / √(|A| |B|). Raises DataRejected for vectors
        of unequal length and for values that are not finite.
        """
        if not self.vectors:
            indicator_VG = self._indicators(items)
            return _scaled(indicator_VG, 1 / np.sqrt(np.maximum(indicator_VG.sum(axis=1), 1)))
        first, example = next(iter(self.vectors.items()))
        width = len(example)
        vector_VD = np.zeros((len(items), width), dtype=np.float32)
        for place, item in enumerate(items):
            vector_D = self.vectors.get(item)
            if vector_D is None:
                continue
            if len(vector_D) != width:
                raise DataRejected(f"items: the vector of {item!r} has {len(vector_D)} values, of {first!r} {width}")
            vector_VD[place] = vector_D
        broken = np.flatnonzero(~np.isfinite(vector_VD).all(axis=1))
        if len(broken):
            raise DataRejected(f"items: the vector of {items[broken[0]]!r} holds values that are not finite")
        norm_V = np.linalg.norm(vector_VD, axis=1, keepdims=True)
        return np.divide(vector_VD, norm_V, out=vector_VD, where=norm_V > 0)

    def _indicators(self, items: Sequence[str] | np.ndarray) -> sparse.csr_array:
        names = sorted({name for found in self.categories.values() for name in found})
        code = {name: place for place, name in enumerate(names)}
        found = [sorted({code[name] for name in self.categories.get(item, ())}) for item in items]
        offsets = np.concatenate([[0], np.cumsum([len(codes) for codes in found])]).astype(np.int64)
        columns = np.fromiter((each for codes in found for each in codes), dtype=np.int64, count=int(offsets[-1]))
        return sparse.csr_array((np.ones(len(columns)), columns, offsets), shape=(len(items), max(1, len(names))))


def _scaled(of_VG: sparse.csr_array, factor_V: np.ndarray) -> sparse.csr_array:
    return sparse.csr_array(of_VG.multiply(factor_V[:, None]))
