import math

import numpy as np
import pytest

from model.metrics.intervals import difference_interval, mean_intervals, share_interval
from model.metrics.lists import coverage, exposures, gini


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


def test_rows_that_do_not_define_a_metric_count_in_neither_sum() -> None:
    """Metric x has a row of user 0 with 1 and one of user 1 with 0; its other rows say nothing, and y has no row."""
    user_R = np.array([0, 0, 1, 1, 1])
    nan = math.nan
    values = {"x": np.array([1, nan, nan, 0, nan]), "y": np.full(5, nan)}
    assert mean_intervals(values, user_R=user_R) == {"x": (0.0, 1.0)}  # a draw is 1/1, 1/2 or 0/1
    assert mean_intervals({"x": values["x"]}, user_R=user_R, level=0.4)["x"] == (1 / 2, 1 / 2)
    assert mean_intervals({}, user_R=user_R) == {}


def test_the_metrics_share_their_draws_and_the_order_of_the_rows_is_nothing() -> None:
    rng = np.random.default_rng(1)
    user_R, value_R = rng.integers(0, 40, 300), rng.random(300)
    found = mean_intervals({"x": value_R, "twice": 2 * value_R}, user_R=user_R)
    assert found["twice"] == pytest.approx((2 * found["x"][0], 2 * found["x"][1]))
    order = rng.permutation(300)
    assert mean_intervals({"x": value_R[order]}, user_R=user_R[order])["x"] == pytest.approx(found["x"])
    assert found["x"][0] < value_R.mean() < found["x"][1]


def test_jackknife_by_hand() -> None:
    """Users with shares 0, 0 and 0.6: left out one by one the means are .3, .3, 0; their mean is .2.

    Variance 2/3 · (.1² + .1² + .2²) = .04, the variance of a mean of three: ((.2² + .2² + .4²)/2)/3. So .2 ± .2 · 1.96.
    """
    value_R = np.array([0.0, 0.0, 0.6])
    low, high = share_interval(lambda in_R: float(value_R[in_R].mean()), user_R=np.array([4, 5, 6]))
    assert (low, high) == (0.0, pytest.approx(0.2 + 1.959964 * 0.2))  # never below 0
    assert share_interval(lambda in_R: 0.5, user_R=np.array([1, 1])) == (0.5, 0.5)


def test_coverage_and_gini_are_within_reach_of_other_users() -> None:
    """Lists of 5 of 120 items by popularity and taste, 60 users: nearly all intervals hold what such users give.

    The bootstrap's draws would cover much less than the 60 users, as they hold 38 of them on average.
    """
    rng = np.random.default_rng(2)
    popular = -np.log(np.arange(1, 121))
    lists = [np.argsort(-(popular + rng.gumbel(size=(60, 120))), axis=1)[:, :5] for _ in range(60)]
    user_R = np.arange(60)
    for metric in (coverage, gini):
        values = [metric(exposures(each, items=120)) for each in lists]
        truth = float(np.mean(values))
        found = [
            share_interval(lambda in_R, e=each, m=metric: m(exposures(e[in_R], items=120)), user_R=user_R)  # type: ignore[misc]
            for each in lists
        ]
        assert np.mean([low <= truth <= high for low, high in found]) >= 0.9
        assert np.mean([high - low for low, high in found]) <= 3 * 2 * 1.96 * np.std(values)
