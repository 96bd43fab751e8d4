"""What a stopped test knows, against values worked out by other means, and its laws."""

from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import multivariate_normal

from gate.boundaries import Spending, boundaries, crossing_probability
from gate.stagewise import stagewise

FIVE = (0.2, 0.4, 0.6, 0.8, 1.0)
OBF = tuple(each.z for each in boundaries(FIVE, spending=Spending.OBF, alpha=0.025, final=True))
NORMAL = NormalDist()
SIMULATED = 200_000


def stopped(look, z, *, times=FIVE, critical=OBF, alpha=0.025):
    """At `look` (from 1), with standard errors as of users who are alike."""
    errors = tuple(1 / time**0.5 for time in times[:look])
    return stagewise(times[:look], errors, critical[: look - 1], z=z, alpha=alpha)


def test_the_first_look_is_a_fixed_sample():
    found = stopped(1, 5.1)
    assert found.p_value == pytest.approx(1 - NORMAL.cdf(5.1), rel=1e-9)
    assert found.median == pytest.approx(5.1, abs=1e-6)
    assert (found.lower, found.upper) == pytest.approx((5.1 - 1.959964, 5.1 + 1.959964), abs=1e-6)


@pytest.mark.parametrize(("first", "last", "z"), [(0.5, 1.0, 2.4), (0.3, 0.7, 2.1), (0.9, 1.0, 1.2), (0.5, 1.0, -0.8)])
def test_two_looks_against_the_bivariate_normal(first, last, z):
    """P = 1 − Pr(Z₁ < b, Z₂ < z), whose roots SciPy's integral gives by itself."""
    times, boundary = (first, last), 2.3
    root = (first / last) ** 0.5

    def above(effect):
        mean = [effect * root, effect]
        return 1 - multivariate_normal.cdf([boundary, z], mean=mean, cov=[[1, root], [root, 1]])

    found = stopped(2, z, times=times, critical=(boundary,))
    assert found.p_value == pytest.approx(above(0.0), abs=1e-5)
    for level, effect in ((0.5, found.median), (0.025, found.lower), (0.975, found.upper)):
        assert effect == pytest.approx(brentq(lambda guess, level=level: above(guess) - level, -12, 12), abs=2e-4)


def test_three_looks_as_rpact_has_them():
    """rpact's tests, `getAnalysisResults` for three stages of survival data: log-rank statistics at the third look.

    Wang & Tsiatis' boundaries c·t^(Δ − ½) with Δ = .25; a log hazard ratio is 2 standard errors over √38 events.
    """
    times = (0.2, 0.4, 1.0)

    def missing(constant):
        return sum(crossing_probability(times, [constant * time**-0.25 for time in times], drift=0.0)) - 0.025

    constant = brentq(missing, 1.5, 4.0)
    found = stopped(3, 2.9, times=times, critical=tuple(constant * time**-0.25 for time in times))
    assert found.p_value == pytest.approx(0.0074535505, rel=1e-4)
    ratios = np.exp(2 / 38**0.5 * np.array([found.median, found.lower, found.upper]))
    assert ratios == pytest.approx([2.4764002, 1.222663, 4.752454], rel=1e-4)


def test_later_users_who_are_more_active_against_the_bivariate_normal():
    """The errors halve where information grows fivefold: the mean of Z₁ is half that of Z₂, their correlation √.2."""
    found = stagewise((2.0, 10.0), (0.02, 0.01), (2.6,), z=2.0, alpha=0.05)
    correlation = 0.2**0.5

    def above(effect):
        cov = [[1, correlation], [correlation, 1]]
        return 1 - multivariate_normal.cdf([2.6, 2.0], mean=[effect / 2, effect], cov=cov)

    assert found.p_value == pytest.approx(above(0.0), abs=1e-5)
    for level, effect in ((0.5, found.median), (0.05, found.lower), (0.95, found.upper)):
        assert above(effect) == pytest.approx(level, abs=2e-5)


def test_on_the_boundary_p_is_the_alpha_spent():
    looks = boundaries(FIVE, spending=Spending.HSD, alpha=0.025, final=True)
    for number, each in enumerate(looks, start=1):
        found = stopped(number, each.z, critical=tuple(each.z for each in looks))
        assert found.p_value == pytest.approx(each.spent, abs=1e-8)
    assert found.lower == pytest.approx(0, abs=1e-4)  # at the end, all of α: the interval just touches 0


def walks(effect):
    """Look (from 1) and z at which simulated walks stop: across the boundary, or at the last look."""
    steps = np.diff((0.0, *FIVE))
    noise = np.random.default_rng(5).standard_normal((SIMULATED, 5))
    z = np.cumsum(noise * np.sqrt(steps) + effect * steps, axis=1) / np.sqrt(FIVE)
    crossed = z >= OBF
    look = np.where(crossed.any(axis=1), crossed.argmax(axis=1), 4)
    return look + 1, z[np.arange(SIMULATED), look]


@pytest.mark.parametrize("outcome", [(3, 2.9), (4, 2.31), (5, 2.2), (5, 0.7)])
def test_as_many_walks_are_more_extreme_as_stated(outcome):
    """At each of the three effects found, the share of walks at or beyond the outcome is what defines that effect."""
    look, z = outcome
    found = stopped(look, z)
    for effect, share in ((found.median, 0.5), (found.lower, 0.025), (found.upper, 0.975), (0.0, found.p_value)):
        looks, ends = walks(effect / FIVE[look - 1] ** 0.5)  # from standard errors of the look to those of time 1
        beyond = ((looks < look) | ((looks == look) & (ends >= z))).mean()
        assert abs(beyond - share) <= 4 * np.sqrt(share * (1 - share) / SIMULATED)


@settings(max_examples=40, deadline=None)
@given(look=st.integers(1, 5), z=st.floats(-2, 6), more=st.floats(0.05, 2))
def test_more_extreme_outcomes_say_more(look, z, more):
    less, found = stopped(look, z), stopped(look, z + more)
    assert found.p_value < less.p_value + 1e-9
    for name in ("median", "lower", "upper"):
        assert getattr(found, name) > getattr(less, name) - 1e-5
        plain = z + {"median": 0.0, "lower": -1.959964, "upper": 1.959964}[name]
        assert getattr(less, name) <= plain + 1e-5  # what was found early never counts for more than it looks
    assert less.lower < less.median < less.upper


def test_an_earlier_crossing_is_more_extreme_than_a_later_one():
    at_boundary = [stopped(look, OBF[look - 1]) for look in range(1, 6)]
    assert all(earlier.p_value < later.p_value for earlier, later in pairwise(at_boundary))
    per_user = [each.median / time**0.5 for each, time in zip(at_boundary, FIVE, strict=True)]
    assert all(earlier > later for earlier, later in pairwise(per_user))


def test_the_interval_excludes_nothing_exactly_when_p_is_below_alpha():
    for z in (1.9, 2.0, 2.02, 2.04, 2.1):
        found = stopped(5, z)
        assert (found.lower > 0) == (found.p_value < 0.025)


def test_looks_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="1 standard errors for 2 looks"):
        stagewise((0.5, 1.0), (0.1,), (2.0,), z=2.0, alpha=0.025)
    with pytest.raises(ValueError, match="3 boundaries for 2 looks"):
        stagewise((0.5, 1.0), (0.2, 0.1), (2.0, 2.0), z=2.0, alpha=0.025)
    with pytest.raises(ValueError, match="strictly increasing"):
        stagewise((1.0, 0.5), (0.2, 0.1), (2.0,), z=2.0, alpha=0.025)
