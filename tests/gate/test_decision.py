"""The rules, each on numbers made so that only that rule can speak; then the laws."""

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.boundaries import Spending, boundaries
from gate.decision import decide
from gate.estimator import ArmSums, estimate
from gate.looks import DaySums, LookSums, MetricSums
from gate.metrics import Better, Metric
from gate.trial import CHALLENGER, CHAMPION, TrialConfig
from gate.verdict import Verdict
from relations.errors import UsageError

ARMS = ("champion", "challenger")
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
    guardrails=(Metric("purchases", "purchase", margin=0.2), Metric("dislikes", "dislike", better=Better.LOWER)),
)


def arm(users, rate, *, spread=0.1):
    """An arm with 10 impressions a user, `rate` outcomes per impression, and variance of S equal to `spread`·10 a user.

    Built from sums, so the standard error is known: Var(R) ≈ spread·10/(users·100).
    """
    mean = 10 * rate
    return ArmSums(
        n=users,
        s=users * mean,
        i=10.0 * users,
        ss=users * mean**2 + (users - 1) * spread * 10,
        si=10 * users * mean,
        ii=100.0 * users,
    )


def metric(champion, challenger):
    return MetricSums((DaySums(date(2026, 3, 1), {CHAMPION: champion, CHALLENGER: challenger}),))


def look(users, rates, *, day=1, guardrails=None, exposed=None, **others):
    a, b = users if isinstance(users, tuple) else (users // 2, users // 2)
    metrics = {"clicks": metric(arm(a, rates[0]), arm(b, rates[1]))}
    for name, (base, other) in (guardrails or {}).items():
        metrics[name] = metric(arm(a, base), arm(b, other))
    seen = dict(zip(ARMS, exposed or (a + 50, b + 50), strict=True))
    return LookSums(watermark=START + timedelta(days=day), since=START, exposed=seen, metrics=metrics, **others)


def judged(config, looks):
    """The one comparison of a trial with one challenger; the judgement says the same."""
    judgement = decide(config, looks)
    (comparison,) = judgement.comparisons
    assert (judgement.verdict, judgement.reasons) == (comparison.verdict, comparison.reasons)
    assert judgement.leading is comparison
    return comparison


def test_a_clear_win_is_promoted_with_its_numbers():
    decision = judged(CONFIG, [look(2_000, (0.100, 0.120))])
    # Var(R) = 0.1·10/(1000·100) = 1e-5 an arm → SE = √2e-5, z = 0.02/0.004472 = 4.47; OBF at half: z_{.9875}/√.5 …
    assert decision.verdict is Verdict.PROMOTE
    assert decision.estimate == pytest.approx(0.02)
    assert decision.standard_error == pytest.approx(np.sqrt(2e-5), rel=1e-6)
    (boundary,) = boundaries((0.5,), spending=Spending.OBF, alpha=0.025, final=False)
    assert decision.boundary == boundary.z
    assert decision.z == pytest.approx(4.4721, abs=1e-3)
    assert decision.interval.lower == pytest.approx(0.02 - boundary.z * np.sqrt(2e-5), rel=1e-6)
    assert decision.lift == pytest.approx(0.2)
    assert 0 < decision.lift_interval.lower < 0.2 < decision.lift_interval.upper
    assert decision.sequence.lower < decision.estimate
    assert decision.information == 0.5
    assert decision.matured == (1_000, 1_000)
    assert "reaches the boundary" in decision.reasons[0]
    assert "lift +20.00%" in decision.reasons[1]


def test_not_yet():
    decision = judged(CONFIG, [look(2_000, (0.100, 0.104))])
    assert decision.verdict is Verdict.CONTINUE
    assert "below the boundary" in decision.reasons[0]
    assert decision.spent < 0.025


def test_too_few_users_decide_nothing_whatever_they_did():
    decision = judged(CONFIG, [look(398, (0.100, 0.300))])
    assert decision.verdict is Verdict.CONTINUE
    assert "398 of 400" in decision.reasons[0]
    assert decision.boundary is None
    assert decision.spent == 0
    assert decision.interval == decision.sequence  # nothing tests yet; the always-valid interval can be shown


def test_harm_is_rejected_at_once():
    decision = judged(CONFIG, [look(1_000, (0.100, 0.060))])
    assert decision.verdict is Verdict.REJECT
    assert "proven harm" in decision.reasons[0]
    assert not decision.final


def test_small_harm_waits():
    assert judged(CONFIG, [look(1_000, (0.100, 0.090))]).verdict is Verdict.CONTINUE


def test_at_n_max_a_final_interval_below_the_minimum_effect_is_rejected():
    # SE = √(2·0.1·10/(2000·100)) = 0.00316; 0.0985 − 0.1 + 1.96·SE = 0.0047 < 0.05·0.1
    decision = judged(CONFIG, [look(4_000, (0.100, 0.0985))])
    assert decision.verdict is Verdict.REJECT
    assert decision.final
    assert decision.spent == 0.025
    assert decision.boundary == pytest.approx(1.959964, abs=1e-6)
    assert "below the minimum effect" in decision.reasons[1]


def test_at_the_deadline_neither_is_inconclusive():
    decision = judged(CONFIG, [look(2_000, (0.100, 0.104), day=10)])
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert decision.boundary == pytest.approx(1.959964, abs=1e-6)  # one look, so all of α at once
    assert "deadline" in decision.reasons[0]


def test_at_the_deadline_what_is_left_of_alpha_can_promote():
    early = look(1_000, (0.100, 0.110))
    late = look(2_000, (0.100, 0.110), day=10)
    assert judged(CONFIG, [early]).verdict is Verdict.CONTINUE
    assert judged(CONFIG, [early, late]).verdict is Verdict.PROMOTE  # z = 2.24 against 1.96
    assert judged(replace(CONFIG, deadline=START + timedelta(days=20)), [early, late]).verdict is Verdict.CONTINUE


def test_too_few_at_the_deadline_is_inconclusive():
    decision = judged(CONFIG, [look(200, (0.100, 0.300), day=10)])
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert "200 of 400" in decision.reasons[1]


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (look((0, 0), (0.1, 0.1), exposed=(0, 0)), "no exposures of champion and challenger"),
        (look((300, 0), (0.1, 0.1), exposed=(300, 300)), "no matured user of challenger"),
        (look(2_000, (0.1, 0.12), problems=("the last exposures were quarantined whole",)), "quarantined whole"),
        (look(2_000, (0.1, 0.12), crossed=40), "seen in two arms"),
        (look(2_000, (0.1, 0.12), exposed=(1_500, 600)), "mismatch on exposed users"),
        (look((1_450, 550), (0.1, 0.12), exposed=(1_500, 1_500)), "mismatch on matured users"),
    ],
)
def test_missing_or_broken_data_hold(held, words):
    decision = judged(CONFIG, [held])
    assert decision.verdict is Verdict.HOLD
    assert words in decision.reasons[0]


def test_a_mismatch_vetoes_to_the_end():
    skewed = look(2_000, (0.100, 0.120), exposed=(1_500, 600))
    healed = look(4_000, (0.100, 0.120), day=2)
    assert judged(CONFIG, [healed]).verdict is Verdict.PROMOTE
    assert judged(CONFIG, [skewed, healed]).verdict is Verdict.INCONCLUSIVE


def test_a_mismatch_does_not_protect_harm():
    assert judged(CONFIG, [look(2_000, (0.100, 0.050), exposed=(1_500, 600))]).verdict is Verdict.REJECT


def test_a_declared_split_is_no_mismatch():
    uneven = replace(CONFIG, allocation=0.1)
    assert judged(uneven, [look((1_800, 200), (0.1, 0.1), exposed=(1_900, 211))]).srm_p == 1.0


def test_looking_twice_at_the_same_data_holds_and_spends_nothing():
    once = look(2_000, (0.100, 0.104))
    again = replace(once, watermark=once.watermark + timedelta(minutes=1))
    decision = judged(CONFIG, [once, again])
    assert decision.verdict is Verdict.HOLD
    assert "no user matured" in decision.reasons[0]
    assert decision.spent == judged(CONFIG, [once]).spent


def test_a_look_with_hardly_any_new_users_does_not_test():
    decision = judged(CONFIG, [look(2_000, (0.100, 0.104)), look(2_010, (0.100, 0.150), day=2)])
    assert decision.verdict is Verdict.CONTINUE
    assert not decision.tested
    assert "no α is spent" in decision.reasons[0]


def test_held_looks_spend_no_alpha():
    broken = look(1_000, (0.1, 0.12), problems=("late logs",))
    good = look(2_000, (0.1, 0.104), day=2)
    assert judged(CONFIG, [broken, good]).boundary == judged(CONFIG, [good]).boundary


def test_broken_data_at_the_deadline_hold_until_a_sound_look_ends_the_trial():
    broken = look(2_000, (0.1, 0.12), day=11, problems=("late logs",))
    assert judged(CONFIG, [broken]).verdict is Verdict.HOLD
    ended = judged(CONFIG, [broken, look(2_000, (0.1, 0.12), day=12)])
    assert ended.verdict is Verdict.PROMOTE
    assert ended.final


def test_after_the_last_alpha_no_look_can_promote_but_one_can_confirm():
    lost, won = look(4_000, (0.100, 0.104), day=2), look(4_000, (0.100, 0.110), day=2)
    later = look(4_400, (0.100, 0.120), day=3)
    assert judged(CONFIG, [lost]).verdict is Verdict.INCONCLUSIVE
    refused = judged(CONFIG, [lost, later])
    assert refused.verdict is Verdict.INCONCLUSIVE
    assert "no later look can promote" in refused.reasons[0]
    assert judged(CONFIG, [won, later]).verdict is Verdict.PROMOTE
    assert judged(CONFIG, [won, later]).boundary == judged(CONFIG, [won]).boundary


def test_guardrails_must_be_proven_within_their_margins():
    fine = {"purchases": (0.050, 0.050), "dislikes": (0.050, 0.030)}
    # purchases: 0.05 − 0.8·0.05 = 0.01; SE = √(1e-5·(1 + 0.64)) = 0.00405 → z = 2.47, below 2.96 at half the data
    early = judged(GUARDED, [look(2_000, (0.100, 0.120), guardrails=fine)])
    assert early.verdict is Verdict.CONTINUE
    assert "purchases: not proven" in early.reasons[0]
    assert early.guardrails[0].z == pytest.approx(0.01 / np.sqrt(1.64e-5), rel=1e-6)
    assert early.guardrails[1].slack == pytest.approx(1.1 * 0.05 - 0.03)
    assert [rail.holds for rail in early.guardrails] == [False, True]
    last = judged(GUARDED, [look(4_000, (0.100, 0.120), guardrails=fine)])
    assert last.verdict is Verdict.PROMOTE
    assert all(rail.holds for rail in last.guardrails)


def test_an_unproven_guardrail_at_the_end_is_inconclusive():
    worse = {"purchases": (0.050, 0.043), "dislikes": (0.050, 0.030)}
    assert judged(GUARDED, [look(4_000, (0.100, 0.120), guardrails=worse)]).verdict is Verdict.INCONCLUSIVE


def test_a_guardrail_proven_harmed_rejects_a_winner():
    harmed = {"purchases": (0.080, 0.030), "dislikes": (0.050, 0.030)}
    decision = judged(GUARDED, [look(2_000, (0.100, 0.120), guardrails=harmed)])
    assert decision.verdict is Verdict.REJECT
    assert "purchases: proven worse" in decision.reasons[0]


def test_a_silent_guardrail_never_passes():
    sums = look(4_000, (0.100, 0.120), guardrails={"dislikes": (0.05, 0.03)})
    silent = metric(ArmSums(n=2_000, i=20_000, ii=200_000), ArmSums(n=2_000, i=20_000, ii=200_000))
    decision = judged(GUARDED, [replace(sums, metrics={**sums.metrics, "purchases": silent})])
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert decision.guardrails[0].z == 0


def test_looks_must_fit_the_trial():
    with pytest.raises(UsageError, match="no look"):
        decide(CONFIG, [])
    with pytest.raises(UsageError, match="purchases"):
        decide(GUARDED, [look(2_000, (0.1, 0.1))])
    with pytest.raises(UsageError, match="order"):
        decide(CONFIG, [look(1_000, (0.1, 0.1), day=2), look(2_000, (0.1, 0.1), day=1)])


def stream(seed, *, lift, looks=5, users=800):
    """Cumulative looks over simulated users, one day each."""
    rng, days, found = np.random.default_rng(seed), [], []
    for place in range(looks):
        arms = []
        for factor in (1.0, 1.0 + lift):
            n = users // 2
            taste, impressions, before = rng.beta(2, 18, n), 1 + rng.poisson(5, n), rng.poisson(5, n)
            clicks = rng.binomial(impressions, np.minimum(1, taste * factor))
            arms.append(ArmSums.from_users(clicks, impressions, rng.binomial(before, taste), before))
        days.append(DaySums((START + timedelta(days=place)).date(), dict(zip(ARMS, arms, strict=True))))
        n = users // 2 * (place + 1)
        found.append(
            LookSums(
                watermark=START + timedelta(days=place + 1),
                since=START,
                exposed=dict.fromkeys(ARMS, n + 20),
                metrics={"clicks": MetricSums(tuple(days))},
            )
        )
    return found


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), lift=st.sampled_from([-0.3, 0.0, 0.1, 0.4]))
def test_replaying_the_record_gives_the_same_bytes(seed, lift):
    def written(config, looks):
        return json.dumps(decide(config, looks).as_json(), allow_nan=False, sort_keys=True)

    looks = stream(seed, lift=lift)
    record = [written(CONFIG, looks[: place + 1]) for place in range(len(looks))]
    config = TrialConfig.from_json(json.loads(json.dumps(CONFIG.as_json())))
    again = [LookSums.from_json(json.loads(text)["sums"]) for text in record]
    assert again == looks
    for place, text in enumerate(record):
        assert written(config, again[: place + 1]) == text


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), lift=st.sampled_from([0.0, 0.15, 0.4]))
def test_promotion_is_the_boundary_crossed(seed, lift):
    looks = stream(seed, lift=lift)
    found = [estimate(*(each.metrics["clicks"].arm(arm).array() for arm in ARMS)) for each in looks]
    shown = [sum(each.metrics["clicks"].arm(arm).i for arm in ARMS) for each in looks]
    bounds = boundaries(
        (0.2, 0.4, 0.6, 0.8, 1.0),
        information=[(float(each.standard_error) * count) ** 2 for each, count in zip(found, shown, strict=True)],
        spending=Spending.OBF,
        alpha=0.025,
        final=True,
    )
    for place, bound in enumerate(bounds):
        z = float(found[place].z)
        decision = judged(CONFIG, looks[: place + 1])
        assert decision.boundary == bound.z
        assert (decision.verdict is Verdict.PROMOTE) == (z >= bound.z)
        assert (decision.lift_interval.lower >= 0) == (z >= bound.z)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), looks=st.integers(1, 5))
def test_the_champion_against_itself_is_never_promoted(seed, looks):
    for number in range(1, looks + 1):
        same = []
        for each in stream(seed, lift=0.0, looks=number):
            days = tuple(
                DaySums(day.day, dict.fromkeys(ARMS, day.arms[CHAMPION])) for day in each.metrics["clicks"].days
            )
            same.append(replace(each, metrics={"clicks": MetricSums(days)}))
        decision = judged(CONFIG, same)
        assert decision.estimate == 0
        assert decision.verdict in (Verdict.CONTINUE, Verdict.INCONCLUSIVE, Verdict.REJECT)
        assert decision.verdict is not Verdict.REJECT or decision.final


def test_early_looks_that_know_little_raise_the_later_boundary():
    """A third of the second look is new. Where that third is five times as active, the looks are less alike."""
    first = look(2_000, (0.1, 0.1))
    alike = look(3_000, (0.1, 0.1), day=2)
    busy = arm(500, 0.1)
    busy = replace(busy, i=5 * busy.i, s=5 * busy.s, ss=25 * busy.ss, si=25 * busy.si, ii=25 * busy.ii)
    day = metric(arm(1_000, 0.1) + busy, arm(1_000, 0.1) + busy)
    active = replace(alike, metrics={"clicks": day})
    assert judged(CONFIG, [first, active]).matured == judged(CONFIG, [first, alike]).matured
    assert judged(CONFIG, [first, active]).boundary > judged(CONFIG, [first, alike]).boundary


def test_rows_and_days_are_two_views_of_one_thing():
    sums = stream(1, lift=0.1)[-1].metrics["clicks"]
    assert MetricSums.from_rows(reversed(sums.rows())) == sums
    assert sums.arm(CHAMPION).n == 2_000
    assert sums.arm("challenger-2") == ArmSums()
    with pytest.raises(UsageError, match="twice"):
        MetricSums.from_rows([sums.rows()[0]] * 2)
