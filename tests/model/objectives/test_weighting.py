import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.objectives.weighting import HOUR_US, Activity, bot_weight, ips_weight, measure_activity
from relations.errors import DataRejected


def test_ips_by_hand() -> None:
    propensity = np.array([0.5, 0.1, np.nan, 0.01])
    plain = ips_weight(propensity, clip=20, self_normalised=False)
    np.testing.assert_allclose(plain, [2, 10, 1, 20])  # 1/.01 = 100 is clipped
    np.testing.assert_allclose(ips_weight(propensity, clip=20), [6 / 32, 30 / 32, 1, 60 / 32], rtol=1e-6)  # /(32/3)


def test_ips_is_unbiased_and_the_self_normalised_mean_stays_in_range() -> None:
    """Items shown with p = .8 and .2, their losses 1 and 3: the plain mean is 1.4, under uniform exposure 2."""
    rng = np.random.default_rng(0)
    second = rng.random(40_000) < 0.2
    propensity, loss = np.where(second, 0.2, 0.8), np.where(second, 3.0, 1.0)
    weight = ips_weight(propensity, clip=100, self_normalised=False) / 2  # 2 items: a uniform policy has ½
    assert np.mean(weight * loss) == pytest.approx(2, rel=0.02)
    normed = ips_weight(propensity, clip=100)
    assert np.mean(normed * loss) == pytest.approx(2, rel=0.02)
    assert normed.mean() == pytest.approx(1, rel=1e-5)


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=30), st.floats(1, 100))
def test_ips_weights_are_bounded_and_fall_with_the_propensity(values: list[float], clip: float) -> None:
    propensity = np.sort(np.array(values))
    weight = ips_weight(propensity, clip=clip, self_normalised=False)
    assert (weight <= np.float32(clip)).all()
    assert (weight >= 1).all()
    assert (np.diff(weight) <= 0).all()


@pytest.mark.parametrize("bad", [0.0, -0.1, 1.5, math.inf])
def test_an_impossible_propensity_is_named(bad: float) -> None:
    with pytest.raises(DataRejected, match=r"propensity .* of row 1"):
        ips_weight(np.array([0.5, bad]), clip=10)


def test_activity_by_hand() -> None:
    """User 0: 4 events in 2 hours on items a, a, a, b; user 1: one event; user 2: 3 different items at once."""
    time = np.array([0, 1, 1, 2, 7, 0, 0, 0]) * HOUR_US
    item = np.array([0, 0, 0, 1, 0, 0, 1, 2])
    activity = measure_activity(item, time, np.array([0, 4, 5, 8]))
    np.testing.assert_allclose(activity.rate_U, [2, 1, 3])  # 4/2 h; 1 and 3 over at least an hour
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(4)
    np.testing.assert_allclose(activity.entropy_U, [entropy, 1, 1])
    nobody = measure_activity(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(1, np.int64))
    assert len(bot_weight(nobody, threshold=3)) == 0


def test_bots_weigh_less_and_people_all_the_same() -> None:
    rng = np.random.default_rng(1)
    rate, entropy = np.exp(rng.normal(0, 0.5, 500)), rng.uniform(0.7, 1.0, 500)
    rate[0], entropy[1] = 1e4, 0.0  # one too fast, one that repeats one item
    rate[2], events = 1e4, np.full(500, 50)
    events[2] = 19  # fast, but of too few events to be judged
    weight = bot_weight(Activity(events, rate, entropy), threshold=4)
    assert weight[0] < 0.3
    assert weight[1] < 0.9
    assert weight[2] == 1
    assert (weight[3:] == 1).all()


def test_huber_weights_by_hand() -> None:
    """Log rates 0, 1, 2, 3, 12: median 2, MAD 1, so z of the last is 10/1.4826 and its weight 3 over that."""
    activity = Activity(np.full(5, 50), np.exp([0.0, 1.0, 2.0, 3.0, 12.0]), np.ones(5))
    np.testing.assert_allclose(bot_weight(activity, threshold=3), [1, 1, 1, 1, 3 * 1.4826 / 10], rtol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 2, 30])
def test_equal_users_all_weigh_one(count: int) -> None:
    activity = Activity(np.full(count, 50), np.full(count, 2.0), np.full(count, 0.5))
    assert (bot_weight(activity, threshold=3) == 1).all()


def test_a_lone_outlier_among_ties_is_found() -> None:
    rate = np.full(100, 2.0)
    rate[7] = 2e4
    weight = bot_weight(Activity(np.full(100, 50), rate, np.ones(100)), threshold=3)
    assert weight[7] < 0.1  # the MAD is 0: mean deviation ln(1e4)/100, z = 100/1.2533
    assert (np.delete(weight, 7) == 1).all()
