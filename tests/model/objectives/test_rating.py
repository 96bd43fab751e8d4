import math

import pytest
import torch
from torch import Tensor

from model.objectives.rating import RatingHead, RatingLoss


def head(width: int = 3, *, seed: int = 0) -> RatingHead:
    made = RatingHead(width).double()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(generator=draw)
    return made


def pairs(count: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    state, item = (torch.randn(count, 3, generator=draw, dtype=torch.float64).requires_grad_() for _ in range(2))
    return state, item


def test_prediction_by_hand() -> None:
    """h = (1, 2, 3), v = (1, 0, −1), W = I, a = (1, 1, 1), c = ½, b = (0, 0, 2), mean 3, std 2.

    hᵀWv/√3 = (1 − 3)/√3, a·h + c = 6.5, b·v = −2: 3 + 2·(4.5 − 2/√3).
    """
    made = RatingHead(3)
    made.load_state_dict(
        {
            "interaction.weight": torch.eye(3),
            "state_bias.weight": torch.ones(1, 3),
            "state_bias.bias": torch.tensor([0.5]),
            "item_bias.weight": torch.tensor([[0.0, 0.0, 2.0]]),
            "mean": torch.tensor(3.0),
            "std": torch.tensor(2.0),
        }
    )
    rating = made.predict(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 0.0, -1.0]]))
    assert rating.item() == pytest.approx(3 + 2 * (4.5 - 2 / math.sqrt(3)))


@pytest.mark.parametrize("kind", list(RatingLoss))
def test_loss_and_gradients_are_the_plain_loops(kind: RatingLoss) -> None:
    made, (state, item) = head(), pairs(6)
    value = torch.tensor([5.0, math.nan, 1.0, 3.0, math.nan, 4.0], dtype=torch.float64)
    weight = torch.tensor([1.0, 9.0, 0.5, 2.0, 1.0, 0.0], dtype=torch.float64)
    made.scale_to(value)
    assert made.mean.item() == pytest.approx(13 / 4)  # (5 + 1 + 3 + 4)/4
    assert made.std.item() == pytest.approx(math.sqrt((1.75**2 + 2.25**2 + 0.25**2 + 0.75**2) / 4))
    terms = []
    for n in (0, 2, 3, 5):
        error = (made.predict(state[n : n + 1], item[n : n + 1])[0] - value[n]) / made.std
        near = error**2 if kind is RatingLoss.MSE else error**2 / 2
        terms.append(weight[n] * (near if kind is RatingLoss.MSE or error.abs() <= 1 else error.abs() - 0.5))
    theirs = torch.stack(terms).sum() / 3.5
    ours = made.loss(state, item, value, kind=kind, weight_N=weight)
    torch.testing.assert_close(ours, theirs)
    leaves = (state, item, *made.parameters())
    for a, b in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True):
        torch.testing.assert_close(a, b)
    assert torch.autograd.gradcheck(lambda *x: made.loss(*x, value, kind=kind, weight_N=weight), (state, item))


def test_starts_at_the_mean_and_learns() -> None:
    made = RatingHead(3)
    state, item = (pair.detach().float() for pair in pairs(40))
    value = 3 + (state * item).sum(dim=1)
    made.scale_to(value)
    torch.testing.assert_close(made.predict(state, item), value.mean().expand(40))
    optimizer = torch.optim.Adam(made.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        made.loss(state, item, value, kind=RatingLoss.MSE).backward()
        optimizer.step()
    assert ((made.predict(state, item) - value) ** 2).mean().sqrt() < 0.1 * value.std()


def test_no_values_no_pairs_and_equal_values() -> None:
    made, (state, item) = RatingHead(3), pairs(2)
    made = made.double()
    for s, i in ((state, item), (state[:0], item[:0])):
        value = torch.full((len(s),), math.nan, dtype=torch.float64)
        made.scale_to(value)
        loss = made.loss(s, i, value, kind=RatingLoss.MSE)
        assert loss.item() == 0
        assert torch.autograd.grad(loss, made.interaction.weight)[0].abs().sum() == 0
    made.scale_to(torch.tensor([4.0, 4.0]))
    assert (made.mean.item(), made.std.item()) == (4.0, 1.0)
