"""New items: new rows in the network and in the optimiser, while every old row keeps its bits.

Shapes: N events, V items, D width.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from model.ranker import Ranker, RankerConfig

NEIGHBOURHOOD = 5
"""Events before and after a new item's event whose items it starts from."""


def grow(
    ranker: Ranker, optimizer_state: Mapping[str, Tensor], *, items: int, row_N: np.ndarray, user_N: np.ndarray
) -> tuple[Ranker, dict[str, Tensor]]:
    """The ranker and its optimiser with `items` rows (padding aside); the arguments stay as they are.

    `row_N`, `user_N`: events in sequence order, in the grown vocabulary's rows. A new row starts as the mean, weighted
    by count, of the known items within five events of it in its users' sequences, else as the mean of all known
    items; its bias as the mean bias. The optimiser's first moment starts at 0 and the second at the mean of the known
    rows: at 0 the first step would be some three times too long.
    """
    known = ranker.config.items
    config = RankerConfig.from_dict(ranker.config.to_dict() | {"items": items})
    weights = {name: tensor.detach().clone() for name, tensor in ranker.state_dict().items()}
    table, bias = weights["item_table.weight"], weights["item_bias"]
    start = _neighbour_mean(table.numpy(), known, items, row_N, user_N)
    weights["item_table.weight"] = torch.cat([table, torch.from_numpy(start)])
    weights["item_bias"] = torch.cat([bias, bias[1:].mean().expand(items - known)])
    with torch.device("meta"):
        grown = Ranker(config)
    grown.load_state_dict(weights, assign=True)
    grown.eval()
    return grown, {name: _grow_state(name, tensor, items - known) for name, tensor in optimizer_state.items()}


def _grow_state(name: str, tensor: Tensor, more: int) -> Tensor:
    parameter, _, kind = name.rpartition("/")
    if parameter not in ("item_table.weight", "item_bias") or kind == "step":
        return tensor.clone()
    fresh = tensor[1:].mean(dim=0, keepdim=True).expand(more, *tensor.shape[1:])
    return torch.cat([tensor, torch.zeros_like(fresh) if kind == "exp_avg" else fresh])


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
