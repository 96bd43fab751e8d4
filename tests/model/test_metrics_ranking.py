import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model.metrics.ranking import (
    average_precision,
    best_rank,
    f1,
    hit_rate,
    mean_auc,
    ndcg,
    precision,
    recall,
    reciprocal_rank,
    standing,
)

SCORES = arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 9)), elements=st.integers(-3, 3))
AT_K: tuple[Callable[..., np.ndarray], ...] = (ndcg, hit_rate, recall, precision, f1, average_precision)


def test_ranks_by_hand() -> None:
    scores = np.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.2, 0.2, 0.2]])
    assert standing(scores, np.array([0, 2, 1])).rank_P.tolist() == [1, 3, 3]  # a tie of three: the target is last
    assert standing(scores, np.array([-1, 2, -1])).rank_P.tolist() == [0, 3, 0]
    excluded = np.array([[False, True, False], [True, True, False], [False, False, True]])
    assert standing(scores, np.array([2, 2, 1]), excluded_RV=excluded).rank_P.tolist() == [2, 1, 2]


def test_ranks_of_a_set_by_hand() -> None:
    """Row 0: scores 9 8 8 8 5 with relevant columns 1, 2, 4. Irrelevant are 9 and one 8.

    Of the three 8s the irrelevant one goes first (place 2), so the relevant ones have 3 and 4, and 5 is last. Row 1
    has the one relevant column 0. AUC of an 8: behind it none of two, one tie, (0 + ½)/2; of the 5: 0; of row 1: 4/4.
    """
    scores = np.array([[9.0, 8, 8, 8, 5], [5, 4, 3, 2, 1]])
    found = standing(scores, np.array([1, 2, 4, 0]), row_P=np.array([0, 0, 0, 1]))
    assert sorted(found.rank_P[:3].tolist()) == [3, 4, 5]
    assert found.rank_P[2:].tolist() == [5, 1]
    assert found.auc_P.tolist() == [1 / 4, 1 / 4, 0, 1]
    assert mean_auc(found.auc_P, row_P=np.array([0, 0, 0, 1])).tolist() == pytest.approx([(1 / 4 + 1 / 4 + 0) / 3, 1])


def test_a_target_is_ranked_even_if_excluded() -> None:
    found = standing(np.array([[3.0, 2.0, 1.0]]), np.array([1]), excluded_RV=np.array([[True, True, False]]))
    assert (found.rank_P.tolist(), found.auc_P.tolist()) == ([1], [1])


def test_what_is_no_number_comes_first_for_others_and_last_for_the_target() -> None:
    scores = np.array([[math.nan, 1.0, 0.0], [math.nan, 1.0, 0.0]])
    found = standing(scores, np.array([1, 0]))
    assert found.rank_P.tolist() == [2, 3]
    assert found.auc_P.tolist() == [1 / 2, 0]  # the NaN before it, the 0 behind it; then both before the NaN
    both = standing(scores[:1], np.array([0, 2]), row_P=np.array([0, 0]))
    assert both.rank_P.tolist() == [3, 2]


def test_auc_by_hand() -> None:
    scores = np.array([[5.0, 4, 3, 2, 1], [5, 5, 5, 2, 1], [1, 1, 1, 1, 1]])
    # 3 of 4 behind; of 4 others 2 behind and 2 ties; 4 ties
    assert standing(scores, np.array([1, 1, 1])).auc_P.tolist() == [3 / 4, (2 + 2 / 2) / 4, (4 / 2) / 4]
    assert standing(np.ones((1, 1)), np.array([0])).auc_P.tolist() == [1 / 2]  # nothing to tell it from
    assert standing(scores, np.array([-1, 1, -1])).auc_P.tolist() == [0, 3 / 4, 0]


def test_metrics_of_one_relevant_item_by_hand() -> None:
    rank_R = np.array([1, 2, 10, 11, 0])
    assert ndcg(rank_R, k=10).tolist() == pytest.approx([1, 1 / math.log2(3), 1 / math.log2(11), 0, 0])
    assert hit_rate(rank_R, k=10).tolist() == [1, 1, 1, 0, 0]
    assert recall(rank_R, k=10).tolist() == [1, 1, 1, 0, 0]
    assert precision(rank_R, k=10).tolist() == [1 / 10, 1 / 10, 1 / 10, 0, 0]
    assert f1(rank_R, k=10).tolist() == pytest.approx([2 / 11, 2 / 11, 2 / 11, 0, 0])  # 2 · 1 · (1/10) / (1 + 1/10)
    assert reciprocal_rank(rank_R).tolist() == pytest.approx([1, 1 / 2, 1 / 10, 1 / 11, 0])
    assert average_precision(rank_R, k=10).tolist() == pytest.approx([1, 1 / 2, 1 / 10, 0, 0])


def test_metrics_of_sets_by_hand() -> None:
    """k = 3. Row 0: five relevant items at ranks 4, 1, 3, 9 and unknown; row 1: one at 2; row 2: two, none in reach."""
    rank_P, row_P = np.array([4, 1, 3, 9, 0, 2, 8, 0]), np.array([0, 0, 0, 0, 0, 1, 2, 2])
    ideal = 1 + 1 / math.log2(3) + 1 / 2  # three places, all relevant
    found = {metric.__name__: metric(rank_P, k=3, row_P=row_P).tolist() for metric in AT_K}
    assert found["ndcg"] == pytest.approx([(1 + 1 / 2) / ideal, 1 / math.log2(3), 0])  # log2(1 + 3) = 2
    assert found["hit_rate"] == [1, 1, 0]
    assert found["recall"] == pytest.approx([2 / 5, 1, 0])
    assert found["precision"] == pytest.approx([2 / 3, 1 / 3, 0])
    assert found["f1"] == pytest.approx([2 * (2 / 3) * (2 / 5) / (2 / 3 + 2 / 5), 2 * (1 / 3) / (1 / 3 + 1), 0])
    assert found["average_precision"] == pytest.approx([(1 / 1 + 2 / 3) / 3, (1 / 2) / 1, 0])
    assert best_rank(rank_P, row_P=row_P).tolist() == [1, 2, 8]
    assert reciprocal_rank(rank_P, row_P=row_P).tolist() == [1, 1 / 2, 1 / 8]
    deep = average_precision(rank_P, k=20, row_P=row_P)
    assert deep[0] == pytest.approx((1 / 1 + 2 / 3 + 3 / 4 + 4 / 9) / 5)


def test_no_rows_no_values() -> None:
    none = np.zeros(0, dtype=np.int64)
    assert standing(np.zeros((0, 3)), none).rank_P.shape == (0,)
    assert all(metric(none, k=3).shape == (0,) for metric in AT_K)
    assert reciprocal_rank(none).shape == mean_auc(none).shape == (0,)


@settings(deadline=None, max_examples=60)
@given(scores=SCORES, data=st.data())
def test_laws_of_the_rank(scores: np.ndarray, data: st.DataObject) -> None:
    rows, items = scores.shape
    target = data.draw(arrays(np.int64, rows, elements=st.integers(-1, items - 1)), label="target")
    found = standing(scores, target)
    for k in (1, 5, 10):
        assert ((ndcg(found.rank_P, k=k) >= 0) & (ndcg(found.rank_P, k=k) <= 1)).all()
        assert (ndcg(found.rank_P, k=k) <= hit_rate(found.rank_P, k=k)).all()
    # blind to relabelling: the columns in another order, the target with them
    order = data.draw(st.permutations(range(items)), label="order")
    place = np.argsort(order)
    again = standing(scores[:, order], np.where(target >= 0, place[target], -1))
    assert again.rank_P.tolist() == found.rank_P.tolist()
    assert again.auc_P.tolist() == found.auc_P.tolist()
    # and to every rising function of the scores
    assert standing(np.exp(scores) + 7, target).rank_P.tolist() == found.rank_P.tolist()
    assert ((found.rank_P == 0) == (target < 0)).all()
    # of opposite models one gains what the other loses
    opposite = standing(-scores, target)
    assert (found.auc_P + opposite.auc_P).tolist() == pytest.approx(np.where(target < 0, 0, 1).tolist())


@st.composite
def sets(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores, excluded, and the relevant columns of each row, some unknown, at least one a row."""
    rows, items = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    values = st.one_of(st.integers(-3, 3).map(float), st.sampled_from([math.nan, math.inf, -math.inf]))
    scores = draw(arrays(np.float64, (rows, items), elements=values))
    excluded = draw(arrays(np.bool_, (rows, items)))
    relevant = [draw(st.sets(st.integers(0, items - 1), max_size=items)) for _ in range(rows)]
    column = [[*sorted(found), *([-1] * draw(st.integers(0 if found else 1, 2)))] for found in relevant]
    row_P = np.repeat(np.arange(rows), [len(found) for found in column])
    return scores, excluded, np.array([each for found in column for each in found]), row_P


def _slowly(scores: np.ndarray, excluded: np.ndarray, relevant: set[int]) -> tuple[list[int], list[float]]:
    """Ranks and AUCs of the relevant columns, in the order of the columns, from a sorted list."""
    items = [c for c in range(len(scores)) if c in relevant or not excluded[c]]
    # what is no number is the worst of the relevant and the best of the others; at a tie the others are first
    none = {c: (-1, 0.0) if c in relevant else (1, 0.0) for c in items}
    worth = {c: none[c] if math.isnan(scores[c]) else (0, float(scores[c])) for c in items}
    ranked = sorted(items, key=lambda c: (worth[c], c not in relevant), reverse=True)
    others = [c for c in items if c not in relevant]
    wins = {c: sum((worth[o] < worth[c]) + (scores[o] == scores[c]) / 2 for o in others) for c in relevant}
    return (
        [ranked.index(c) + 1 for c in sorted(relevant)],
        [wins[c] / len(others) if others else 0.5 for c in sorted(relevant)],
    )


@settings(deadline=None, max_examples=150)
@given(drawn=sets())
def test_a_slow_reference_agrees(drawn: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]) -> None:
    scores, excluded, column_P, row_P = drawn
    found = standing(scores, column_P, row_P=row_P, excluded_RV=excluded)
    values = {metric.__name__: metric(found.rank_P, k=3, row_P=row_P) for metric in AT_K}
    assert (found.rank_P[column_P < 0] == 0).all()
    assert (found.auc_P[column_P < 0] == 0).all()
    for row in range(len(scores)):
        mine = row_P == row
        known = mine & (column_P >= 0)
        ranks, aucs = _slowly(scores[row], excluded[row], set(column_P[known].tolist()))
        assert sorted(found.rank_P[known].tolist()) == sorted(ranks)  # ties among the relevant: in any order
        assert found.auc_P[known].tolist() == pytest.approx(aucs)
        n = int(mine.sum())
        hits = [rank for rank in sorted(ranks) if rank <= 3]
        assert values["hit_rate"][row] == min(1, len(hits))
        assert values["recall"][row] == pytest.approx(len(hits) / n)
        assert values["precision"][row] == pytest.approx(len(hits) / 3)
        both = values["precision"][row] + values["recall"][row]
        product = values["precision"][row] * values["recall"][row]
        assert values["f1"][row] == pytest.approx(2 * product / both if both else 0)
        gain = sum(1 / math.log2(1 + rank) for rank in hits)
        assert values["ndcg"][row] == pytest.approx(gain / sum(1 / math.log2(1 + r) for r in range(1, min(n, 3) + 1)))
        precisions = sum((place + 1) / rank for place, rank in enumerate(hits))
        assert values["average_precision"][row] == pytest.approx(precisions / min(n, 3))


@settings(deadline=None, max_examples=30)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5), k=st.integers(1, 6))
def test_a_perfect_model_has_one(sizes: list[int], k: int) -> None:
    """All relevant items at the top of eight: everything is 1, but precision, where there are fewer than k of them."""
    row_P = np.repeat(np.arange(len(sizes)), sizes)
    column_P = np.concatenate([np.arange(size) for size in sizes])
    found = standing(np.tile(-np.arange(8.0), (len(sizes), 1)), column_P, row_P=row_P)
    assert ndcg(found.rank_P, k=k, row_P=row_P).tolist() == pytest.approx([1] * len(sizes))
    assert average_precision(found.rank_P, k=k, row_P=row_P).tolist() == pytest.approx([1] * len(sizes))
    assert reciprocal_rank(found.rank_P, row_P=row_P).tolist() == [1] * len(sizes)
    assert mean_auc(found.auc_P, row_P=row_P).tolist() == pytest.approx([1] * len(sizes))
    assert precision(found.rank_P, k=k, row_P=row_P).tolist() == pytest.approx([min(k, n) / k for n in sizes])
    assert recall(found.rank_P, k=k, row_P=row_P).tolist() == pytest.approx([min(k, n) / n for n in sizes])


def test_a_flat_model_gets_nothing() -> None:
    """All items tie: 30 items, so no target is among the first ten, whichever column it has; its AUC is chance."""
    found = standing(np.zeros((30, 30)), np.arange(30))
    assert found.rank_P.tolist() == [30] * 30
    assert found.auc_P.tolist() == [1 / 2] * 30
