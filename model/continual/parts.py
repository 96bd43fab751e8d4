"""Which weights an increment may change, and the optimiser state of the others.

Shapes: O outputs and I inputs of a linear layer, R the rank of what is added to its weight.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from model.continual.options import Trained
from model.network.ranker import Ranker
from model.optimizers.ema import UPDATES
from relations.errors import UsageError

ITEM_PARTS = ("item_table.weight", "item_bias")
"""One row an item: what the items alone have learnt. A modality's projection is shared, and counts as body."""
LORA_SCALE = 2.0
"""As in `model.modalities.adapters`: α = 2 R."""
_MARK = ".parametrizations.weight."


class LowRank(nn.Module):
    """W ↦ W + 2 · U D, with U = 0 at first, so that it starts as nothing.

    Source: LoRA, Hu et al., ICLR 2022, section 4.1. A parametrisation of the weight rather than peft's layer: the
    blocks multiply by a layer's weight in a dtype of their own (`model.network.blocks.linear`) and never call the
    layer, so that a wrapped `forward` would go unheard.
    """

    def __init__(self, weight_OI: Tensor, rank: int, draw: torch.Generator) -> None:
        super().__init__()
        outputs, inputs = weight_OI.shape
        self.down_RI = nn.Parameter(torch.randn(rank, inputs, generator=draw).to(weight_OI) * inputs**-0.5)
        self.up_OR = nn.Parameter(weight_OI.new_zeros(outputs, rank))

    def forward(self, weight_OI: Tensor) -> Tensor:
        return weight_OI + LORA_SCALE * self.up_OR @ self.down_RI


@contextmanager
def only(ranker: Ranker, objective: nn.Module, *, trained: Trained, rank: int, seed: int) -> Iterator[None]:
    """Inside, only these parts of `ranker` need gradients, and nothing of `objective` unless all do.

    `lora` adds a low rank to each linear layer of the blocks, drawn from `seed`; the names of their weights differ
    inside. On leaving the additions are merged: parameters, their names and needs are those of before, and the ranker
    is as plain as one that was trained whole. Raises UsageError for a rank below 1.
    """
    if trained is Trained.ALL:
        yield
        return
    if trained is Trained.LORA and rank < 1:
        raise UsageError(f"[increment] lora_rank = {rank}: a rank is at least 1")
    weights = [*ranker.parameters(), *objective.parameters()]
    needed = [weight.requires_grad for weight in weights]
    for weight in weights:
        weight.requires_grad_(False)
    for name in ITEM_PARTS:
        ranker.get_parameter(name).requires_grad_(True)
    layers = [layer for layer in ranker.blocks.modules() if type(layer) is nn.Linear] if trained is Trained.LORA else []
    draw = torch.Generator().manual_seed(seed)
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank, draw))
    try:
        yield
    finally:
        for layer in layers:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        for weight, before in zip(weights, needed, strict=True):
            weight.requires_grad_(before)


@contextmanager
def dropping(ranker: Ranker, share: float | None) -> Iterator[None]:
    """Inside, dropout is `share`; None: as it is."""
    before = ranker.config.dropout
    if share is None or share == before:
        yield
        return
    try:
        _drop(ranker, share)
        yield
    finally:
        _drop(ranker, before)


def _drop(ranker: Ranker, share: float) -> None:
    ranker.config.dropout = share
    for block in ranker.blocks:
        setattr(block, "dropout", share)  # noqa: B010 -- a list of modules does not know its modules' fields


@dataclass(frozen=True)
class SplitState:
    """An optimiser state, by whether this training goes on from it."""

    used: dict[str, Tensor]
    kept: dict[str, Tensor]

    @staticmethod
    def of(state: Mapping[str, Tensor], named: Mapping[str, nn.Parameter]) -> "SplitState":
        """`named`: all parameters as the training names them, inside `only`."""
        trained = {name for name, weight in named.items() if weight.requires_grad}
        used = {key: tensor for key, tensor in state.items() if key == UPDATES or _of(key) in trained}
        moved = {name.partition(_MARK)[0] + ".weight" for name in trained if _MARK in name}
        # an average of weights that what is merged will have moved would bring the old ones back
        stale = {f"{name}/ema" for name in moved}
        return SplitState(used, {key: tensor for key, tensor in state.items() if key not in used.keys() | stale})

    def joined(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the next training goes on from: `found` without that of low ranks, which are merged, and the kept."""
        return self.kept | {key: tensor for key, tensor in found.items() if _MARK not in key}


def _of(key: str) -> str:
    return key.rpartition("/")[0]
