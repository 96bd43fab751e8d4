import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from model.objectives import robust
from model.objectives.robust import soften, target_nats, truncate
from model.objectives.softmax import full_softmax


@pytest.fixture
def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    state, table, bias = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((7, 3), (5, 3), (5,)))
    return state, table, bias, torch.tensor([0, 1, 2, 3, 4, 0, 0])


@pytest.mark.parametrize("chunk", [1, 11, 1000])
def test_nats_are_cross_entropy(
    monkeypatch: pytest.MonkeyPatch, problem: tuple[Tensor, Tensor, Tensor, Tensor], chunk: int
) -> None:
    monkeypatch.setattr(robust, "CHUNK_ELEMENTS", chunk)
    state, table, bias, target = problem
    logits = state @ table.T + bias
    torch.testing.assert_close(target_nats(*problem), functional.cross_entropy(logits, target, reduction="none"))
    negative, log_q = torch.tensor([1, 4, 4, 0]), torch.tensor([0.3, 0.2, 0.2, 0.1], dtype=torch.float64).log()
    sampled = logits[:, negative] - log_q - math.log(4)
    sampled = sampled.masked_fill(negative[None] == target[:, None], -math.inf)
    own = logits.gather(1, target[:, None])
    wanted = torch.cat([own, sampled], 1).logsumexp(1) - own[:, 0]
    torch.testing.assert_close(target_nats(*problem, negative_S=negative, log_q_S=log_q), wanted)


def test_softened_cross_entropy_has_the_gradient_of_the_generalised(
    problem: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    """Σ w ∇CE with w = p^q is Σ ∇(1 − p^q)/q; the loss divides by Σ w, the generalised one by N."""
    state, table, bias, target = problem
    leaves = [x.requires_grad_() for x in (state, table, bias)]
    weight = soften(target_nats(*problem), power=0.7)
    ours = full_softmax(state, table, bias, target, weight_N=weight, dtype=torch.float64) * weight.sum() / 7
    p = torch.softmax(state @ table.T + bias, 1).gather(1, target[:, None])
    theirs = ((1 - p**0.7) / 0.7).mean()
    for a, b in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True):
        torch.testing.assert_close(a, b)


@given(st.lists(st.floats(0, 20), max_size=30), st.floats(0, 1))
def test_truncation_drops_the_largest(losses: list[float], share: float) -> None:
    nats = torch.tensor(losses, dtype=torch.float64)
    weight = truncate(nats, share=share)
    assert int((weight == 0).sum()) == int(share * len(losses))
    if 0 < int((weight == 0).sum()) < len(losses):
        assert nats[weight == 0].min() >= nats[weight == 1].max()


def test_power_zero_trusts_all() -> None:
    assert soften(torch.tensor([0.0, 5.0]), power=0.0).tolist() == [1, 1]
    assert soften(torch.tensor([0.0, math.log(4)]), power=0.5).tolist() == pytest.approx([1, 0.5])  # (1/4)^½
