import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model.metrics.intervals import difference_interval
from model.metrics.ranking import hit_rate, ndcg, rank, reciprocal_rank

SCORES = arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 9)), elements=st.integers(-3, 3))


def test_ranks_by_hand() -> None:
    scores = np.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.2, 0.2, 0.2]])
    assert rank(scores, np.array([0, 2, 1])).tolist() == [1, 3, 3]  # a tie of three: the target is last
    assert rank(scores, np.array([-1, 2, -1])).tolist() == [0, 3, 0]
    excluded = np.array([[False, True, False], [True, True, False], [False, False, True]])
    assert rank(scores, np.array([2, 2, 1]), excluded_RV=excluded).tolist() == [2, 1, 2]


def test_a_target_is_ranked_even_if_excluded() -> None:
    assert rank(np.array([[3.0, 2.0, 1.0]]), np.array([1]), excluded_RV=np.array([[True, True, False]])).tolist() == [1]


def test_what_is_no_number_comes_first_for_others_and_last_for_the_target() -> None:
    scores = np.array([[math.nan, 1.0, 0.0], [math.nan, 1.0, 0.0]])
    assert rank(scores, np.array([1, 0])).tolist() == [2, 3]


def test_metrics_by_hand() -> None:
    rank_R = np.array([1, 2, 10, 11, 0])
    assert ndcg(rank_R, k=10).tolist() == pytest.approx([1, 1 / math.log2(3), 1 / math.log2(11), 0, 0])
    assert hit_rate(rank_R, k=10).tolist() == [1, 1, 1, 0, 0]
    assert reciprocal_rank(rank_R).tolist() == pytest.approx([1, 1 / 2, 1 / 10, 1 / 11, 0])


@settings(deadline=None, max_examples=60)
@given(scores=SCORES, data=st.data())
def test_laws_of_the_rank(scores: np.ndarray, data: st.DataObject) -> None:
    rows, items = scores.shape
    target = data.draw(arrays(np.int64, rows, elements=st.integers(-1, items - 1)), label="target")
    found = rank(scores, target)
    for k in (1, 5, 10):
        assert ((ndcg(found, k=k) >= 0) & (ndcg(found, k=k) <= 1)).all()
        assert (ndcg(found, k=k) <= hit_rate(found, k=k)).all()
    # blind to relabelling: the columns in another order, the target with them
    order = data.draw(st.permutations(range(items)), label="order")
    place = np.argsort(order)
    assert rank(scores[:, order], np.where(target >= 0, place[target], -1)).tolist() == found.tolist()
    # and to every rising function of the scores
    assert rank(np.exp(scores) + 7, target).tolist() == found.tolist()
    assert ((found == 0) == (target < 0)).all()


def test_a_flat_model_gets_nothing() -> None:
    """All items tie: 30 items, so no target is among the first ten, whichever column it has."""
    assert rank(np.zeros((30, 30)), np.arange(30)).tolist() == [30] * 30


def test_interval_by_hand() -> None:
    """Users with sums 1 and 0 over 1 and 3 rows: a draw is 1/1, 1/4 or 0/3, with chances ¼, ½, ¼."""
    ours, theirs, users = np.array([1.0, 0.5, 0.5, 0.5]), np.array([0.0, 0.5, 0.5, 0.5]), np.array([7, 9, 9, 9])
    found = difference_interval(ours, theirs, user_R=users, level=0.9)
    assert (found.difference, found.low, found.high, found.users) == (1 / 4, 0.0, 1.0, 2)
    half = difference_interval(ours, theirs, user_R=users, level=0.4)
    assert (half.low, half.high) == (1 / 4, 1 / 4)


def test_interval_covers_the_truth() -> None:
    """Of 200 samples of 150 users, whose rows share a user effect, about 95 % of the intervals cover 0.1."""
    rng = np.random.default_rng(0)
    user_R = np.repeat(np.arange(150), 4)
    covered = 0
    for _ in range(200):
        ours = 0.1 + rng.normal(0, 0.3, 150)[user_R] + rng.normal(0, 0.1, 600)
        found = difference_interval(ours, np.zeros(600), user_R=user_R, draws=200)
        covered += found.low <= 0.1 <= found.high
    assert 0.89 <= covered / 200 <= 0.99


def test_interval_needs_rows() -> None:
    none = np.zeros(0)
    with pytest.raises(ValueError, match="equally many rows"):
        difference_interval(none, none, user_R=none)
