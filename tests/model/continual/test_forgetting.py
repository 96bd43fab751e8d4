"""What counts as forgetting: more than the margin, and no accident."""

import numpy as np
import pytest

from model.continual.forgetting import CohortChange, measure_forgetting
from model.continual.judging import holds_offline
from model.evaluation import Evaluation

USERS = 50


def evaluation(ndcg_R: np.ndarray) -> Evaluation:
    """One row a user."""
    rows = np.arange(len(ndcg_R))
    return Evaluation(
        k=10,
        overall={"ndcg@10": float(ndcg_R.mean()) if len(ndcg_R) else 0.0},
        intervals={},
        by_behaviour={},
        by_slice={},
        rank_R=rows,
        ndcg_R=ndcg_R,
        user_R=rows,
        event_R=rows,
        recommended={},
    )


def change_of(before_R: np.ndarray, after_R: np.ndarray, **stated: int) -> CohortChange:
    (found,) = measure_forgetting(
        champion=evaluation(before_R),
        challenger=evaluation(after_R),
        cohort_R={"all": np.ones(len(before_R), dtype=bool)},
        margin=0.02,
        min_users=stated.get("min_users", 20),
    )
    return found


def test_a_clear_loss_is_a_breach() -> None:
    found = change_of(np.full(USERS, 0.5), np.full(USERS, 0.48))
    assert found.change == pytest.approx(-0.04)  # (.48 − .5) / .5
    assert found.breach
    assert found.verdict(k=10, margin=0.02).startswith(
        "forgetting: ndcg@10 of all 0.5000 → 0.4800, -4.0% [-4.0%, -4.0%]"
    )


def test_a_loss_within_the_margin_is_none() -> None:
    assert not change_of(np.full(USERS, 0.5), np.full(USERS, 0.495)).breach  # −1 %


def test_an_accident_is_none() -> None:
    """−10 % on average, but half of the users gain: standard error √(Σ…) as large as the loss."""
    after_R = np.where(np.arange(USERS) % 2, 1.0, -0.1)
    found = change_of(np.full(USERS, 0.5), after_R)
    assert found.change == pytest.approx(-0.1)  # (.45 − .5) / .5
    assert found.low < -0.02 < 0 < found.high
    assert not found.breach


def test_too_few_users_say_nothing() -> None:
    found = change_of(np.full(19, 0.5), np.zeros(19))
    assert (found.judged, found.breach, found.said) == (False, False, "too few to tell")
    assert not change_of(np.full(1, 0.5), np.zeros(1), min_users=1).judged  # one user has no interval
    assert not change_of(np.zeros(USERS), np.zeros(USERS)).judged  # nothing to lose


def test_the_champion_against_itself_forgets_nothing() -> None:
    ndcg_R = np.random.default_rng(0).random(USERS)
    found = change_of(ndcg_R, ndcg_R)
    assert (found.change, found.low, found.high, found.breach) == (0.0, 0.0, 0.0, False)


def test_cohorts_that_would_give_somebody_away_are_absent() -> None:
    half = np.full(10, 0.5)
    rows = np.arange(10)
    found = measure_forgetting(
        champion=evaluation(half),
        challenger=evaluation(half),
        cohort_R={"all": rows >= 0, "few": rows < 2, "all but few": rows >= 2, "most": rows < 5, "none": rows < 0},
        margin=0.02,
        min_users=2,
        hide_below=5,
    )
    assert [change.cohort for change in found] == ["all", "most"]


def test_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="one holdout"):
        measure_forgetting(
            champion=evaluation(np.ones(3)), challenger=evaluation(np.ones(4)), cohort_R={}, margin=0.0, min_users=1
        )


def test_the_offline_check_forgives_accidents_only() -> None:
    champion = evaluation(np.full(USERS, 0.5))
    assert not holds_offline(evaluation(np.full(USERS, 0.48)), champion, tolerance=0.02)
    assert holds_offline(evaluation(np.full(USERS, 0.495)), champion, tolerance=0.02)
    assert holds_offline(evaluation(np.where(np.arange(USERS) % 2, 1.0, -0.1)), champion, tolerance=0.02)
    assert not holds_offline(evaluation(np.zeros(0)), evaluation(np.zeros(0)), tolerance=0.02)
