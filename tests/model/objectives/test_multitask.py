import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.objectives.multitask import FixedSum, UncertaintySum


def test_fixed_by_hand() -> None:
    losses = {"a": torch.tensor(2.0, requires_grad=True), "b": torch.tensor(3.0, requires_grad=True)}
    total = FixedSum({"a": 1.0, "b": 0.5, "unused": 9.0})(losses)
    assert total.item() == 3.5  # 1·2 + ½·3
    assert [grad.item() for grad in torch.autograd.grad(total, list(losses.values()))] == [1.0, 0.5]
    with pytest.raises(KeyError):
        FixedSum({"a": 1.0})(losses)


def test_uncertainty_by_hand_and_by_gradcheck() -> None:
    """Cross-entropy 2 at s = 0: 2. Squared error 3 at s = log 4: ½·3/4 + ½·log 4."""
    tasks = UncertaintySum({"next.view": 1.0, "rating": 1.0}, squared=frozenset({"rating"})).double()
    with torch.no_grad():
        tasks.log_variance["rating"].fill_(math.log(4))
    total = tasks({"next.view": torch.tensor(2.0), "rating": torch.tensor(3.0)})
    assert total.item() == pytest.approx(2 + 3 / 8 + math.log(4) / 2)
    losses = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (2.0, 3.0)]
    assert torch.autograd.gradcheck(
        lambda a, b, *_: tasks({"next.view": a, "rating": b}), (*losses, *tasks.log_variance.values())
    )
    assert tasks.weights() == {"next.view": pytest.approx(1.0), "rating": pytest.approx(0.5 / 4)}


@given(st.floats(0.01, 100), st.booleans())
def test_learned_weights_start_as_the_fixed_ones(weight: float, squared: bool) -> None:
    tasks = UncertaintySum({"a": weight}, squared=frozenset({"a"} if squared else ()))
    assert tasks.weights()["a"] == pytest.approx(weight, rel=1e-5)


def test_weights_settle_at_one_over_the_loss() -> None:
    """d/ds (e^−s·ℓ + ½s) = 0 at e^−s = 1/(2ℓ): the optimum for constant losses 0.25 and 4 is weights 2 and 1/8."""
    tasks = UncertaintySum({"easy": 1.0, "hard": 1.0})
    optimizer = torch.optim.Adam(tasks.parameters(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        tasks({"easy": torch.tensor(0.25), "hard": torch.tensor(4.0)}).backward()
        optimizer.step()
    assert tasks.weights() == {"easy": pytest.approx(2, rel=0.01), "hard": pytest.approx(1 / 8, rel=0.01)}


def test_a_task_without_targets_keeps_its_variance() -> None:
    tasks = UncertaintySum({"a": 1.0})
    loss = torch.tensor(0.0, requires_grad=True)
    total = tasks({"a": loss})
    assert total.item() == 0
    assert torch.autograd.grad(total, tasks.log_variance["a"])[0].item() == 0
