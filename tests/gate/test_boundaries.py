from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from gate.boundaries import MAX_Z, Spending, boundaries, crossing_probability, spent

FIVE = (0.2, 0.4, 0.6, 0.8, 1.0)


@pytest.mark.parametrize(
    ("spending", "expected"),
    [
        (Spending.OBF, (4.877, 3.357, 2.680, 2.290, 2.031)),
        (Spending.POCOCK, (2.438, 2.427, 2.410, 2.397, 2.386)),
    ],
)
def test_published_boundaries_at_five_equal_looks(spending, expected):
    found = boundaries(FIVE, spending=spending, alpha=0.025, final=True)
    assert tuple(round(each.z, 3) for each in found) == expected  # to the printed digits


@pytest.mark.parametrize("times", [(0.5, 1.0), (0.2, 0.9), (0.9, 1.0)])
def test_two_looks_against_the_bivariate_normal(times):
    first, last = (each.z for each in boundaries(times, spending=Spending.HSD, alpha=0.025, final=True))
    correlation = np.sqrt(times[0] / times[1])
    below = multivariate_normal.cdf([first, last], mean=[0, 0], cov=[[1, correlation], [correlation, 1]])
    assert 1 - below == pytest.approx(0.025, abs=1e-6)


def test_one_look_is_the_fixed_horizon_test():
    (only,) = boundaries((1.0,), spending=Spending.OBF, alpha=0.025, final=True)
    assert only.z == pytest.approx(1.959964, abs=1e-6)
    assert only.spent == 0.025


def test_hsd_spends_by_its_formula():
    # 0.025 · (1 − e^{2·0.5}) / (1 − e^{2}) = 0.025 · 1.71828 / 6.38906
    assert spent(Spending.HSD, time=0.5, alpha=0.025) == pytest.approx(0.025 * 1.7182818 / 6.3890561)


def test_the_last_look_spends_all_that_is_left_however_little_information_came():
    early = boundaries((0.2, 0.5), spending=Spending.OBF, alpha=0.025, final=False)
    last = boundaries((0.2, 0.5), spending=Spending.OBF, alpha=0.025, final=True)
    assert early[-1].spent < 0.002
    assert last[-1].spent == 0.025
    assert last[-1].z == pytest.approx(1.96, abs=0.01)  # next to nothing was spent at 0.2


def test_information_beyond_n_max_still_shapes_the_correlation():
    # With twice the data of the look before, the last is less correlated with it: more new paths cross, so z is higher.
    near = boundaries((0.9, 1.0), spending=Spending.HSD, alpha=0.025, final=True)
    far = boundaries((0.9, 1.8), spending=Spending.HSD, alpha=0.025, final=True)
    assert far[-1].z > near[-1].z + 0.02
    assert far[-1].spent == near[-1].spent == 0.025


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(st.floats(0.02, 0.4), min_size=1, max_size=6),
    spending=st.sampled_from(list(Spending)),
    alpha=st.sampled_from([0.01, 0.025, 0.05]),
)
def test_a_simulated_random_walk_crosses_as_often_as_spent(steps, spending, alpha):
    times = np.cumsum(steps)
    found = boundaries(tuple(times), spending=spending, alpha=alpha, final=True)
    assert all(each.z <= MAX_Z for each in found)
    assert all(later.spent >= earlier.spent for earlier, later in pairwise(found))
    paths = np.cumsum(np.random.default_rng(7).standard_normal((40_000, len(steps))) * np.sqrt(steps), axis=1)
    crossed = (paths / np.sqrt(times) >= [each.z for each in found]).any(axis=1).mean()
    assert crossed == pytest.approx(alpha, abs=4.5 * np.sqrt(alpha / 40_000))


def test_earlier_boundaries_do_not_depend_on_later_looks():
    long = boundaries(FIVE, spending=Spending.OBF, alpha=0.025, final=True)
    short = boundaries(FIVE[:3], spending=Spending.OBF, alpha=0.025, final=False)
    assert [each.z for each in short] == [each.z for each in long[:3]]


def test_two_looks_next_to_each_other_are_no_trouble():
    close = boundaries((0.5, 0.5 + 1e-9, 1.0), spending=Spending.HSD, alpha=0.025, final=True)
    plain = boundaries((0.5, 1.0), spending=Spending.HSD, alpha=0.025, final=True)
    assert close[-1].z == pytest.approx(plain[-1].z, abs=2e-3)


def test_correlation_follows_information_and_spending_follows_time():
    by_users = boundaries((0.5, 1.0), spending=Spending.HSD, alpha=0.025, final=True)
    known = boundaries((0.5, 1.0), information=(1.0, 10.0), spending=Spending.HSD, alpha=0.025, final=True)
    assert known[0] == by_users[0]
    assert known[1].z > by_users[1].z + 0.02
    assert [each.spent for each in known] == [each.spent for each in by_users]
    in_other_units = boundaries((0.5, 1.0), information=(1e6, 1e7), spending=Spending.HSD, alpha=0.025, final=True)
    assert in_other_units[1].z == pytest.approx(known[1].z, abs=1e-6)
    with pytest.raises(ValueError, match="one a look"):
        boundaries((0.5, 1.0), information=(1.0,), spending=Spending.HSD, alpha=0.025, final=True)


@pytest.mark.parametrize("times", [(0.2, 0.2), (0.3, 0.1), (0.0, 1.0), (-0.1,)])
def test_information_must_grow(times):
    with pytest.raises(ValueError, match="strictly increasing"):
        boundaries(times, spending=Spending.OBF, alpha=0.025, final=False)


def test_spending_refuses_what_it_cannot_mean():
    with pytest.raises(ValueError, match="negative"):
        spent(Spending.OBF, time=-1, alpha=0.025)
    with pytest.raises(ValueError, match="alpha"):
        spent(Spending.OBF, time=0.5, alpha=0.7)
    assert spent(Spending.OBF, time=0.0, alpha=0.025) == 0
    assert spent(Spending.OBF, time=1.7, alpha=0.025) == 0.025


@pytest.mark.parametrize("drift", [-1.0, 0.0, 1.0, 2.8, 5.0])
def test_one_look_is_crossed_with_the_normal_probability(drift):
    # Z ~ N(drift, 1) against 1.96
    (found,) = crossing_probability((1.0,), (1.959964,), drift=drift)
    assert found == pytest.approx(1 - NormalDist().cdf(1.959964 - drift), abs=1e-12)


@pytest.mark.parametrize("spending", Spending)
def test_without_an_effect_each_look_crosses_as_often_as_it_spends(spending):
    looks = boundaries(FIVE, spending=spending, alpha=0.025, final=True)
    found = crossing_probability(FIVE, [each.z for each in looks], drift=0.0)
    assert np.cumsum(found) == pytest.approx([each.spent for each in looks], abs=1e-9)


def test_crossing_under_an_effect_is_what_random_walks_do():
    """200,000 walks with drift 2 at uneven looks: each look's share of first crossings within 4 standard errors."""
    times, critical = (0.1, 0.15, 0.5, 0.9, 1.0), (3.0, 2.2, 2.5, 2.1, 2.0)
    chance = np.random.default_rng(11)
    steps = np.diff((0.0, *times))
    paths = np.cumsum(chance.standard_normal((200_000, 5)) * np.sqrt(steps) + 2.0 * steps, axis=1)
    crossed = paths / np.sqrt(times) >= critical
    first = np.where(crossed.any(axis=1), crossed.argmax(axis=1), -1)
    for look, expected in enumerate(crossing_probability(times, critical, drift=2.0)):
        seen = float((first == look).mean())
        assert abs(seen - expected) <= 4 * np.sqrt(expected * (1 - expected) / 200_000)


@given(low=st.floats(-3, 4), more=st.floats(0.1, 3), critical=st.lists(st.floats(-1, 7), min_size=1, max_size=5))
def test_a_larger_effect_is_found_more_often(low, more, critical):
    times = tuple((number + 1) / len(critical) for number in range(len(critical)))
    powers = [sum(crossing_probability(times, critical, drift=drift)) for drift in (low, low + more)]
    grid = 1e-5 * len(critical)  # what Simpson's rule may miss at each look
    assert -1e-9 <= powers[0] <= powers[1] + grid
    assert powers[1] <= 1 + grid


def test_a_huge_effect_crosses_at_once_and_leaves_nobody():
    found = crossing_probability((0.5, 1.0), (2.0, 2.0), drift=60.0)
    assert found == pytest.approx((1.0, 0.0), abs=1e-12)


@pytest.mark.parametrize(
    ("times", "critical", "said"), [((0.5, 0.5), (2, 2), "strictly increasing"), ((0.5, 1.0), (2,), "1 boundaries")]
)
def test_looks_that_cannot_be_are_refused(times, critical, said):
    with pytest.raises(ValueError, match=said):
        crossing_probability(times, critical, drift=1.0)
