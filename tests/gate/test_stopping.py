"""The corrected effect of recorded looks: which look stopped, what counts before it, and when there is none."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from gate.boundaries import Spending
from gate.decision import decide
from gate.estimator import ArmSums, estimate
from gate.looks import DaySums, LookSums, MetricSums
from gate.metrics import Better, Metric
from gate.schedule import Schedule, arms
from gate.stagewise import stagewise
from gate.stopping import Corrected, corrected
from gate.trial import CHALLENGER, CHAMPION, Challenger, TrialConfig
from gate.verdict import Verdict

START = datetime(2026, 3, 1, tzinfo=UTC)
CONFIG = TrialConfig(
    trial_id="trial-1",
    challenger_version=2,
    challenger_digest="b" * 64,
    champion_version=1,
    champion_digest="a" * 64,
    champion_epoch=1,
    salt="salt",
    start=START,
    deadline=START + timedelta(days=10),
    n_max=4_000,
    min_users=400,
    minimum_effect=0.05,
    primary=Metric("clicks", "click"),
)
GUARDED = replace(
    CONFIG,
    guardrails=(
        Metric("purchases", "purchase", margin=0.2),
        Metric("dislikes", "dislike", margin=0.2, better=Better.LOWER),
    ),
)
SPENDING_SOON = replace(CONFIG, spending=Spending.POCOCK)


def arm(users, rate):
    """Users with 10 impressions and a variance of S of 1 each, so Var(R) is 0.01 over the users."""
    mean = 10 * rate
    return ArmSums(
        n=users,
        s=users * mean,
        i=10.0 * users,
        ss=users * mean**2 + users - 1,
        si=10 * users * mean,
        ii=100.0 * users,
    )


def look(users, rates, *, day, guardrails=None, exposed=None):
    each = users // 2
    metrics = {
        name: MetricSums((DaySums(START.date(), {CHAMPION: arm(each, base), CHALLENGER: arm(each, other)}),))
        for name, (base, other) in {"clicks": rates, **(guardrails or {})}.items()
    }
    seen = dict(zip((CHAMPION, CHALLENGER), exposed or (each + 50, each + 50), strict=True))
    return LookSums(watermark=START + timedelta(days=day), since=START, exposed=seen, metrics=metrics)


def going(*challenger_rates, champion=0.1, users=800, first=1, **others):
    """One look a day, each with `users` more; the challenger's rate so far at each."""
    return [
        look(users * number, (champion, rate), day=number, **others)
        for number, rate in enumerate(challenger_rates, start=first)
    ]


def stopped(config, looks, challenger=CHALLENGER) -> Corrected:
    found = corrected(config, looks, challenger)
    assert found is not None
    return found


def test_a_promotion_at_the_first_look_is_as_plain():
    looks = going(0.12, users=2_000)
    found, plain = stopped(CONFIG, looks), decide(CONFIG, looks).leading
    assert plain.verdict is Verdict.PROMOTE
    assert found.look == 1
    assert found.estimate == pytest.approx(plain.estimate, abs=1e-8)
    assert found.lift == pytest.approx(plain.lift, abs=1e-7)
    assert found.p_value == pytest.approx(plain.p_value, rel=1e-6)
    fixed = estimate(*(each.array() for each in arms(CONFIG, looks[-1], CHALLENGER))).lift_interval(1.959964)
    assert (found.lift_interval.lower, found.lift_interval.upper) == pytest.approx([float(end) for end in fixed])


def test_a_later_promotion_is_corrected_by_the_looks_before_it():
    looks = going(0.104, 0.108, 0.111)
    found, plain = stopped(SPENDING_SOON, looks), decide(SPENDING_SOON, looks).leading
    assert plain.verdict is Verdict.PROMOTE
    assert found.look == 3
    # By hand from the looks: SE = √(2·0.1·10/(n/2·100)) at n = 800, 1,600, 2,400, and users who are alike
    schedule = Schedule.of(SPENDING_SOON, looks, CHALLENGER, end=None)
    errors = tuple(np.sqrt(2e-2 / (users / 2)) for users in (800, 1_600, 2_400))
    by_hand = stagewise(
        (1.0, 2.0, 3.0), errors, tuple(each.z for each in schedule.boundaries_K[:2]), z=plain.z, alpha=0.025
    )
    assert found.estimate == pytest.approx(by_hand.median * errors[2], rel=1e-3)
    assert found.p_value == pytest.approx(by_hand.p_value, rel=1e-2)
    assert found.estimate < plain.estimate
    assert found.lift < plain.lift
    assert plain.p_value < found.p_value <= plain.spent
    assert 0 < found.lift_interval.lower < found.lift < found.lift_interval.upper
    assert found.interval.lower > 0


def test_the_last_look_tells_whatever_it_says():
    looks = going(0.100, 0.101, 0.099, 0.101, 0.1005)
    found, plain = stopped(CONFIG, looks), decide(CONFIG, looks).leading
    assert plain.verdict is Verdict.INCONCLUSIVE
    assert found.look == 5
    assert found.p_value > 0.025
    assert found.interval.lower < 0 < found.interval.upper
    # Small OBF boundaries were hardly ever in reach: next to nothing changes
    assert found.estimate == pytest.approx(plain.estimate, abs=0.01 * plain.standard_error)


def test_nothing_while_it_goes_on():
    assert corrected(CONFIG, [], CHALLENGER) is None
    assert corrected(CONFIG, going(0.101, 0.102), CHALLENGER) is None
    assert corrected(CONFIG, going(0.150, users=300), CHALLENGER) is None  # too few users to be tested


def test_proven_harm_before_the_end_is_not_what_this_corrects():
    looks = going(0.100, 0.060)
    assert decide(CONFIG, looks).verdict is Verdict.REJECT
    assert corrected(CONFIG, looks, CHALLENGER) is None


def test_nothing_of_an_a_a_trial():
    same = replace(CONFIG, is_aa=True, challenger_version=1, challenger_digest=CONFIG.champion_digest)
    assert corrected(same, going(0.1, 0.1, 0.1, 0.1, 0.1), CHALLENGER) is None


def test_looks_after_the_one_that_stopped_change_nothing_unless_they_withdraw_it():
    looks = going(0.104, 0.108, 0.111)
    confirmed = [*looks, *going(0.112, first=4)]
    assert decide(SPENDING_SOON, confirmed).verdict is Verdict.PROMOTE
    assert corrected(SPENDING_SOON, confirmed, CHALLENGER) == corrected(SPENDING_SOON, looks, CHALLENGER)
    broken = [*looks, look(3_200, (0.1, 0.112), day=4, exposed=(1_650, 1_000))]
    assert decide(SPENDING_SOON, broken).verdict is Verdict.HOLD
    assert corrected(SPENDING_SOON, broken, CHALLENGER) is None


def test_a_crossing_that_may_not_promote_has_not_stopped_it():
    """The guardrails are unproven at the first crossing: that look is left out of the order, and p stays below α."""
    rails = {"purchases": (0.1, 0.085), "dislikes": (0.1, 0.1)}
    proven = {"purchases": (0.1, 0.1), "dislikes": (0.1, 0.09)}
    crossing = going(0.102, 0.125, guardrails=rails)
    assert decide(GUARDED, crossing).verdict is Verdict.CONTINUE
    assert decide(GUARDED, crossing).leading.z > decide(GUARDED, crossing).leading.boundary
    looks = [*crossing, *going(0.125, first=3, guardrails=proven)]
    plain = decide(GUARDED, looks).leading
    assert plain.verdict is Verdict.PROMOTE
    found = stopped(GUARDED, looks)
    assert found.look == 3
    assert found.p_value <= plain.spent
    without = stopped(CONFIG, [crossing[0], replace(looks[2], metrics={"clicks": looks[2].metrics["clicks"]})])
    assert found.p_value == pytest.approx(without.p_value, rel=1e-6)
    assert found.estimate == pytest.approx(without.estimate, rel=1e-6)


def three(day, rates, out=()):
    users = 400 * day
    sums = {CHAMPION: arm(users, 0.1), CHALLENGER: arm(users, rates[0]), "challenger-2": arm(users, rates[1])}
    clicks = MetricSums((DaySums(START.date(), sums),))
    return LookSums(START + timedelta(days=day), START, dict.fromkeys(sums, users), {"clicks": clicks}, out=out)


def test_several_challengers_have_their_own_boundaries_at_a_share_of_alpha():
    several = replace(SPENDING_SOON, others=(Challenger("challenger-2", 3, "c" * 64),), allocation=2 / 3, n_max=4_000)
    looks = [three(day, rates) for day, rates in enumerate([(0.104, 0.101), (0.109, 0.101), (0.113, 0.101)], start=1)]
    plain = decide(several, looks).leading
    assert (plain.verdict, plain.challenger) == (Verdict.PROMOTE, CHALLENGER)
    found = stopped(several, looks)
    alone = stopped(SPENDING_SOON, looks)
    assert found.p_value < plain.spent <= 0.0125
    assert found.interval.lower < alone.interval.lower  # 97.5 % and not 95 %
    assert corrected(several, looks, "challenger-2") is None  # the other ended the trial
    gone = [*looks[:2], three(3, (0.113, 0.140), out=("challenger-2",))]
    assert corrected(several, gone, "challenger-2") is None


def test_the_lift_excludes_nothing_exactly_when_the_effect_does():
    for rate in (0.1040, 0.1050, 0.1056, 0.1062, 0.1070):
        found = stopped(CONFIG, going(0.1, 0.1, 0.1, 0.1, rate))
        assert (found.interval.lower > 0) == (found.lift_interval.lower > 0) == (found.p_value < 0.025)


def test_without_a_rate_of_the_champions_there_is_no_lift():
    looks = going(0.0, 0.02, champion=0.0005, users=2_000)
    found = stopped(CONFIG, looks)
    assert found.estimate > 0
    assert found.lift_interval is None
    assert found.as_json()["lift_interval"] is None


def test_as_json_is_plain():
    told = stopped(CONFIG, going(0.12, users=2_000)).as_json()
    assert set(told) == {"look", "p_value", "estimate", "interval", "lift", "lift_interval"}
    assert all(isinstance(end, float) for end in (*told["interval"], *told["lift_interval"]))
