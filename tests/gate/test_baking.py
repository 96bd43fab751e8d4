"""After the promotion: alarms, what is waited for, and that nothing passes for want of data."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate.baking import BakeFacts, Watch, bake_window, judge_bake, served_everywhere
from gate.estimator import ArmSums
from gate.metrics import Metric
from gate.served import Served, ServedLimits
from gate.trial import TrialConfig

START = datetime(2026, 3, 1, tzinfo=UTC)
NEW, OLD = "b" * 64, "a" * 64
CONFIG = TrialConfig(
    trial_id="trial-1",
    challenger_version=2,
    challenger_digest=NEW,
    champion_version=1,
    champion_digest=OLD,
    champion_epoch=1,
    salt="salt",
    start=START - timedelta(days=20),
    deadline=START + timedelta(days=14),
    n_max=4_000,
    primary=Metric("clicks", "click"),
    bake_hours=24,
    bake_margin=0.2,
)
LIMITS = ServedLimits(failures=0.01, latency=2.0)


def users(count: int, *, rate: float) -> ArmSums:
    """`count` users with ten impressions each, of whom every tenth gets ten times the clicks of `rate`."""
    n, s = float(count), count * 10 * rate
    return ArmSums(n=n, s=s, i=10 * n, ss=10 * rate * 10 * s, si=10 * s, ii=100 * n)


FINE = BakeFacts(
    digest=NEW,
    since=START,
    watermark=START + timedelta(hours=24),
    reported=frozenset({NEW}),
    new=Served(9_000, 9, 4.0, 12.0, (NEW,)),
    former=Served(9_000, 9, 4.0, 10.0, (OLD,)),
    new_sums=users(2_000, rate=0.1),
    former_sums=users(1_000, rate=0.1),
)


def judge(**change: object) -> tuple[Watch, str]:
    baked = judge_bake(CONFIG, replace(FINE, **change), limits=LIMITS)  # type: ignore[arg-type]
    return baked.outcome, "; ".join(baked.reasons)


def test_a_quiet_bake_passes_with_its_figures() -> None:
    assert judge() == (
        Watch.PASSED,
        "24 hours without an alarm: 9 of 9,000 answers failed, p99 12.0 ms (was 10.0), clicks 0.10000 (was 0.10000)",
    )
    assert judge(new_sums=users(2_000, rate=0.085))[0] is Watch.PASSED  # −15 % is within the margin of 20 %


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"new": Served(9_000, 400, 4.0, 12.0, (NEW,))}, "400 of 9,000 answers failed"),
        ({"new": Served(9_000, 9, 4.0, 20.5, (NEW,))}, "p99 20.5 ms, limit 20.0 ms"),
        ({"new_sums": users(2_000, rate=0.03)}, "proven to be more than 20% below it over 1,000 and 2,000 users"),
    ],
)
def test_alarms_bring_the_former_champion_back_whatever_else_is_missing(change: dict[str, object], words: str) -> None:
    for more in ({}, {"reported": None, "watermark": START + timedelta(hours=1), "problems": ("late",)}):
        outcome, why = judge(**change, **more)
        assert (outcome, words in why) == (Watch.ROLL_BACK, True), why


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"watermark": START + timedelta(hours=23)}, "watched until 2026-03-02 00:00 UTC (24 hours)"),
        ({"reported": frozenset({NEW, OLD})}, "reports aaaaaaaaaaaa…"),
        ({"reported": frozenset({""})}, "reports none"),
        ({"reported": None, "new": Served(9_000, 0, 4.0, 12.0, (OLD,))}, "no running server could be asked"),
        ({"new": Served(), "reported": frozenset({NEW})}, "0 of 200 requests that the new champion's p99 needs"),
        ({"former": Served()}, "0 of 200 requests that the former champion's p99 needs"),
        ({"new_sums": users(99, rate=0.01)}, "99 users of the new champion and 1,000 of the former one have matured"),
        ({"former_sums": ArmSums()}, "2,000 users of the new champion and 0 of the former one"),
        ({"problems": ("3 files wait",)}, "3 files wait"),
    ],
)
def test_what_is_missing_holds(change: dict[str, object], words: str) -> None:
    outcome, why = judge(**change)
    assert (outcome, words in why) == (Watch.BAKING, True), why


def test_exposures_stand_in_where_no_server_can_be_asked() -> None:
    assert served_everywhere(NEW, reported=None, logged=Served(3, 0, 1.0, 1.0, (NEW,))) == ""
    assert served_everywhere(NEW, reported=frozenset({NEW}), logged=Served()) == ""
    assert judge(reported=None)[0] is Watch.PASSED


def test_the_window_is_half_of_the_bake_at_most() -> None:
    assert bake_window(CONFIG) == timedelta(hours=12)
    assert bake_window(replace(CONFIG, bake_hours=96)) == timedelta(hours=24)
    assert bake_window(replace(CONFIG, primary=replace(CONFIG.primary, window_hours=2))) == timedelta(hours=2)
    back = Metric("back", "return", per="user", window_hours=168)
    assert bake_window(replace(CONFIG, primary=back, window_hours=168)) == timedelta(hours=168)


@given(
    hours=st.integers(0, 48),
    reported=st.sampled_from([None, frozenset(), frozenset({OLD}), frozenset({NEW})]),
    requests=st.integers(0, 600),
    failing=st.floats(0, 1),
    count=st.integers(0, 400),
    rate=st.floats(0, 0.5),
    digests=st.sampled_from([(), (OLD,), (NEW,)]),
)
def test_nothing_passes_before_its_time_or_without_data(
    hours: int, reported: frozenset[str] | None, requests: int, failing: float, count: int, rate: float, digests: tuple
) -> None:
    told = replace(
        FINE,
        watermark=START + timedelta(hours=hours),
        reported=reported,
        new=Served(requests, round(failing * requests), 4.0, 12.0, digests),
        new_sums=users(count, rate=rate),
    )
    if judge_bake(CONFIG, told, limits=LIMITS).outcome is Watch.PASSED:
        assert hours >= 24
        assert requests >= 200
        assert count >= 100
        assert reported == {NEW} or (not reported and digests == (NEW,))


def test_a_champion_that_earns_the_same_is_seldom_taken_back_however_often_one_looks() -> None:
    """One-sided α = .01, at the margin itself, over forty looks of thirty new users each."""
    rng = np.random.default_rng(11)
    false = 0
    for _ in range(150):
        former = [ArmSums.from_users(*panel(rng, 0.10)) for _ in range(40)]
        new = [ArmSums.from_users(*panel(rng, 0.08)) for _ in range(40)]
        sums = (ArmSums(), ArmSums())
        for one, other in zip(former, new, strict=True):
            sums = (sums[0] + one, sums[1] + other)
            told = replace(FINE, former_sums=sums[0], new_sums=sums[1])
            if judge_bake(CONFIG, told, limits=LIMITS).outcome is Watch.ROLL_BACK:
                false += 1
                break
    assert false <= 5  # 150 · .01 = 1.5, and 3 · √(150 · .01 · .99) = 3.7 of slack


def panel(rng: np.random.Generator, rate: float) -> tuple[np.ndarray, ...]:
    shown = rng.poisson(8, 30).astype(float) + 1
    clicks = rng.binomial(shown.astype(int), rng.beta(2, 2 / rate - 2, 30)).astype(float)
    return clicks, shown, np.zeros(30), np.zeros(30)
