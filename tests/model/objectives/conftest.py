"""Packed batches from readable windows."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.network.sight import Group
from model.windows import Batch

BatchOf = Callable[..., Batch]


def _batch(*windows: list[int], users: list[int] | None = None) -> Batch:
    """Windows of rows, in ascending length; the target of each position but the last is the next row.

    Behaviours take turns between view (1) and purchase (5); the event at place p of a window of length L is
    10·(L − p) seconds old; the target at place p has the value p, but none at 0.
    """
    rows = torch.tensor([row for window in windows for row in window], dtype=torch.int64)
    lengths = torch.tensor([len(window) for window in windows])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    place = torch.cat([torch.arange(len(window)) for window in windows])
    at = torch.cat([torch.arange(int(a), int(b) - 1) for a, b in pairwise(offsets)])
    length = int(lengths.max())
    window = torch.repeat_interleave(torch.arange(len(windows)), lengths)
    value = place[at].float()
    return Batch(
        row_N=rows,
        behaviour_N=1 + 4 * (place % 2),
        age_N=10 * (lengths[window] - place),
        place_N=place,
        offsets_B1=offsets,
        user_B=torch.tensor(users if users is not None else list(range(len(windows)))),
        at_T=at,
        target_T=rows[at + 1],
        behaviour_T=(1 + 4 * (place % 2))[at + 1],
        value_T=torch.where(value > 0, value, torch.nan),
        weight_T=torch.ones(len(at)),
        groups=(Group(0, len(rows), len(windows), length, window * length + place),),
    )


@pytest.fixture(scope="session")
def batch_of() -> BatchOf:
    return _batch


def slices(batch: Batch) -> list[slice]:
    return [slice(int(a), int(b)) for a, b in zip(batch.offsets_B1[:-1], batch.offsets_B1[1:], strict=True)]


@pytest.fixture(scope="session")
def windows_in() -> Callable[[Tensor, Batch], list[list[int]]]:
    """The entries of each window."""
    return lambda x_N, batch: [x_N[part].tolist() for part in slices(batch)]


class TinyNetwork(nn.Module):
    """A stand-in for the ranker: each state is a squashed mean of the vectors that the position may see."""

    def __init__(self, items: int = 12, width: int = 4) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(items + 1, width, generator=draw))
        self.behaviour = nn.Parameter(torch.randn(10, width, generator=draw))
        self.bias = nn.Parameter(torch.randn(items, generator=draw))
        self.mask_vector = nn.Parameter(torch.randn(width, generator=draw))
        self.passes: list[dict[str, Any]] = []

    def encode(
        self, row_N: Tensor, behaviour_N: Tensor, age_N: Tensor, place_N: Tensor, *, groups: Any,
        dtype: torch.dtype = torch.float32, masked_N: Tensor | None = None, shift_ND: Tensor | None = None,
        causal: bool = True, attribute_NA: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        self.passes.append({"masked_N": masked_N, "shift_ND": shift_ND, "causal": causal})
        item = self.table[row_N]
        if masked_N is not None:
            item = torch.where(masked_N[:, None], self.mask_vector, item)
        if shift_ND is not None:
            item = item + shift_ND
        window = (place_N == 0).cumsum(0)
        sees = window[:, None] == window[None, :]
        if causal:
            sees = sees.tril()
        share = sees / sees.sum(1, keepdim=True)
        return torch.tanh(share.to(item.dtype) @ (item + self.behaviour[behaviour_N]))

    def catalogue(self) -> tuple[Tensor, Tensor]:
        return self.table[1:], self.bias


@pytest.fixture
def network() -> TinyNetwork:
    return TinyNetwork()
