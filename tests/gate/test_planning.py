"""Sample sizes: the textbook's formula for one look, simulated trials for several, and each question's inverse."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate.boundaries import Spending, boundaries
from gate.estimator import ArmSums, estimate, products
from gate.metrics import Better, Metric
from gate.planning import Design, Observed, detectable_effect, guardrail_users, plan, users_needed
from relations.errors import UsageError

CLICKS = Observed("clicks", users=1_000, rate=0.1, impressions=5.0, variance=0.03, adjusted=0.02)
ONE_LOOK = Design(alpha=0.025, looks=1)
TEN = Design(alpha=0.025)


def test_one_look_is_the_textbooks_sample_size() -> None:
    """n a group = (1.95996 + 0.84162)²·(s_A² + s_B²)/Δ², so twice that in both; s_B = 1.03·s_A, Δ = .03 · .1"""
    textbook = 2 * (1.959964 + 0.841621) ** 2 * (0.02 + 1.03**2 * 0.02) / 0.003**2
    assert users_needed(CLICKS, design=ONE_LOOK, effect=0.03) == pytest.approx(textbook, abs=2)


def test_looking_ten_times_costs_four_percent() -> None:
    found = plan(CLICKS, design=TEN, effect=0.03)
    assert found.n_max / found.fixed == pytest.approx(TEN.inflation, rel=1e-4)
    assert 1.03 < TEN.inflation < 1.05
    # GATE.md §2, simulation 5: mean users at 80 % power at most .85 of the fixed test's, at twice the effect .50
    assert found.mean_users <= 0.85 * found.fixed
    assert TEN.inflation * TEN.mean_share(2 * TEN.drift) <= 0.50
    assert found.without_cuped / found.n_max == pytest.approx(0.03 / 0.02, rel=1e-4)


def test_an_uneven_split_costs_as_its_harmonic_mean() -> None:
    """1/.2 + 1/.8 = 6.25 against 1/.5 + 1/.5 = 4, for an effect that hardly adds variance."""
    uneven = users_needed(CLICKS, design=replace(TEN, challenger_share=0.2), effect=1e-4)
    assert uneven / users_needed(CLICKS, design=TEN, effect=1e-4) == pytest.approx(6.25 / 4, rel=1e-4)


def _power(design: Design, *, users: int, lift: float, runs: int, seed: int) -> tuple[float, float]:
    """Share of simulated trials that cross, and the mean users when they end: Poisson impressions, beta tastes."""
    chance = np.random.default_rng(seed)
    times = [(look + 1) / design.looks for look in range(design.looks)]
    critical = [each.z for each in boundaries(times, spending=design.spending, alpha=design.alpha, final=True)]
    crossed, used = np.zeros(runs, dtype=bool), np.full(runs, float(users))
    sums = [np.zeros((runs, 15)), np.zeros((runs, 15))]
    for time, z in zip(times, critical, strict=True):
        for arm, total in enumerate(sums):
            shown, clicked, before, clicked_before = _users(chance, (runs, users // 2 // design.looks), lift=lift * arm)
            total += products(clicked, shown, clicked_before, before).sum(axis=1)
        won = ~crossed & (estimate(*sums).z >= z)
        used[won], crossed = users * time, crossed | won
    return float(crossed.mean()), float(used.mean())


def _users(chance: np.random.Generator, shape: tuple[int, int], *, lift: float) -> tuple[np.ndarray[Any, Any], ...]:
    taste = chance.beta(0.8, 4, size=shape)
    shown, before = 1.0 + chance.poisson(3, size=shape), chance.poisson(8, size=shape).astype(float)
    clicked = chance.binomial(shown.astype(int), np.minimum(taste * (1 + lift), 1)).astype(float)
    return shown, clicked, before, chance.binomial(before.astype(int), taste).astype(float)


def test_a_simulated_trial_of_the_planned_size_has_the_planned_power() -> None:
    """Planned from 40,000 users' sums for a lift of 20 %, then 600 trials: power, and the mean users, as promised."""
    columns = _users(np.random.default_rng(1), (1, 40_000), lift=0.0)
    shown, clicked, before, clicked_before = (column[0] for column in columns)
    observed = Observed.from_sums("clicks", ArmSums.from_users(clicked, shown, clicked_before, before))
    assert observed.rate == pytest.approx(0.8 / 4.8, rel=0.02)
    assert observed.reduction > 0.1
    design = Design(alpha=0.025, looks=5, spending=Spending.HSD)
    found = plan(observed, design=design, effect=0.2)
    power, used = _power(design, users=found.n_max, lift=0.2, runs=600, seed=2)
    assert abs(power - 0.8) <= 3 * math.sqrt(0.8 * 0.2 / 600)
    assert used == pytest.approx(found.mean_users, rel=0.06)


@given(
    effect=st.floats(0.001, 0.5),
    variance=st.floats(1e-4, 50),
    design=st.builds(
        Design,
        alpha=st.sampled_from([0.005, 0.025, 0.05]),
        looks=st.sampled_from([1, 2, 7]),
        power=st.sampled_from([0.6, 0.8, 0.95]),
        challenger_share=st.floats(0.01, 0.99),
    ),
)
def test_effect_and_users_are_each_others_inverse(effect: float, variance: float, design: Design) -> None:
    observed = replace(CLICKS, adjusted=variance)
    users = users_needed(observed, design=design, effect=effect)
    back = detectable_effect(observed, design=design, users=users)
    assert back <= effect * (1 + 1e-6)  # rounded up, so no less sensitive
    assert detectable_effect(observed, design=design, users=users + 2) < back
    assert users_needed(observed, design=design, effect=2 * effect) <= users
    assert design.power_at(design.drift) == pytest.approx(design.power, abs=1e-6)


def test_a_guardrail_is_proven_by_equal_arms_at_its_margin() -> None:
    """One look, margin m = 10 %: distance .1·.1, variance s²(1/½ + .9²/½) without CUPED."""
    metric = Metric("clicks", "click", margin=0.1)
    expected = (1.959964 + 0.841621) ** 2 * 0.03 * (2 + 2 * 0.81) / 0.01**2
    assert guardrail_users(CLICKS, metric=metric, design=ONE_LOOK) == pytest.approx(expected, abs=2)
    lower = replace(metric, better=Better.LOWER)
    expected = (1.959964 + 0.841621) ** 2 * 0.03 * (2 + 2 * 1.21) / 0.01**2
    assert guardrail_users(CLICKS, metric=lower, design=ONE_LOOK) == pytest.approx(expected, abs=2)
    absolute = replace(metric, absolute=0.01)  # doubles the distance
    quarter = guardrail_users(CLICKS, metric=metric, design=ONE_LOOK)
    assert quarter is not None
    assert guardrail_users(CLICKS, metric=absolute, design=ONE_LOOK) == pytest.approx(quarter / 4, abs=2)


def test_a_metric_that_never_failed_is_planned_by_its_absolute_margin() -> None:
    """No failure in 5 impressions a user: drift · √(2² + 2²)/(5 · .001), one outcome more in each arm."""
    never = replace(CLICKS, rate=0.0, variance=0.0, adjusted=0.0)
    failures = Metric("failures", "failure", margin=0.0, absolute=0.001, better=Better.LOWER)
    expected = (1.959964 + 0.841621) * math.sqrt(8) / (5 * 0.001)
    assert guardrail_users(never, metric=failures, design=ONE_LOOK) == pytest.approx(expected, abs=2)


def test_the_plan_takes_the_largest_and_says_whose_it_is() -> None:
    tight, loose = Metric("value", "purchase", margin=0.01), Metric("dislikes", "dislike", margin=0.5)
    noisy = Observed("value", 1_000, rate=1.0, impressions=5.0, variance=30.0, adjusted=29.0)
    found = plan(CLICKS, [(loose, replace(CLICKS, name="dislikes")), (tight, noisy)], design=TEN, effect=0.03)
    asked = {each.metric: each.users for each in found.requirements}
    assert found.binding == "value"
    assert found.n_max == asked["value"] == max(each or 0 for each in asked.values())
    alone = plan(CLICKS, design=TEN, effect=0.03)
    assert alone.n_max == asked["clicks"]
    # More users at the end make the same effect clearer: it is found earlier, though later than n_max alone would say
    assert found.mean_users < found.n_max * TEN.mean_share(TEN.drift)
    assert found.as_json()["requirements"][2]["metric"] == "value"


def test_a_margin_of_nothing_is_never_proven_and_does_not_hide_the_rest() -> None:
    none = Metric("value", "purchase", margin=0.0)
    found = plan(CLICKS, [(none, CLICKS)], design=TEN, effect=0.03)
    assert found.requirements[1].users is None
    assert "give it a margin" in found.requirements[1].why
    assert found.binding == "clicks"


def test_an_assumed_rate_has_a_coins_variance() -> None:
    assert Observed.assumed("clicks", rate=0.2).variance == pytest.approx(0.2 * 0.8)
    with pytest.raises(UsageError, match=r"1.2 must lie in \(0, 1\)"):
        Observed.assumed("clicks", rate=1.2)


def test_what_cannot_be_planned_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="metric clicks: 1 matured users"):
        Observed.from_sums("clicks", ArmSums.from_users(*(np.ones(1),) * 4))
    with pytest.raises(UsageError, match="its rate is 0 over 1,000 users"):
        users_needed(replace(CLICKS, rate=0.0), design=TEN, effect=0.03)
    with pytest.raises(UsageError, match="effect of 0 cannot"):
        users_needed(CLICKS, design=TEN, effect=0)
    with pytest.raises(UsageError, match="0 users detect nothing"):
        detectable_effect(CLICKS, design=TEN, users=0)
    for wrong in ({"alpha": 0.6}, {"looks": 0}, {"power": 0.02}, {"challenger_share": 1.0}):
        with pytest.raises(UsageError, match=f"plan: {next(iter(wrong))}"):
            replace(TEN, **wrong)
