"""Who sees whom: users packed one after another for training, or padded on the left for serving.

Shapes: N packed positions, B users, L positions of the longest, D width, H heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.network.blocks import Block, time_bucket


@dataclass(frozen=True)
class Group:
    """Windows of similar length in one product: positions [begin, end) of the batch are `windows` of at most `length`.

    `place_M` int64: where each of them stands in windows × length; None where all windows are that long.
    """

    begin: int
    end: int
    windows: int
    length: int
    place_M: Tensor | None

    def pad(self, x_ND: Tensor, heads: int) -> Tensor:
        """[windows, H, L, D / H], zeros where there is nothing."""
        part = x_ND[self.begin : self.end]
        if self.place_M is not None:
            part = part.new_zeros(self.windows * self.length, x_ND.shape[1]).index_copy(0, self.place_M, part)
        return part.view(self.windows, self.length, heads, -1).transpose(1, 2)

    def unpad(self, x_BHLd: Tensor) -> Tensor:
        """The positions again, [end − begin, D]."""
        flat = x_BHLd.transpose(1, 2).reshape(self.windows * self.length, -1)
        return flat if self.place_M is None else flat.index_select(0, self.place_M)


class Packed:
    """For training. A query looks at its own window, up to itself, or at all of it (`causal=False`).

    What stands beyond a window's end is never seen by what is real, since causal attention does not look right. Nor are
    positions after the last group, which are there to round up.
    """

    def __init__(self, groups: Sequence[Group], age_N: Tensor, *, timed: bool, causal: bool = True) -> None:
        self._groups = groups
        self._seen = [self._sight(group, age_N, timed=timed, causal=causal) for group in groups]

    def attend(self, block: Block, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        parts = []
        for group, (visible, distance_LL, bucket_BLL) in zip(self._groups, self._seen, strict=True):
            query_BHLd, key_BHLd, value_BHLd = (group.pad(x_ND, block.heads) for x_ND in (query, key, value))
            distance_LL = distance_LL.clamp(max=len(block.position_bias) - 1)  # a length may be rounded up beyond it
            mixed = block.mix(
                query_BHLd, key_BHLd, value_BHLd, visible=visible, distance_QL=distance_LL, bucket_BQL=bucket_BLL
            )
            parts.append(group.unpad(mixed))
        if spare := len(query) - self._groups[-1].end:
            parts.append(query.new_zeros(spare, query.shape[1]))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @staticmethod
    def _sight(group: Group, age_N: Tensor, *, timed: bool, causal: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        distance_LL, visible = _in_order(group.length, age_N.device)
        if not causal:
            real_BL = age_N.new_zeros(group.windows * group.length, dtype=torch.bool)
            real_BL[slice(None) if group.place_M is None else group.place_M] = True
            itself_LL = distance_LL == 0
            visible = real_BL.view(-1, 1, 1, group.length) | itself_LL
        distance_LL = distance_LL.abs() if not causal else distance_LL.clamp(min=0)
        if not timed:
            return visible, distance_LL, None
        age_BL = age_N[group.begin : group.end]
        if group.place_M is not None:
            age_BL = age_BL.new_zeros(group.windows * group.length).index_copy(0, group.place_M, age_BL)
        return visible, distance_LL, buckets(age_BL.view(group.windows, group.length))


class Padded:
    """For serving: [B, L], newest last, padded on the left. A padding position sees itself alone.

    `newest_only`: for queries of the newest position alone.
    """

    def __init__(self, real_BL: Tensor, bucket_BLL: Tensor | None, *, newest_only: bool = False) -> None:
        distance_LL, causal_LL = _in_order(real_BL.shape[1], real_BL.device)
        visible = ((causal_LL & real_BL[:, None, :]) | (distance_LL == 0))[:, None]
        asking = slice(-1, None) if newest_only else slice(None)
        self._visible = visible[:, :, asking]
        self._distance_QL = distance_LL.clamp(min=0)[asking]
        self._bucket_BQL = None if bucket_BLL is None else bucket_BLL[:, asking]

    def attend(self, block: Block, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query_BHQd, key_BHLd, value_BHLd = (
            x.view(*x.shape[:2], block.heads, -1).transpose(1, 2) for x in (query, key, value)
        )
        mixed = block.mix(
            query_BHQd,
            key_BHLd,
            value_BHLd,
            visible=self._visible,
            distance_QL=self._distance_QL,
            bucket_BQL=self._bucket_BQL,
        )
        return mixed.transpose(1, 2).flatten(2)


def buckets(age_BL: Tensor) -> Tensor:
    """[B, L, L] of query and key: the key's age when the query's answer was asked for.

    `age_BL`: seconds before the window's request. The answer of position i is asked for when event i + 1 happens, and
    the last one's at the request.
    """
    asked_BL = torch.cat([age_BL[:, 1:], torch.zeros_like(age_BL[:, :1])], dim=1)
    return time_bucket(age_BL[:, None, :] - asked_BL[:, :, None])


def _in_order(length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """How many places the key stands before the query, and whether it is no later than it, both [L, L]."""
    order_L = torch.arange(length, device=device)
    back_LL = order_L[:, None] - order_L[None, :]
    return back_LL, back_LL >= 0
