import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from model.objectives import gbce as module
from model.objectives.gbce import calibrated_beta, gbce

Problem = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture
def problem() -> Problem:
    """States, item table, biases and targets: N = 7, V = 5, D = 3."""
    draw = torch.Generator().manual_seed(0)
    leaves = [
        torch.randn(*shape, generator=draw, dtype=torch.float64).requires_grad_() for shape in ((7, 3), (5, 3), (5,))
    ]
    return leaves[0], leaves[1], leaves[2], torch.tensor([0, 1, 2, 3, 4, 0, 0])


def plain(problem: Problem, negative_NK: Tensor, beta: float, weight_N: Tensor) -> Tensor:
    """One target and one negative at a time."""
    state, table, bias, target = problem
    losses = []
    for n, own in enumerate(target.tolist()):
        loss = -beta * torch.log(torch.sigmoid(state[n] @ table[own] + bias[own]))
        for k in negative_NK[n].tolist():
            if k != own:
                loss = loss - torch.log(1 - torch.sigmoid(state[n] @ table[k] + bias[k]))
        losses.append(loss / (negative_NK.shape[1] + 1))
    return (weight_N * torch.stack(losses)).sum() / weight_N.sum()


WEIGHT = torch.tensor([1.0, 0.5, 2.0, 0.0, 1.0, 3.0, 1.0], dtype=torch.float64)
SHARED = torch.tensor([1, 4, 4, 0])
OWN = torch.tensor([[1, 2], [1, 1], [0, 4], [4, 2], [0, 1], [3, 3], [2, 0]])


@pytest.mark.parametrize("negative", [SHARED, OWN], ids=["shared", "own"])
@pytest.mark.parametrize("chunk", [1, 9, 1000])
def test_value_and_gradients_are_the_plain_loops(
    monkeypatch: pytest.MonkeyPatch, problem: Problem, chunk: int, negative: Tensor
) -> None:
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", chunk)
    state, table, bias, target = problem
    ours = gbce(state, table, bias, target, negative=negative, beta=0.3, weight_N=WEIGHT)
    theirs = plain(problem, negative.expand(7, -1) if negative.dim() == 1 else negative, 0.3, WEIGHT)
    torch.testing.assert_close(ours, theirs)
    leaves = (state, table, bias)
    for a, b in zip(torch.autograd.grad(3 * ours, leaves), torch.autograd.grad(3 * theirs, leaves), strict=True):
        torch.testing.assert_close(a, b)
    assert torch.autograd.gradcheck(lambda *x: gbce(*x, target, negative=negative, beta=0.3, weight_N=WEIGHT), leaves)


def test_bfloat16_is_near(problem: Problem) -> None:
    leaves = [x.detach().float().requires_grad_() for x in problem[:3]]
    exact, rough = (
        gbce(*leaves, problem[3], negative=SHARED, beta=0.3, weight_N=WEIGHT, dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )
    torch.testing.assert_close(rough, exact, rtol=2e-2, atol=0)
    for a, b in zip(torch.autograd.grad(rough, leaves), torch.autograd.grad(exact, leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=5e-2, atol=5e-3)


def test_beta_one_is_binary_cross_entropy(problem: Problem) -> None:
    state, table, bias, target = problem
    negative = (target + 1) % 5  # one negative a target, never the target
    ours = gbce(state, table, bias, target, negative=negative[:, None], beta=1.0)
    scores = state @ table.T + bias
    chosen = torch.stack([scores[range(7), target], scores[range(7), negative]], dim=1)
    labels = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(7, -1)
    torch.testing.assert_close(ours, functional.binary_cross_entropy_with_logits(chosen, labels))


def test_beta_by_hand() -> None:
    """α = 1/4 (one negative of four other items), t = 1/2: β = ¼·(½·(1 − 4) + 4) = 5/8."""
    assert calibrated_beta(negatives=1, items=5, calibration=0.5) == pytest.approx(5 / 8)


@given(st.integers(1, 500), st.integers(1, 500), st.floats(0, 1))
def test_beta_lies_between_the_rate_and_one(negatives: int, items: int, calibration: float) -> None:
    beta = calibrated_beta(negatives=negatives, items=items, calibration=calibration)
    rate = min(1.0, negatives / max(1, items - 1))
    assert rate - 1e-9 <= beta <= 1 + 1e-9
    assert calibrated_beta(negatives=negatives, items=items, calibration=0.0) == pytest.approx(1)
    assert calibrated_beta(negatives=negatives, items=items, calibration=1.0) == pytest.approx(rate)


def test_a_calibrated_probability_is_the_true_one() -> None:
    """The point of β: at t = 1 the best score of an item bought with probability p is logit(p), whatever K is.

    One state, V = 101 items, K = 10 of 100 others drawn uniformly. Over the draws, item i is a positive with weight
    β·p and a negative with weight (1 − p)·α; σ(s) = βp / (βp + α(1 − p)) = p for β = α.
    """
    p, rate = 0.2, 10 / 100
    for calibration, best in ((1.0, p), (0.0, p / (p + rate * (1 - p)))):
        beta = calibrated_beta(negatives=10, items=101, calibration=calibration)
        grid = torch.linspace(-6, 6, 2401, dtype=torch.float64)
        cost = p * beta * functional.softplus(-grid) + (1 - p) * rate * functional.softplus(grid)
        assert torch.sigmoid(grid[cost.argmin()]).item() == pytest.approx(best, abs=2e-3)


def test_nothing_to_learn_is_zero() -> None:
    table, bias = torch.ones(2, 3, requires_grad=True), torch.zeros(2)
    for count, weight in ((0, None), (2, torch.zeros(2))):
        target = torch.zeros(count, dtype=torch.int64)
        loss = gbce(torch.ones(count, 3), table, bias, target, negative=torch.tensor([1]), beta=1.0, weight_N=weight)
        assert loss.item() == 0
        assert torch.autograd.grad(loss, table)[0].abs().sum() == 0
    only = gbce(torch.ones(1, 3), table[:1], bias[:1], torch.tensor([0]), negative=torch.tensor([0]), beta=1.0)
    assert only.item() == pytest.approx(math.log1p(math.exp(-3)) / 2)  # the one negative is the target itself
