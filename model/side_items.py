"""Items that came after a release, as rows beside its table: what the next increment would start them from.

The scores of the network's states s are then s @ vectors.T + biases, beside those of its own items. A cosine network's
vectors have length 1, its states carry the temperature.

Shapes: R new items, K known items of a category, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from model.fitted import Fitted
from model.growth import newcomers
from model.modalities.material import NamedVectors


@dataclass(frozen=True)
class SideRows:
    """In the order of the ids. `described_R`: by a modality; the others start from items of their categories."""

    items: tuple[str, ...]
    vector_RD: np.ndarray  # float32
    bias_R: np.ndarray  # float32
    described_R: np.ndarray  # bool


def side_rows(
    fitted: Fitted,
    *,
    items: Sequence[str],
    modalities: Mapping[str, NamedVectors],
    categories: Mapping[str, Sequence[str]],
    known: Mapping[str, Sequence[str]],
) -> SideRows:
    """Rows for those of `items` that say something of themselves and that the network does not know.

    One with a vector in one of `modalities` (the network's) starts from it, as in an increment. One without starts from
    the mean, over its `categories` that hold known items, of these items' mean: `known` are the network's own by
    category. One with neither gets no row: nothing would rank it.

    The bias is the mean bias, as in an increment: that of an item of middling popularity. Nobody has met these items,
    so a higher one would claim what is not known, and a lower one would hold back what has not been tried.

    Raises DataRejected when another encoder than the network's made the vectors, or they are of another width.
    """
    described = {item for named in modalities.values() for item in named.items}
    rows_of = {name: fitted.vocabulary.rows(members) for name, members in known.items()}
    rows_of = {name: row_K[row_K > 0] for name, row_K in rows_of.items() if row_K.any()}
    near = {item: here for item, names in categories.items() if (here := [name for name in names if name in rows_of])}
    said = sorted(item for item in set(items) if item in described or item in near)
    fresh = [item for item, row in zip(said, fitted.vocabulary.rows(said), strict=True) if not row]
    width = fitted.ranker.config.width
    if not fresh:
        empty_R = np.zeros(0, dtype=np.float32)
        return SideRows((), np.zeros((0, width), dtype=np.float32), empty_R, empty_R.astype(bool))
    described_R = np.array([item in described for item in fresh])
    start_RD = None if described_R.all() else _category_means(fitted, fresh, near, rows_of)
    beside = {name: named.beside(fresh) for name, named in modalities.items()}
    with torch.inference_mode():
        ranker = newcomers(fitted.ranker, items=len(fresh), start_RD=start_RD, modalities=beside)
        vector_RD, bias_R = ranker.catalogue()
        return SideRows(tuple(fresh), vector_RD.float().numpy(), bias_R.float().numpy(), described_R)


def _category_means(
    fitted: Fitted, fresh: Sequence[str], near: Mapping[str, Sequence[str]], rows_of: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Float32 [R, D]; zeros for an item without categories, which has vectors."""
    table_VD = fitted.ranker.item_table.materialised().weight.detach().numpy()
    wanted = {name for item in fresh for name in near.get(item, ())}
    mean = {name: table_VD[rows_of[name]].mean(axis=0, dtype=np.float64) for name in wanted}
    start_RD = np.zeros((len(fresh), table_VD.shape[1]), dtype=np.float32)
    for place, item in enumerate(fresh):
        if here := near.get(item):
            start_RD[place] = np.mean([mean[name] for name in here], axis=0)
    return start_RD
