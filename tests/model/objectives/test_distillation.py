import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from model.fitted import Fitted
from model.growth import grow
from model.network.ranker import Ranker
from model.objectives import softmax
from model.objectives.distillation import Teacher, adaptive_weight, distil, sampled_distil
from model.objectives.next_item import Negatives
from model.windows import Batch
from relations.errors import UsageError

BatchOf = Callable[..., Batch]
T, V, U = 7, 8, 6
WEIGHTS = torch.tensor([1.0, 0.5, 2.0, 0.0, 3.0, 1.0, 0.25], dtype=torch.float64)
NEGATIVE = torch.tensor([1, 7, 4, 4, 0, 6])  # of them 6 and 7 are new
LOG_Q = torch.tensor([0.3, 0.1, 0.2, 0.2, 0.1, 0.05], dtype=torch.float64).log()
TARGET = torch.tensor([0, 1, 2, 3, 4, 6, 7])  # the last two are new
F64 = {"dtype": torch.float64}


def student(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """States, table and biases, which learn."""
    draw = torch.Generator().manual_seed(seed)
    first, second, third = (torch.randn(*s, generator=draw, **F64).requires_grad_() for s in ((T, 3), (V, 3), (V,)))
    return first, second, third


def taught(seed: int = 1) -> dict[str, Tensor]:
    """A teacher of another width, who knows the first U items."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {"teacher_TE": (T, 4), "teacher_table_UE": (U, 4), "teacher_bias_U": (U,)}
    return {name: torch.randn(*shape, generator=draw, **F64) for name, shape in shapes.items()}


def divergence(teacher_TC: Tensor, student_TC: Tensor, weight_T: Tensor, temperature: float) -> Tensor:
    """All logits at once, by autograd; −inf: not there."""
    log_p, log_q = (torch.log_softmax(x / temperature, dim=1) for x in (teacher_TC, student_TC))
    each = torch.where(log_p > -math.inf, log_p.exp() * (log_p - log_q), 0.0).sum(1)
    return temperature**2 * (weight_T * each).sum() / weight_T.sum()


def agree(ours: Tensor, theirs: Tensor, leaves: tuple[Tensor, ...]) -> None:
    """In value and gradients, of which 3 times are asked: the incoming gradient must reach the result."""
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-10)
    for a, b in zip(torch.autograd.grad(3 * ours, leaves), torch.autograd.grad(3 * theirs, leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def teacher_logits(of: dict[str, Tensor]) -> Tensor:
    return of["teacher_TE"] @ of["teacher_table_UE"].T + of["teacher_bias_U"]


@pytest.mark.parametrize("chunk", [1, 13, 1000])  # elements: one state, two, all at once
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("weighted", [False, True])
def test_values_and_gradients_are_autograds(
    monkeypatch: pytest.MonkeyPatch, chunk: int, temperature: float, weighted: bool
) -> None:
    monkeypatch.setattr(softmax, "CHUNK_ELEMENTS", chunk)
    leaves, of, weight = student(), taught(), WEIGHTS if weighted else None
    state, table, bias = leaves
    ours = distil(state, table, bias, **of, weight_T=weight, temperature=temperature, **F64)
    logits = (state @ table.T + bias)[:, :U]
    theirs = divergence(teacher_logits(of), logits, WEIGHTS if weighted else torch.ones(T), temperature)
    agree(ours, theirs, leaves)


def test_by_hand() -> None:
    """The teacher's scores ln 3 and 0 are ¾ and ¼; the student's 0 and 0 are ½ and ½; a third item is new."""
    state, one = torch.ones(1, 1), torch.ones(1, 1)
    loss = distil(
        state,
        torch.tensor([[0.0], [0.0], [9.0]]),
        torch.zeros(3),
        teacher_TE=one,
        teacher_table_UE=torch.tensor([[math.log(3)], [0.0]]),
        teacher_bias_U=torch.zeros(2),
    )
    assert loss.item() == pytest.approx(0.75 * math.log(3 / 2) + 0.25 * math.log(1 / 2))


def sampled_logits(of: dict[str, Tensor], leaves: tuple[Tensor, ...], temperature: float) -> tuple[Tensor, Tensor]:
    """Teacher's and student's logits of the old negatives and, last, of the target; −inf where it is not there."""
    state, table, bias = leaves
    old = NEGATIVE < U
    shift = temperature * (LOG_Q[old] + math.log(len(NEGATIVE)))
    twice = (NEGATIVE[old][None] == TARGET[:, None]) | torch.zeros(T, 1, dtype=torch.bool)
    new = torch.where(TARGET < U, 0.0, -math.inf)[:, None]
    found = []
    for all_TV in (teacher_logits(of), state @ table.T + bias):
        own = all_TV[torch.arange(T), TARGET.clamp(max=all_TV.shape[1] - 1)][:, None] + new
        found.append(torch.cat([(all_TV[:, NEGATIVE[old]] - shift).masked_fill(twice, -math.inf), own], dim=1))
    return found[0], found[1]


@pytest.mark.parametrize("chunk", [1, 11, 1000])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_sampled_gradients_are_autograds(monkeypatch: pytest.MonkeyPatch, chunk: int, temperature: float) -> None:
    monkeypatch.setattr(softmax, "CHUNK_ELEMENTS", chunk)
    leaves, of = student(), taught()
    more: dict[str, Any] = {"negative_S": NEGATIVE, "log_q_S": LOG_Q, "weight_T": WEIGHTS}
    ours = sampled_distil(*leaves, TARGET, **of, **more, temperature=temperature, **F64)
    p, q = sampled_logits(of, leaves, temperature)
    agree(ours, divergence(p, q.masked_fill(p == -math.inf, -1e30), WEIGHTS, temperature), leaves)


def test_many_negatives_give_the_whole() -> None:
    q = torch.tensor([0.2, 0.25, 0.15, 0.1, 0.05, 0.05, 0.1, 0.1], **F64)
    draws = torch.multinomial(q, 300_000, replacement=True, generator=torch.Generator().manual_seed(1))
    leaves, of = student(), taught()
    sampled = sampled_distil(*leaves, TARGET, **of, negative_S=draws, log_q_S=q.log()[draws], temperature=2.0, **F64)
    assert sampled.item() == pytest.approx(distil(*leaves, **of, temperature=2.0, **F64).item(), rel=0.02)


def test_without_an_old_negative_there_is_nothing_to_keep() -> None:
    leaves = student()
    new = {"negative_S": torch.tensor([6, 7]), "log_q_S": torch.zeros(2, **F64)}
    loss = sampled_distil(*leaves, TARGET, **taught(), **new, **F64)
    assert loss.item() == 0
    assert all(g is None or not g.any() for g in torch.autograd.grad(loss, leaves, allow_unused=True))


@given(st.integers(0, 10_000), st.floats(0.2, 5), st.floats(-30, 30))
@settings(max_examples=40, deadline=None)
def test_laws(seed: int, temperature: float, new_bias: float) -> None:
    """Never below 0; 0 for the teacher itself; a new item's score changes nothing and is not changed."""
    (state, table, bias), of = student(seed), taught(seed + 1)
    loss = distil(state, table, bias, **of, temperature=temperature, **F64)
    assert loss.item() >= -1e-12
    moved = bias.detach().clone()
    moved[U:] = new_bias
    assert distil(state, table, moved, **of, temperature=temperature, **F64).item() == loss.item()
    grad_table, grad_bias = torch.autograd.grad(loss, (table, bias))
    assert not grad_table[U:].any()
    assert not grad_bias[U:].any()
    itself = {"teacher_TE": state.detach(), "teacher_table_UE": table.detach()[:U], "teacher_bias_U": bias.detach()[:U]}
    assert distil(state, table, bias, **itself, temperature=temperature, **F64).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("sampled", [False, True])
def test_bfloat16_is_near(sampled: bool) -> None:
    """Eight bits of each side's logits: the loss within 2 %, the states' gradient's direction too (cosine)."""
    draw = torch.Generator().manual_seed(3)
    state, table, bias, one, two, three = (
        torch.randn(*shape, generator=draw) for shape in ((64, 8), (50, 8), (50,), (64, 8), (40, 8), (40,))
    )
    state.requires_grad_()
    more: dict[str, Any] = {"teacher_TE": one, "teacher_table_UE": two, "teacher_bias_U": three}
    loss: Callable[..., Tensor] = distil
    if sampled:
        more |= {"target_T": torch.arange(64) % 50, "negative_S": torch.arange(0, 50, 2)}
        more["log_q_S"] = torch.full((25,), -math.log(50))
        loss = sampled_distil
    exact, rough = (loss(state, table, bias, **more, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert rough.item() == pytest.approx(exact.item(), rel=2e-2)
    assert rough.dtype is torch.float32
    a, b = torch.autograd.grad(exact, state)[0], torch.autograd.grad(rough, state)[0]
    assert functional.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.98


def test_a_teacher_of_more_items_is_refused() -> None:
    state, table, bias = student()
    with pytest.raises(ValueError, match="6 items for a student of 4"):
        distil(state, table[:4], bias[:4], **taught())


def told(teacher: Teacher, learner: Ranker, batch: Batch, **chosen: Any) -> Tensor:
    states = learner.encode(batch.row_N, batch.behaviour_N, batch.age_N, batch.place_N, groups=batch.groups)
    chosen = {"negatives": None, "dtype": torch.float32, "catalogue": learner.catalogue()} | chosen
    return teacher.loss(batch, states[batch.at_T], **chosen)


@pytest.fixture
def batch(batch_of: BatchOf) -> Batch:
    return batch_of([3, 1, 13], [13, 14, 2, 5])  # 13 and 14 are new


@pytest.fixture
def learner(fitted: Fitted) -> Ranker:
    walk = np.array([1, 2, 13, 3, 13, 5, 14])
    return grow(fitted.ranker, items=14, row_N=walk, user_N=np.zeros(7, dtype=np.int64), modalities={})


def test_the_champion_agrees_with_itself(fitted: Fitted, batch_of: BatchOf) -> None:
    teacher = Teacher(fitted.ranker, weight=1.0)
    assert told(teacher, fitted.ranker, batch_of([3, 1, 2], [5, 6, 7, 8])).item() == pytest.approx(0, abs=1e-6)


def test_grown_with_the_student_it_agrees_at_first(fitted: Fitted, learner: Ranker, batch: Batch) -> None:
    """New items in the windows are then what they start from; the champion itself sees them masked, and differs."""
    assert told(Teacher(learner, weight=1.0, items=12), learner, batch).item() == pytest.approx(0, abs=1e-6)
    assert told(Teacher(fitted.ranker, weight=1.0), learner, batch).item() > 1e-4


def test_it_sees_no_item_that_it_does_not_know(fitted: Fitted, learner: Ranker, batch_of: BatchOf) -> None:
    """Which of the new items it is makes no difference to the teacher, nor are they told to it as padding."""
    teacher = Teacher(fitted.ranker, weight=1.0)
    states = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    found = [
        teacher.loss(batch_of([3, new, 4]), states, learner.catalogue(), negatives=None, dtype=torch.float32).item()
        for new in (13, 14, 0)
    ]
    assert found[0] == found[1] != found[2]


def test_it_neither_learns_nor_moves(fitted: Fitted, learner: Ranker, batch: Batch) -> None:
    before = fitted.digest
    told(Teacher(fitted.ranker, weight=1.0), learner, batch).backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is None for weight in fitted.ranker.parameters())
    assert learner.item_bias.grad is not None
    assert fitted.digest == before


def test_by_rows_is_the_same(fitted: Fitted, learner: Ranker, batch: Batch) -> None:
    """A catalogue of the rows asked for gives what the whole gives; `weight` multiplies."""
    column_S = torch.tensor([0, 3, 3, 8, 12])
    log_q_S = torch.tensor([0.2, 0.1, 0.1, 0.05, 0.1]).log()
    teacher = Teacher(fitted.ranker, weight=2.0)
    whole = told(teacher, learner, batch, negatives=Negatives(column_S, log_q_S))
    row_R = torch.unique(torch.cat([batch.target_T, column_S + 1]))
    few = Negatives(torch.searchsorted(row_R, column_S + 1), log_q_S)
    some = told(teacher, learner, batch, negatives=few, catalogue=learner.catalogue_rows(row_R), row_R=row_R)
    assert some.item() == pytest.approx(whole.item(), rel=1e-5)
    assert whole.item() == pytest.approx(
        2 * told(Teacher(fitted.ranker, weight=1.0), learner, batch, negatives=Negatives(column_S, log_q_S)).item()
    )


@pytest.mark.parametrize("chosen", [{"weight": -1.0}, {"weight": math.nan}, {"weight": 1.0, "temperature": 0.0}])
def test_nonsense_is_refused(fitted: Fitted, chosen: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="distillation"):
        Teacher(fitted.ranker, **chosen)


def test_adaptive_weight() -> None:
    """√(81/100 · 400/900) = .9 · ⅔"""
    assert adaptive_weight(2.0, old_items=81, items=100, new_events=900, replayed_events=400) == pytest.approx(1.2)
    assert adaptive_weight(2.0, old_items=5, items=5, new_events=9, replayed_events=0) == 0
    with pytest.raises(ValueError, match="0 of 5 items"):
        adaptive_weight(2.0, old_items=0, items=5, new_events=9, replayed_events=1)
