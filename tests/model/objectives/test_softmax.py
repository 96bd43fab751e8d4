import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model.objectives import softmax
from model.objectives.softmax import full_softmax, sampled_softmax

Problem = tuple[Tensor, Tensor, Tensor, Tensor]
WEIGHTS = torch.tensor([1.0, 0.5, 2.0, 0.0, 3.0, 1.0, 0.25])


def problem_of(states: int, items: int, width: int) -> Problem:
    """States, item table, biases and targets."""
    draw = torch.Generator().manual_seed(0)
    shapes = ((states, width), (items, width), (items,))
    leaves = [torch.randn(*shape, generator=draw).requires_grad_() for shape in shapes]
    return leaves[0], leaves[1], leaves[2], torch.arange(states) % items


@pytest.fixture
def problem() -> Problem:
    return problem_of(7, 5, 3)


def agree(ours: Tensor, theirs: Tensor, leaves: tuple[Tensor, ...]) -> None:
    """In value and gradients, of which 3 times are asked: the incoming gradient must reach the result."""
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    for a, b in zip(torch.autograd.grad(3 * ours, leaves), torch.autograd.grad(3 * theirs, leaves), strict=True):
        torch.testing.assert_close(a, b)


def plain_sampled(problem: Problem, negative_S: Tensor, log_q_S: Tensor, weight_N: Tensor) -> Tensor:
    """All logits at once, by autograd."""
    state, table, bias, target = problem
    logits = state @ table[negative_S].T + bias[negative_S] - log_q_S - math.log(len(negative_S))
    logits = logits.masked_fill(negative_S[None] == target[:, None], -math.inf)
    own = (state * table[target]).sum(1) + bias[target]
    each = torch.cat([own[:, None], logits], 1).logsumexp(1) - own
    return (weight_N * each).sum() / weight_N.sum()


@pytest.mark.parametrize("chunk", [1, 10, 11, 1000])  # elements: one state, two, two, all at once
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
def test_full_softmax_is_cross_entropy(
    monkeypatch: pytest.MonkeyPatch, problem: Problem, chunk: int, smoothing: float, weighted: bool
) -> None:
    monkeypatch.setattr(softmax, "CHUNK_ELEMENTS", chunk)
    state, table, bias, target = problem
    weight = WEIGHTS if weighted else torch.ones(7)
    ours = full_softmax(state, table, bias, target, weight_N=weight if weighted else None, smoothing=smoothing)
    each = functional.cross_entropy(state @ table.T + bias, target, label_smoothing=smoothing, reduction="none")
    agree(ours, (weight * each).sum() / weight.sum(), (state, table, bias))


def test_label_smoothing_by_hand() -> None:
    """Scores ln 3 and 0: probabilities ¾ and ¼; ε = .2 wants .9 of the first and .1 of the second."""
    state, table, target = torch.ones(1, 1), torch.tensor([[math.log(3)], [0.0]]), torch.tensor([0])
    loss = full_softmax(state, table, torch.zeros(2), target, smoothing=0.2)
    assert loss.item() == pytest.approx(-0.9 * math.log(3 / 4) - 0.1 * math.log(1 / 4))


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
@pytest.mark.parametrize("weighted", [False, True])
def test_sampled_gradients_are_autograds(
    monkeypatch: pytest.MonkeyPatch, problem: Problem, chunk: int, weighted: bool
) -> None:
    monkeypatch.setattr(softmax, "CHUNK_ELEMENTS", chunk)
    negative, log_q = torch.tensor([1, 4, 4, 0]), torch.tensor([0.3, 0.2, 0.2, 0.1]).log()
    ours = sampled_softmax(*problem, negative_S=negative, log_q_S=log_q, weight_N=WEIGHTS if weighted else None)
    agree(ours, plain_sampled(problem, negative, log_q, WEIGHTS if weighted else torch.ones(7)), problem[:3])


def test_many_negatives_give_the_full_softmax(problem: Problem) -> None:
    state, table, bias, target = problem
    q = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05])
    negative = torch.multinomial(q, 200_000, replacement=True, generator=torch.Generator().manual_seed(1))
    sampled = sampled_softmax(state, table, bias, target, negative_S=negative, log_q_S=q.log()[negative])
    assert sampled.item() == pytest.approx(full_softmax(state, table, bias, target).item(), rel=0.01)


@pytest.mark.parametrize("sampled", [False, True])
def test_bfloat16_is_within_one_percent(sampled: bool) -> None:
    """Eight bits of significand are 0.4 %: the loss within 0.5 %, each gradient's direction within 1 % (cosine)."""
    problem = problem_of(64, 50, 16)
    negative = torch.arange(0, 50, 2)
    more = {"negative_S": negative, "log_q_S": torch.full((25,), -math.log(50))} if sampled else {}
    loss: Callable[..., Tensor] = sampled_softmax if sampled else full_softmax
    exact, rough = (loss(*problem, **more, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert rough.dtype is torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=5e-3)
    found = zip(torch.autograd.grad(exact, problem[:3]), torch.autograd.grad(rough, problem[:3]), strict=True)
    for a, b in found:
        assert b.dtype is torch.float32
        assert functional.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.99
        assert b.norm().item() == pytest.approx(a.norm().item(), rel=1e-2)
