"""Off-policy estimates: worked by hand, held to the truth of simulated logs, and refused where there is no overlap."""

import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from gate.off_policy import Estimator, OffPolicy, RewardModel, cross_fitted, evaluate_policy

LOG: dict[str, Any] = {
    "reward_N": [1.0, 0.0, 1.0, 0.0],
    "target_N": [0.5, 0.5, 0.25, 0.75],
    "propensity_N": [0.5, 0.5, 0.5, 0.5],
}


def test_three_estimators_by_hand() -> None:
    """Weights 1, 1, ½, 1½; their sum is 4, so that IPS and SNIPS agree here."""
    found = evaluate_policy(**LOG, model=RewardModel([0.5] * 4, [0.5] * 4))
    ips = (1 * 1 + 1 * 0 + 0.5 * 1 + 1.5 * 0) / 4
    assert found.value(Estimator.IPS).value == pytest.approx(ips)
    assert found.value(Estimator.SNIPS).value == pytest.approx(1.5 / (1 + 1 + 0.5 + 1.5))
    terms = [0.5 + 1 * 0.5, 0.5 - 1 * 0.5, 0.5 + 0.5 * 0.5, 0.5 - 1.5 * 0.5]
    assert found.value(Estimator.DR).value == pytest.approx(sum(terms) / 4)
    # u = w·r − V: 1 − .375, −.375, .5 − .375, −.375; SE² = 4/3 · Σu² / 4²
    squares = 0.625**2 + 0.375**2 + 0.125**2 + 0.375**2
    assert found.value(Estimator.IPS).standard_error == pytest.approx(math.sqrt(4 / 3 * squares) / 4)
    # (1 + 1 + ½ + 1½)² / (1 + 1 + ¼ + 2¼) = 16 / 4.5
    assert found.overlap.effective == pytest.approx(16 / 4.5)
    assert found.overlap.largest_weight == 1.5


def test_intervals_hold_jointly_over_what_is_reported() -> None:
    alone = evaluate_policy(**LOG).value(Estimator.SNIPS)
    among_six = evaluate_policy(**LOG, jointly=6).value(Estimator.SNIPS)
    assert (alone.upper - alone.value) / alone.standard_error == pytest.approx(student.ppf(1 - 0.05 / 4, 3))
    assert (among_six.upper - among_six.value) / among_six.standard_error == pytest.approx(
        student.ppf(1 - 0.05 / 12, 3)
    )


def test_errors_are_of_users() -> None:
    """Every row four times over tells nothing new: errors as of the distinct rows, once a user is told."""
    once = evaluate_policy(**LOG)
    times: dict[str, Any] = {name: np.repeat(column, 4) for name, column in LOG.items()}
    users = evaluate_policy(**times, cluster_N=np.repeat(["ä", "b", "c", "d"], 4))
    rows = evaluate_policy(**times)
    for kind in (Estimator.IPS, Estimator.SNIPS):
        assert users.value(kind).value == pytest.approx(once.value(kind).value)
        assert users.value(kind).standard_error == pytest.approx(once.value(kind).standard_error)
        assert rows.value(kind).standard_error < 0.5 * users.value(kind).standard_error
    assert users.overlap.clusters == 4


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0.3, 1.0), st.integers(0, 5)), min_size=4, max_size=40),
    st.randoms(use_true_random=False),
)
def test_the_logging_policy_is_worth_the_mean_reward(
    rows: list[tuple[bool, float, int]], chance: random.Random
) -> None:
    """With the target equal to the logging policy all weights are 1: all estimators give the mean, in any row order."""
    reward, propensity, user = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    found = evaluate_policy(reward_N=reward, target_N=propensity, propensity_N=propensity, cluster_N=user)
    assert found.overlap.share == pytest.approx(1)
    assert found.overlap.mean_weight == pytest.approx(1)
    if len(set(user)) < 2 or not reward.any():
        assert found.refused
        assert not found.values
        return
    order = list(range(len(rows)))
    chance.shuffle(order)
    again = evaluate_policy(
        reward_N=reward[order], target_N=propensity[order], propensity_N=propensity[order], cluster_N=user[order]
    )
    for kind in (Estimator.IPS, Estimator.SNIPS):
        assert found.value(kind).value == pytest.approx(reward.mean())
        assert again.value(kind).standard_error == pytest.approx(found.value(kind).standard_error)


@given(st.lists(st.tuples(st.floats(-3, 7), st.floats(0.01, 1), st.floats(0.01, 1)), min_size=2, max_size=30))
def test_snips_stays_within_the_rewards(rows: list[tuple[float, float, float]]) -> None:
    reward, target, propensity = (np.array(column) for column in zip(*rows, strict=True))
    found = evaluate_policy(reward_N=reward, target_N=target, propensity_N=propensity)
    if not found.refused:
        assert reward.min() - 1e-9 <= found.value(Estimator.SNIPS).value <= reward.max() + 1e-9


def _logged(seed: int, *, users: int = 400, actions: int = 5) -> tuple[OffPolicy, float]:
    """ε-greedy over five actions with users of different taste; the target swaps the order of two of them."""
    chance = np.random.default_rng(seed)
    rates = np.array([0.30, 0.25, 0.15, 0.10, 0.05])
    logging, target = np.full(actions, 0.15), np.full(actions, 0.15)
    logging[0], target[1] = 0.4, 0.4
    visits = chance.integers(1, 6, size=users)
    user = np.repeat(np.arange(users), visits)
    taste = np.repeat(chance.choice([0.5, 1.5], size=users), visits)
    action = chance.choice(actions, size=len(user), p=logging)
    reward = (chance.random(len(user)) < taste * rates[action]).astype(float)

    def fit(train: np.ndarray[Any, Any]) -> RewardModel:
        means = np.array([reward[train & (action == each)].mean() for each in range(actions)])
        return RewardModel(means[action], np.full(len(user), target @ means))

    model = cross_fitted(fit, cluster_N=user, seed=seed)
    found = evaluate_policy(
        reward_N=reward, target_N=target[action], propensity_N=logging[action], cluster_N=user, model=model
    )
    return found, float(target @ rates)


def test_the_truth_lies_in_the_joint_interval_as_often_as_stated() -> None:
    """500 logs: all three intervals hold the truth at once in at least 95 % − 3 SE; no estimator is off on average."""
    runs = [_logged(seed) for seed in range(500)]
    assert not any(found.refused for found, _ in runs)
    held = [all(each.lower <= truth <= each.upper for each in found.values) for found, truth in runs]
    assert np.mean(held) >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / len(runs))
    truth = runs[0][1]
    for kind in Estimator:
        values = np.array([found.value(kind).value for found, _ in runs])
        errors = np.array([found.value(kind).standard_error for found, _ in runs])
        assert abs(values.mean() - truth) <= 3 * values.std() / math.sqrt(len(runs)) + 2e-4
        assert errors.mean() == pytest.approx(values.std(), rel=0.1)


def test_a_reward_model_that_knows_the_truth_makes_dr_the_most_exact() -> None:
    chance = np.random.default_rng(3)
    action = chance.choice(2, size=4_000, p=[0.7, 0.3])
    rate = np.array([0.1, 0.6])
    reward = (chance.random(4_000) < rate[action]).astype(float)
    found = evaluate_policy(
        reward_N=reward,
        target_N=np.array([0.3, 0.7])[action],
        propensity_N=np.array([0.7, 0.3])[action],
        model=RewardModel(rate[action], np.full(4_000, 0.3 * 0.1 + 0.7 * 0.6)),
    )
    assert found.value(Estimator.DR).standard_error < found.value(Estimator.IPS).standard_error


def test_poor_overlap_is_refused() -> None:
    """One row in a hundred carries all the weight: effective 1/100, mean weight .9/.1/100 … the numbers are named."""
    target, reward = np.zeros(100), np.ones(100)
    target[0] = 1.0
    found = evaluate_policy(reward_N=reward, target_N=target, propensity_N=np.full(100, 0.01))
    assert found.overlap.share == pytest.approx(0.01)
    assert found.overlap.mean_weight == pytest.approx(1.0)
    assert found.refused
    assert not found.values
    assert "1.0% of them" in found.reasons[0]
    with pytest.raises(KeyError, match="seldom does"):
        found.value(Estimator.IPS)


@pytest.mark.parametrize(("factor", "refused"), [(0.89, True), (0.91, False), (1.09, False), (1.11, True)])
def test_a_mean_weight_off_1_is_refused(factor: float, refused: bool) -> None:
    """Propensities that are wrong by 11 %, though every row weighs the same."""
    propensity = np.full(50, 0.5 / factor)
    found = evaluate_policy(reward_N=np.arange(50) % 2, target_N=np.full(50, 0.5), propensity_N=propensity)
    assert found.refused is refused
    assert not refused or "mean weight" in found.reasons[0]


def test_without_a_weighted_outcome_there_is_no_answer() -> None:
    found = evaluate_policy(reward_N=np.zeros(9), target_N=np.ones(9), propensity_N=np.ones(9))
    assert found.reasons == ("none of the 9 rows has an outcome on an action that the target would take",)
    alone = evaluate_policy(reward_N=[1, 0], target_N=[1, 1], propensity_N=[1, 1], cluster_N=["u", "u"])
    assert "one user" in alone.reasons[0]
    assert alone.as_json()["refused"] is True


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"propensity_N": [0.5, 0.0, 0.5, 0.5]}, "propensity_N holds 0.0"),
        ({"propensity_N": [0.5, 1.5, 0.5, 0.5]}, "propensity_N holds 1.5"),
        ({"target_N": [0.5, -0.1, 0.5, 0.5]}, "target_N holds -0.1"),
        ({"reward_N": [1.0, math.nan, 0.0, 0.0]}, "reward_N holds a number that is not finite, first at row 1"),
        ({"reward_N": [], "target_N": [], "propensity_N": []}, "no logged rows"),
        ({"target_N": [0.5]}, "pass one number for each of the 4 rows"),
        ({"cluster_N": ["a"]}, "cluster_N has 1 entries"),
        ({"model": RewardModel([1.0], [1.0])}, "model.logged_N has shape"),
    ],
)
def test_a_log_that_cannot_be_is_refused(changed: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        evaluate_policy(**{**LOG, **changed})


def test_no_row_is_predicted_by_a_model_that_saw_its_user() -> None:
    cluster = np.repeat(np.arange(7), 3)
    seen: list[np.ndarray[Any, Any]] = []

    def fit(train: np.ndarray[Any, Any]) -> RewardModel:
        seen.append(train)
        return RewardModel(np.where(train, 1.0, 0.0), np.where(train, 1.0, 0.0))  # 1 where it learned from the row

    found = cross_fitted(fit, cluster_N=cluster, folds=3)
    assert not np.asarray(found.logged_N).any()
    assert not np.asarray(found.target_N).any()
    assert len(seen) == 3
    assert all(len({bool(value) for value in train[cluster == each]}) == 1 for train in seen for each in range(7))
    with pytest.raises(ValueError, match="two clusters"):
        cross_fitted(fit, cluster_N=["a", "a"])
