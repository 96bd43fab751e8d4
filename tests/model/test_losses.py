import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model import losses
from model.objectives.softmax import full_softmax, sampled_softmax


@pytest.fixture
def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States, item table, biases and targets: N = 7, V = 5, D = 3."""
    draw = torch.Generator().manual_seed(0)
    leaves = [torch.randn(*shape, generator=draw).requires_grad_() for shape in ((7, 3), (5, 3), (5,))]
    return leaves[0], leaves[1], leaves[2], torch.tensor([0, 1, 2, 3, 4, 0, 0])


def gradients(loss: Tensor, *leaves: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(3 * loss, leaves))  # 3: the incoming gradient must reach the result


@pytest.mark.parametrize("chunk", [1, 10, 11, 1000])  # elements: one state, two, two, all at once
def test_full_softmax_is_cross_entropy(
    monkeypatch: pytest.MonkeyPatch, problem: tuple[Tensor, Tensor, Tensor, Tensor], chunk: int
) -> None:
    monkeypatch.setattr(losses, "CHUNK_ELEMENTS", chunk)
    state, table, bias, target = problem
    ours = full_softmax(state, table, bias, target)
    theirs = functional.cross_entropy(state @ table.T + bias, target)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    for a, b in zip(gradients(ours, state, table, bias), gradients(theirs, state, table, bias), strict=True):
        torch.testing.assert_close(a, b)


def test_sampled_softmax_by_hand() -> None:
    """One state h = 1, scores 0, 1, 2 for items 0, 1, 2; target 0; negatives 1, 2, 2 and the target itself.

    Drawn with probability ½ and ¼, four draws: weights 1/(4·½) = ½ and 1/(4·¼) = 1; the target's own draw is left out.
    """
    state, table, bias = torch.ones(1, 1), torch.tensor([[0.0], [1.0], [2.0]]), torch.zeros(3)
    loss = sampled_softmax(
        state,
        table,
        bias,
        torch.tensor([0]),
        negative_S=torch.tensor([1, 2, 2, 0]),
        log_q_S=torch.tensor([0.5, 0.25, 0.25, 0.25]).log(),
    )
    assert loss.item() == pytest.approx(math.log(1 + math.e / 2 + 2 * math.e**2))  # −0 + log(e⁰ + ½·e¹ + e² + e²)


@pytest.mark.parametrize("chunk", [1, 9, 1000])
def test_sampled_gradients_are_autograds(
    monkeypatch: pytest.MonkeyPatch, problem: tuple[Tensor, Tensor, Tensor, Tensor], chunk: int
) -> None:
    monkeypatch.setattr(losses, "CHUNK_ELEMENTS", chunk)
    state, table, bias, target = problem
    negative, log_q = torch.tensor([1, 4, 4, 0]), torch.tensor([0.3, 0.2, 0.2, 0.1]).log()
    ours = sampled_softmax(state, table, bias, target, negative_S=negative, log_q_S=log_q)
    logits = state @ table[negative].T + bias[negative] - log_q - math.log(4)
    logits = logits.masked_fill(negative[None] == target[:, None], -math.inf)
    own = (state * table[target]).sum(1) + bias[target]
    theirs = (torch.cat([own[:, None], logits], 1).logsumexp(1) - own).mean()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    for a, b in zip(gradients(ours, state, table, bias), gradients(theirs, state, table, bias), strict=True):
        torch.testing.assert_close(a, b)


def test_many_negatives_give_the_full_softmax(problem: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    state, table, bias, target = problem
    q = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05])
    negative = torch.multinomial(q, 200_000, replacement=True, generator=torch.Generator().manual_seed(1))
    sampled = sampled_softmax(state, table, bias, target, negative_S=negative, log_q_S=q.log()[negative])
    assert sampled.item() == pytest.approx(full_softmax(state, table, bias, target).item(), rel=0.01)
