"""New items: new rows in the network, while every old row keeps its bits.

The optimiser's state grows by itself when it is loaded (`model.optimizers.growing`).

Shapes: N events, V items, D width.
"""

from collections.abc import Mapping

import numpy as np
import torch

from model.modalities.fusion import ItemVectors
from model.modalities.material import Modality
from model.network.config import RankerConfig
from model.network.ranker import Ranker

NEIGHBOURHOOD = 5
"""Events before and after a new item's event whose items it starts from."""


def grow(
    ranker: Ranker, *, items: int, row_N: np.ndarray, user_N: np.ndarray, modalities: Mapping[str, Modality]
) -> Ranker:
    """The ranker with `items` rows (padding aside); the argument stays as it is.

    `row_N`, `user_N`: events in sequence order, in the grown vocabulary's rows. A new row with a modality starts from
    that; any other as the mean, weighted by count, of the known items within five events of it in its users'
    sequences, else as the mean of all known items; its bias as the mean bias.
    """
    known = ranker.config.items
    start_RD = _neighbour_mean(ranker.item_table.materialised().weight.detach().numpy(), known, items, row_N, user_N)
    table = ranker.item_table.grown(items, start_RD=torch.from_numpy(start_RD), modalities=modalities)
    return _with_items(ranker, table, known=ranker.item_bias)


def newcomers(
    ranker: Ranker, *, items: int, start_RD: np.ndarray | None = None, modalities: Mapping[str, Modality]
) -> Ranker:
    """The rows that `grow` would append for `items` new items, as a ranker that knows no others.

    It costs what the new items cost, however many are known. `modalities` stand beside the new items alone; one
    without a vector starts from its row of `start_RD`, None being allowed where each has one.
    """
    start = torch.zeros(items, ranker.config.width) if start_RD is None else torch.from_numpy(start_RD)
    table = ranker.item_table.without_items().grown(items, start_RD=start, modalities=modalities)
    return _with_items(ranker, table, known=ranker.item_bias[:1])


def _with_items(ranker: Ranker, table: ItemVectors, *, known: torch.Tensor) -> Ranker:
    """`ranker` over `table`, with the biases `known` (padding first) and for each further item the ranker's mean."""
    items = table.num_embeddings - 1
    weights = {
        name: tensor.detach().clone()
        for name, tensor in ranker.state_dict().items()
        if not name.startswith("item_table.")
    }
    weights |= {f"item_table.{name}": tensor for name, tensor in table.state_dict().items()}
    mean = ranker.item_bias.detach()[1:].mean()
    weights["item_bias"] = torch.cat([known.detach().clone(), mean.expand(items + 1 - len(known))])
    with torch.device("meta"):
        grown = Ranker(RankerConfig.from_dict(ranker.config.to_dict() | {"items": items}))
    grown.load_state_dict(weights, assign=True)
    grown.eval()
    return grown


def _neighbour_mean(table_VD: np.ndarray, known: int, items: int, row_N: np.ndarray, user_N: np.ndarray) -> np.ndarray:
    total = np.zeros((items - known, table_VD.shape[1]), dtype=np.float64)
    count = np.zeros(items - known)
    fresh = np.flatnonzero(row_N > known)
    for shift in [*range(-NEIGHBOURHOOD, 0), *range(1, NEIGHBOURHOOD + 1)]:
        at = fresh[(fresh + shift >= 0) & (fresh + shift < len(row_N))]
        near = at + shift
        fits = (user_N[at] == user_N[near]) & (row_N[near] <= known) & (row_N[near] > 0)
        np.add.at(total, row_N[at[fits]] - known - 1, table_VD[row_N[near[fits]]])
        np.add.at(count, row_N[at[fits]] - known - 1, 1)
    mean = table_VD[1 : known + 1].mean(axis=0)
    return np.where(count[:, None] > 0, total / np.maximum(count, 1)[:, None], mean).astype(np.float32)
