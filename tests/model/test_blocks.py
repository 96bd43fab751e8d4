"""What the blocks are made of: buckets of time, the bias by bucket, dropout, and both kinds against a plain loop."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from model.network.blocks import TIME_BUCKETS, Block, HSTUBlock, SoftmaxBlock, _ByBucket, drop, time_bucket
from model.network.config import RankerConfig
from model.network.sight import Group, Packed

CONFIG = RankerConfig(items=5, behaviours=2, width=8, heads=2, max_history=6, dropout=0.0)


@given(seconds=st.integers(-10, 10**10))
def test_a_bucket_is_two_for_each_natural_logarithm(seconds: int) -> None:
    expected = min(TIME_BUCKETS - 1, math.floor(2 * math.log(1 + max(0, seconds))))
    assert int(time_bucket(torch.tensor([seconds]))) == expected


def test_at_each_edge_comparison_and_logarithm_agree() -> None:
    """The exported graph takes the logarithm: the whole seconds around every edge fall into the same bucket."""
    edges = [math.exp(k / 2) - 1 for k in range(TIME_BUCKETS)]
    seconds = torch.tensor(sorted({max(0, round(edge) + step) for edge in edges for step in range(-2, 3)}))
    logs = (torch.log(seconds.double() + 1) * 2).floor().clamp(max=TIME_BUCKETS - 1).long()
    assert torch.equal(time_bucket(seconds), logs)


def test_the_bias_by_bucket_is_an_embedding() -> None:
    generator = torch.Generator().manual_seed(0)
    table_KH = torch.randn(TIME_BUCKETS, 2, generator=generator, requires_grad=True)
    bucket_BQL = torch.randint(0, TIME_BUCKETS, (3, 5, 7), generator=generator)
    ours = _ByBucket.apply(table_KH, bucket_BQL)  # type: ignore[no-untyped-call]
    plain = functional.embedding(bucket_BQL, table_KH).permute(0, 3, 1, 2)
    slope = torch.randn(plain.shape, generator=generator)
    assert torch.equal(ours, plain)
    (mine,), (theirs,) = (torch.autograd.grad(found, table_KH, slope) for found in (ours, plain))
    torch.testing.assert_close(mine, theirs)


def test_dropout_keeps_the_mean_and_its_share() -> None:
    torch.manual_seed(0)
    found = drop(torch.ones(100_003), 0.2, True)  # 51 of 256 bytes drop: .1992
    assert float((found == 0).float().mean()) == pytest.approx(51 / 256, abs=0.005)
    assert float(found.mean()) == pytest.approx(1, abs=0.01)
    assert torch.equal(drop(torch.ones(9), 0.2, False), torch.ones(9))
    assert torch.equal(drop(torch.ones(9), 0.001, True), torch.ones(9))  # rounds to none


@pytest.mark.parametrize("kind", [SoftmaxBlock, HSTUBlock])
def test_attention_is_that_of_a_plain_loop(kind: type[Block]) -> None:
    """Two windows of 2 and 4 events, in one rectangle; the formulas of the two papers, event by event."""
    torch.manual_seed(1)
    block = kind(CONFIG)
    torch.nn.init.normal_(block.position_bias)
    torch.nn.init.normal_(block.time_bias)
    age_N = torch.tensor([900, 30, 5_000, 700, 60, 1])
    group = Group(0, 6, 2, 4, torch.tensor([0, 1, 4, 5, 6, 7]))
    query, key, value = (torch.randn(6, 8) for _ in range(3))
    with torch.inference_mode():
        found = Packed([group], age_N, timed=True).attend(block, query, key, value)
        for begin, end in ((0, 2), (2, 6)):
            for i in range(begin, end):
                asked = int(age_N[i + 1]) if i + 1 < end else 0
                for head in range(2):
                    part = slice(4 * head, 4 * head + 4)
                    seen = range(begin, i + 1)
                    scores = torch.stack(
                        [
                            query[i, part] @ key[j, part] / 2  # √4
                            + block.position_bias[i - j, head]
                            + block.time_bias[time_bucket(torch.tensor([int(age_N[j]) - asked]))[0], head]
                            for j in seen
                        ]
                    )
                    shares = scores.softmax(0) if kind is SoftmaxBlock else functional.silu(scores) / len(seen)
                    plain = sum(share * value[j, part] for share, j in zip(shares, seen, strict=True))
                    torch.testing.assert_close(found[i, part], plain)
