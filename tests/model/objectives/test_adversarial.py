import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from model.objectives.adversarial import adversarial
from model.objectives.lifelong import lifelong


def bowl(x: Tensor) -> Tensor:
    return (x**2).sum()


def test_by_hand() -> None:
    """ℓ(x) = x², g = 2x; x = (3, 4), so r = ½·(6, 8)/10 = (.3, .4) and ℓ(x + r) = 3.3² + 4.4² = 30.25 = 5.5²."""
    clean, moved = adversarial(bowl, torch.tensor([[3.0, 4.0]]), epsilon=0.5)
    assert (clean.item(), moved.item()) == (25.0, pytest.approx(30.25))


def test_each_group_has_its_own_norm() -> None:
    """Windows (3, 4) and ((6, 0), (0, 8)): the moves are 1 long in each, so 6² and 11² in place of 5² and 10²."""
    x = torch.tensor([[3.0, 4.0], [6.0, 0.0], [0.0, 8.0]])
    _, moved = adversarial(bowl, x, epsilon=1.0, group_N=torch.tensor([0, 1, 1]))
    assert moved.item() == pytest.approx(36 + 121)


def test_the_move_is_a_constant_for_the_gradient() -> None:
    """d/dw of w·ℓ: at a fixed r, (w(x + r))² has gradient 2w(x + r)², which autograd of the plain formula gives."""
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    x = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    clean, moved = adversarial(lambda e: ((weight * e) ** 3).sum(), x, epsilon=0.2)
    slope = 3 * weight.detach() ** 3 * x.detach() ** 2
    shifted = x + 0.2 * slope / slope.norm()
    theirs = ((weight * x) ** 3).sum() + ((weight * shifted) ** 3).sum()
    torch.testing.assert_close(clean + moved, theirs)
    for a, b in zip(
        torch.autograd.grad(clean + moved, (weight, x)), torch.autograd.grad(theirs, (weight, x)), strict=True
    ):
        torch.testing.assert_close(a, b)


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=8), st.floats(0.001, 0.5))
def test_no_move_of_that_length_hurts_a_linear_loss_more(values: list[float], epsilon: float) -> None:
    """For a linear loss w·x the worst move of length ε adds exactly ε·‖w‖."""
    slope = torch.tensor([values], dtype=torch.float64)
    clean, moved = adversarial(lambda e: (slope * e).sum(), torch.zeros_like(slope), epsilon=epsilon)
    assert (moved - clean).item() == pytest.approx(epsilon * math.sqrt(sum(v * v for v in values)), abs=1e-12)


def test_without_a_slope_nothing_moves() -> None:
    clean, moved = adversarial(bowl, torch.zeros(2, 3), epsilon=1.0)
    assert (clean.item(), moved.item()) == (0.0, 0.0)
    clean, moved = adversarial(bowl, torch.zeros(0, 3), epsilon=1.0, group_N=torch.zeros(0, dtype=torch.int64))
    assert (clean.item(), moved.item()) == (0.0, 0.0)


def test_lifelong_is_the_convex_sum() -> None:
    supervised, own = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (2.0, 5.0))
    total = lifelong(supervised, own, alpha=0.25)
    assert total.item() == 2.75  # .25·5 + .75·2
    assert [grad.item() for grad in torch.autograd.grad(total, (supervised, own))] == [0.75, 0.25]
    assert lifelong(supervised, own, alpha=0.0).item() == 2.0
    assert lifelong(supervised, own, alpha=1.0).item() == 5.0
