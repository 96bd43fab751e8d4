"""Packed batches: whose window a position is in, seeded draws, and parts of a batch as a batch.

Shapes: N positions, B windows, M positions that are kept.
"""

from dataclasses import fields, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from model.network.sight import Group
from model.windows import Batch

STAYS = ("age_N", "place_N")
"""What belongs to a position of the history, not to the event that stands there."""


def windows_of(offsets_B1: Tensor, *, positions: int) -> Tensor:
    """The window of each position, int64 [N]."""
    window_B = torch.arange(len(offsets_B1) - 1, device=offsets_B1.device)
    return torch.repeat_interleave(window_B, offsets_B1.diff(), output_size=positions)


def uniform(count: int, *, seed: int, stream: int, device: torch.device) -> Tensor:
    """Draws from [0, 1), float64 [count], the same on every device. Streams of one seed are independent."""
    state = int(np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0] >> np.uint64(1))
    generator = torch.Generator().manual_seed(state)
    return torch.rand(count, generator=generator, dtype=torch.float64).to(device)


def reorder(batch: Batch, from_N: Tensor) -> Batch:
    """The events in another order, position i taking that of `from_N[i]`; ages and places stay. Without targets."""
    moved = {name: getattr(batch, name)[from_N] for name in _names(batch, "N") if name not in STAYS}
    return replace(_without_targets(batch), **moved)


def keep(batch: Batch, kept_N: Tensor) -> Batch:
    """The positions where `kept_N`, at least one of each window. Without targets."""
    length_B = kept_N.new_zeros(len(batch.offsets_B1) - 1, dtype=torch.int64)
    window_N = windows_of(batch.offsets_B1, positions=len(kept_N))
    length_B.index_add_(0, window_N, kept_N.long())
    offsets_B1 = functional.pad(length_B.cumsum(0), (1, 0))
    window_M = window_N[kept_N]
    place_M = torch.arange(len(window_M), device=window_M.device) - offsets_B1[window_M]
    moved = {name: getattr(batch, name)[kept_N] for name in _names(batch, "N")} | {"place_N": place_M}
    groups, first, begins, lengths = [], 0, offsets_B1.tolist(), length_B.tolist()
    for group in batch.groups:
        last, length = first + group.windows, max(lengths[first : first + group.windows])
        begin, end = begins[first], begins[last]
        at = None
        if end - begin < group.windows * length:
            at = (window_M[begin:end] - first) * length + place_M[begin:end]
        groups.append(Group(begin, end, group.windows, length, at))
        first = last
    return replace(_without_targets(batch), **moved, offsets_B1=offsets_B1, groups=tuple(groups))


def _without_targets(batch: Batch) -> Batch:
    return replace(batch, **{name: getattr(batch, name)[:0] for name in _names(batch, "T")})


def _names(batch: Batch, letter: str) -> list[str]:
    """The tensors whose first axis is that of `letter`, by the shape suffix of their names."""
    return [field.name for field in fields(batch) if field.name.rpartition("_")[2].startswith(letter)]
