"""The layers of the network: two kinds of block, one way to look back.

Shapes: N positions (packed or B × L), D width, H heads, B users, Q queries and L keys of each.

Matrix products are in `dtype` (bfloat16 where it pays), the states between the blocks in float32. A product of bfloat16
accumulates in float32; weights are kept in float32 and rounded for the product alone.
"""

import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.network.config import BlockKind, RankerConfig

TIME_BUCKETS = 40
_BUCKETS_A_NAT = 2.0
_FIRST_SECOND = torch.tensor([math.ceil(math.exp(k / _BUCKETS_A_NAT) - 1) for k in range(1, TIME_BUCKETS)])


def time_bucket(seconds: Tensor) -> Tensor:
    """floor(2 ln(1 + seconds)), at most 39 (9 years); the same bucket in torch and in ONNX Runtime.

    By comparison with the first whole second of each bucket; in the exported graph, which knows no such operator, by
    the logarithm in float64, where no whole number of seconds lies within rounding of an edge. Zhai et al. 2024 bucket
    likewise.
    """
    if not torch.compiler.is_exporting():
        return torch.bucketize(seconds, _FIRST_SECOND.to(seconds.device), right=True)
    log = torch.log(seconds.clamp(min=0).double() + 1)
    return (log * _BUCKETS_A_NAT).floor().clamp(max=TIME_BUCKETS - 1).long()


class _ByBucket(torch.autograd.Function):
    """Rows of a small table by many indices: `functional.embedding`, but its gradient takes a twentieth of the time.

    [K, H] and int64 [B, Q, L] → [B, H, Q, L].
    """

    @staticmethod
    def forward(ctx: Any, table_KH: Tensor, bucket_BQL: Tensor) -> Tensor:
        ctx.save_for_backward(bucket_BQL)
        ctx.table = table_KH
        heads = [column_K.index_select(0, bucket_BQL.view(-1)).view(bucket_BQL.shape) for column_K in table_KH.T]
        return torch.stack(heads, dim=1)

    @staticmethod
    def backward(ctx: Any, grad_BHQL: Tensor) -> tuple[Tensor, None]:
        (bucket_BQL,) = ctx.saved_tensors
        index = bucket_BQL.reshape(-1)
        grad_HK = torch.zeros(ctx.table.shape[::-1], device=index.device)
        for head, grad_K in enumerate(grad_HK):
            grad_K.scatter_add_(0, index, grad_BHQL[:, head].reshape(-1).float())
        return grad_HK.T.to(ctx.table.dtype), None


class Sight(Protocol):
    """What each query may look at, for one arrangement of the positions."""

    def attend(self, block: "Block", query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[…, D] of queries, keys and values → what `block.mix` makes of them, arranged as the queries."""


class Block(nn.Module):
    """What both kinds share: the bias of a key for a query by their distance and the key's age at the request."""

    def __init__(self, config: RankerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.dropout
        self.norm = nn.LayerNorm(config.width)
        self.position_bias = nn.Parameter(torch.zeros(config.max_history, config.heads))
        self.time_bias = nn.Parameter(torch.zeros(TIME_BUCKETS, config.heads))
        self.position_bias.requires_grad_(config.relative_positions)
        self.time_bias.requires_grad_(config.relative_times)
        self.by_distance = config.relative_positions
        self.by_time = config.relative_times

    def mix(
        self,
        query_BHQd: Tensor,
        key_BHLd: Tensor,
        value_BHLd: Tensor,
        *,
        visible: Tensor,
        distance_QL: Tensor,
        bucket_BQL: Tensor | None,
    ) -> Tensor:
        """What each query takes of the values, [B, H, Q, d].

        `visible` bool, broadcastable to [B, 1, Q, L]; `distance_QL` int64 ≥ 0; `bucket_BQL` of `time_bucket`.
        """
        raise NotImplementedError

    def forward(self, x: Tensor, sight: Sight, dtype: torch.dtype, *, newest_only: bool = False) -> Tensor:
        """`newest_only` (x is [B, L, D]): the answer is [B, 1, D], since nothing else of a last block is read."""
        raise NotImplementedError

    def bias(self, distance_QL: Tensor, bucket_BQL: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """[1 or B, H, Q, L], or None without any."""
        found = None
        if self.by_distance:
            found = self.position_bias.to(dtype)[distance_QL].permute(2, 0, 1)[None]
        if self.by_time and bucket_BQL is not None:
            table_KH = self.time_bias.to(dtype)
            if torch.is_grad_enabled():
                by_time: Tensor = _ByBucket.apply(table_KH, bucket_BQL.contiguous())  # type: ignore[no-untyped-call]
            else:
                by_time = functional.embedding(bucket_BQL, table_KH).permute(0, 3, 1, 2)
            found = by_time if found is None else found + by_time
        return found


class SoftmaxBlock(Block):
    """Pre-norm attention and feed-forward, each added to its input."""

    def __init__(self, config: RankerConfig) -> None:
        super().__init__(config)
        self.query = nn.Linear(config.width, config.width)
        self.key_value = nn.Linear(config.width, 2 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.feed_norm = nn.LayerNorm(config.width)
        self.widen = nn.Linear(config.width, config.feed * config.width)
        self.narrow = nn.Linear(config.feed * config.width, config.width)

    def forward(self, x: Tensor, sight: Sight, dtype: torch.dtype, *, newest_only: bool = False) -> Tensor:
        normed = self.norm(x).to(dtype)
        if newest_only:
            x = x[:, -1:]
        query = linear(normed[:, -1:] if newest_only else normed, self.query)
        key, value = linear(normed, self.key_value).chunk(2, dim=-1)
        x = x + drop(linear(sight.attend(self, query, key, value), self.out), self.dropout, self.training)
        wide = functional.silu(linear(self.feed_norm(x).to(dtype), self.widen))
        return x + drop(linear(wide, self.narrow), self.dropout, self.training)

    def mix(
        self,
        query_BHQd: Tensor,
        key_BHLd: Tensor,
        value_BHLd: Tensor,
        *,
        visible: Tensor,
        distance_QL: Tensor,
        bucket_BQL: Tensor | None,
    ) -> Tensor:
        bias = self.bias(distance_QL, bucket_BQL, query_BHQd.dtype)
        nothing = torch.zeros((), dtype=query_BHQd.dtype, device=query_BHQd.device)
        hidden = torch.where(visible, nothing, float("-inf"))
        score = (query_BHQd * query_BHQd.shape[-1] ** -0.5) @ key_BHLd.transpose(-1, -2)
        return torch.softmax(score + (hidden if bias is None else bias + hidden), dim=-1) @ value_BHLd


class HSTUBlock(Block):
    """Hierarchical sequential transduction unit: SiLU in the softmax's place, divided by the number of visible keys."""

    def __init__(self, config: RankerConfig) -> None:
        super().__init__(config)
        self.query_gate = nn.Linear(config.width, 2 * config.width)
        self.key_value = nn.Linear(config.width, 2 * config.width)
        self.mixed_norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, sight: Sight, dtype: torch.dtype, *, newest_only: bool = False) -> Tensor:
        normed = self.norm(x).to(dtype)
        if newest_only:
            x = x[:, -1:]
        asking = normed[:, -1:] if newest_only else normed
        query, gate = functional.silu(linear(asking, self.query_gate)).chunk(2, dim=-1)
        key, value = functional.silu(linear(normed, self.key_value)).chunk(2, dim=-1)
        mixed = self.mixed_norm(sight.attend(self, query, key, value).float()).to(dtype) * gate
        return x + linear(drop(mixed, self.dropout, self.training), self.out)

    def mix(
        self,
        query_BHQd: Tensor,
        key_BHLd: Tensor,
        value_BHLd: Tensor,
        *,
        visible: Tensor,
        distance_QL: Tensor,
        bucket_BQL: Tensor | None,
    ) -> Tensor:
        score = (query_BHQd * query_BHQd.shape[-1] ** -0.5) @ key_BHLd.transpose(-1, -2)
        bias = self.bias(distance_QL, bucket_BQL, query_BHQd.dtype)
        share = visible.to(query_BHQd.dtype)
        share = share / share.sum(dim=-1, keepdim=True)
        return (functional.silu(score if bias is None else score + bias) * share) @ value_BHLd


BLOCKS: dict[str, type[Block]] = {BlockKind.SOFTMAX: SoftmaxBlock, BlockKind.HSTU: HSTUBlock}


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """`layer` in the dtype of `x`."""
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return functional.linear(x, layer.weight.to(x.dtype), bias)


def drop(x: Tensor, share: float, training: bool) -> Tensor:
    """Dropout, from one random byte an element (the share is rounded to 1/256), drawn eight at a time."""
    cut = round(256 * share)
    if not training or not cut:
        return x
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= cut
    return x * (kept * (256 / (256 - cut))).to(x.dtype)
