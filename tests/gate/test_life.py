"""Stages before the comparison: what lets a trial go on, what ends it, and that none of them promotes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gate.estimator import ArmSums
from gate.interleaving import judge_interleaving
from gate.life import EARLY, StageFacts, canary_window, judge_stage, present_stage, within
from gate.looks import DaySums, LookSums, MetricSums
from gate.metrics import Better, Metric
from gate.served import Served, ServedLimits
from gate.states import TRANSITIONS, TrialMode, TrialState
from gate.trial import CHAMPION, Challenger, StagePlan, TrialConfig
from gate.verdict import Verdict
from relations.errors import UsageError

START = datetime(2026, 3, 1, tzinfo=UTC)
STAGES = (
    StagePlan(TrialMode.SHADOW, hours=6, least=1_000),
    StagePlan(TrialMode.CANARY, share=0.01, hours=6, least=50),
    StagePlan(TrialMode.CANARY, share=0.05, hours=6, least=50),
    StagePlan(TrialMode.INTERLEAVE, share=0.2, least=2_000),
    StagePlan(TrialMode.COMPARE),
)
CONFIG = TrialConfig(
    trial_id="trial-1",
    challenger_version=2,
    challenger_digest="b" * 64,
    champion_version=1,
    champion_digest="a" * 64,
    champion_epoch=1,
    salt="salt",
    start=START,
    deadline=START + timedelta(days=14),
    n_max=4_000,
    primary=Metric("clicks", "click"),
    guardrails=(Metric("dislikes", "dislike", better=Better.LOWER),),
    stages=STAGES,
)
TWO = replace(CONFIG, others=(Challenger("challenger-2", 3, "c" * 64),))
LIMITS = ServedLimits(failures=0.01, latency=2.0)
SHADOW, CANARY, WIDER, INTERLEAVE = range(4)
FINE = {
    CHAMPION: Served(5_000, 5, 4.0, 10.0, ("a" * 64,)),
    "challenger": Served(1_200, 1, 4.0, 12.0, ("b" * 64,)),
    "challenger-2": Served(1_200, 1, 4.0, 12.0, ("c" * 64,)),
}


def users(count: int, *, rate: float) -> ArmSums:
    """`count` users with ten impressions each, of whom every tenth gets ten times the clicks of `rate`."""
    n, s = float(count), count * 10 * rate
    return ArmSums(n=n, s=s, i=10 * n, ss=10 * rate * 10 * s, si=10 * s, ii=100 * n)


def canary(*, champion: float = 0.1, challenger: float = 0.1, n: int = 400, dislikes: float = 0.02) -> LookSums:
    def metric(one: float, other: float) -> MetricSums:
        arms = {CHAMPION: users(n, rate=one), "challenger": users(n, rate=other)}
        return MetricSums((DaySums(START.date(), arms),))

    return LookSums(
        watermark=START + timedelta(hours=7),
        since=START,
        exposed={CHAMPION: n, "challenger": n},
        metrics={"clicks": metric(champion, challenger), "dislikes": metric(0.02, dislikes)},
    )


def facts(**stated: object) -> StageFacts:
    return replace(StageFacts(since=START, watermark=START + timedelta(hours=7), served=FINE), **stated)  # type: ignore[arg-type]


def test_a_complete_shadow_goes_on_to_the_canary() -> None:
    step = judge_stage(CONFIG, facts(), place=SHADOW, limits=LIMITS)
    assert (step.verdict, step.into, step.out) == (Verdict.CONTINUE, STAGES[CANARY], ())
    assert step.reasons == (
        "on to canary with 0.01 of users: shadow showed nothing against it since 2026-03-01 00:00 UTC",
    )


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        ({"watermark": START + timedelta(hours=5)}, "CONTINUE", "shadow: lasts until 2026-03-01 06:00 UTC (6 hours)"),
        ({"served": FINE | {"challenger": Served(999, 0, 1.0, 9.0, ("b" * 64,))}}, "CONTINUE", "999 of 1,000 requests"),
        ({"served": {CHAMPION: FINE[CHAMPION]}}, "HOLD", "no answers of challenger at the shadow stage"),
        ({"served": {"challenger": FINE["challenger"]}}, "HOLD", "no answers of the champion"),
        (
            {"served": FINE | {"challenger": Served(1_200, 0, 1.0, 9.0, ("d" * 64,))}},
            "HOLD",
            "answers of dddddddddddd…",
        ),
        ({"problems": ("2 files wait",)}, "HOLD", "2 files wait"),
        ({"served": FINE | {"challenger": Served(1_200, 60, 1.0, 9.0, ("b" * 64,))}}, "REJECT", "60 of 1,200 answers"),
        ({"served": FINE | {"challenger": Served(40, 20, 1.0, 9.0, ("b" * 64,))}}, "REJECT", "20 of 40 answers failed"),
        ({"served": FINE | {"challenger": Served(1_200, 0, 1.0, 21.0, ("b" * 64,))}}, "REJECT", "p99 21.0 ms"),
        ({"served": FINE | {"challenger": Served(900, 0, 1.0, 21.0, ("b" * 64,))}}, "CONTINUE", "900 of 1,000"),
        (
            {"watermark": CONFIG.deadline, "served": FINE | {"challenger": Served(9, 0, 1.0, 2.0)}},
            "INCONCLUSIVE",
            "dead",
        ),
        ({"out": ("challenger",)}, "REJECT", "no challenger is left"),
    ],
)
def test_what_a_shadow_says(change: dict[str, object], verdict: str, words: str) -> None:
    step = judge_stage(CONFIG, facts(**change), place=SHADOW, limits=LIMITS)
    assert (step.verdict, step.into) == (verdict, None)
    assert words in "; ".join(step.reasons)


def test_a_canary_widens_and_then_leads_on() -> None:
    for place in (CANARY, WIDER):
        step = judge_stage(CONFIG, facts(sums=canary()), place=place, limits=LIMITS)
        assert (step.verdict, step.into) == (Verdict.CONTINUE, STAGES[place + 1])


@pytest.mark.parametrize(
    ("sums", "verdict", "words"),
    [
        (None, "HOLD", "no sums of the canary's users"),
        (canary(challenger=0.02), "REJECT", "clicks: proven harm in the canary, 0.02000 against 0.10000"),
        (canary(challenger=0.02, n=49), "CONTINUE", "49 of 50 users were shown it"),
        (canary(dislikes=0.08), "REJECT", "dislikes: proven harm in the canary, 0.08000 against 0.02000"),
        (replace(canary(), exposed={CHAMPION: 900, "challenger": 400}), "HOLD", "sample-ratio mismatch in the canary"),
        (replace(canary(), problems=("late",)), "HOLD", "late"),
    ],
)
def test_what_a_canary_says(sums: LookSums | None, verdict: str, words: str) -> None:
    step = judge_stage(CONFIG, facts(sums=sums), place=CANARY, limits=LIMITS)
    assert (step.verdict, step.into) == (verdict, None)
    assert words in "; ".join(step.reasons)


def test_interleaving_prunes_or_leads_on() -> None:
    def step(wins: int, losses: int):  # type: ignore[no-untyped-def]
        credit = {"challenger": judge_interleaving(wins, losses, alpha=CONFIG.interleave_alpha)}
        return judge_stage(CONFIG, facts(credit=credit), place=INTERLEAVE, limits=LIMITS)

    lost, won, close, even = step(30, 100), step(100, 30), step(60, 60), step(1_000, 1_000)
    assert (lost.verdict, lost.out) == (Verdict.REJECT, ("challenger",))
    assert "proven to lose" in lost.reasons[0]
    assert won.into == even.into == StagePlan(TrialMode.COMPARE)
    assert (close.verdict, close.into) == (Verdict.CONTINUE, None)
    assert "120 of 2,000 users with a preference" in close.reasons[0]
    assert judge_stage(CONFIG, facts(), place=INTERLEAVE, limits=LIMITS).verdict is Verdict.HOLD


def test_one_of_two_challengers_falls_and_the_other_goes_on() -> None:
    served = FINE | {"challenger": Served(1_200, 300, 1.0, 9.0, ("b" * 64,))}
    step = judge_stage(TWO, facts(served=served), place=SHADOW, limits=LIMITS)
    assert (step.verdict, step.into, step.out) == (Verdict.CONTINUE, STAGES[CANARY], ("challenger",))
    assert step.reasons[0].startswith("challenger: 300 of 1,200 answers failed")
    credit = {"challenger-2": judge_interleaving(10, 90, alpha=0.01)}
    last = judge_stage(TWO, facts(credit=credit, out=("challenger",)), place=INTERLEAVE, limits=LIMITS)
    assert (last.verdict, last.out) == (Verdict.REJECT, ("challenger", "challenger-2"))


def test_where_a_trial_stands_in_its_plan() -> None:
    places = {
        present_stage(CONFIG, mode=mode, share=share)
        for mode, share in ((TrialMode.SHADOW, 0.0), (TrialMode.CANARY, 0.01), (TrialMode.CANARY, 0.05))
    }
    assert places == {SHADOW, CANARY, WIDER}
    assert present_stage(CONFIG, mode=TrialMode.CANARY, share=0.03) == CANARY
    assert present_stage(CONFIG, mode=TrialMode.INTERLEAVE, share=0.5) == INTERLEAVE
    assert present_stage(CONFIG, mode=TrialMode.COMPARE, share=0.5) == len(STAGES) - 1
    short = replace(CONFIG, stages=(STAGES[CANARY], STAGES[-1]))
    assert present_stage(short, mode=TrialMode.SHADOW, share=0.0) == 0  # a person began earlier than was planned


def test_the_comparison_is_judged_elsewhere() -> None:
    for place in (-1, len(STAGES) - 1, len(STAGES)):
        with pytest.raises(UsageError, match="none before the comparison"):
            judge_stage(CONFIG, facts(), place=place, limits=LIMITS)


counts = st.integers(0, 5_000)
served = st.builds(
    lambda requests, failing, p99, digest: Served(requests, round(requests * failing), p99, p99, digest),
    counts,
    st.floats(0, 1),
    st.none() | st.floats(0.1, 1e4),
    st.sampled_from([(), ("a" * 64,), ("b" * 64,), ("b" * 64, "d" * 64)]),
)
any_facts = st.builds(
    facts,
    watermark=st.integers(0, 24 * 20).map(lambda hours: START + timedelta(hours=hours)),
    served=st.fixed_dictionaries({}, optional={CHAMPION: served, "challenger": served}),
    sums=st.none() | st.builds(canary, champion=st.floats(0, 0.5), challenger=st.floats(0, 0.5), n=st.integers(0, 900)),
    credit=st.just({})
    | st.tuples(counts, counts).map(lambda pair: {"challenger": judge_interleaving(*pair, alpha=0.01)}),
    problems=st.sampled_from([(), (), ("late",)]),
)


GOOD = facts(sums=canary(), credit={"challenger": judge_interleaving(100, 30, alpha=0.01)})
LONG_WAY = [(GOOD, Verdict.CONTINUE, False)] * 4 + [(GOOD, Verdict.PROMOTE, False), (GOOD, Verdict.PROMOTE, True)]


@example(story=LONG_WAY)
@given(story=st.lists(st.tuples(any_facts | st.just(GOOD), st.sampled_from(list(Verdict)), st.booleans()), max_size=40))
def test_no_order_of_facts_skips_the_comparison_or_the_approval(
    story: list[tuple[StageFacts, Verdict, bool]],
) -> None:
    """Any facts at every stage, any verdict of the comparison, any person: the way to PROMOTING is the long one."""
    place, state, passed = 0, TrialState.SHADOW, [TrialState.SHADOW]
    after = {
        Verdict.REJECT: TrialState.REJECTED,
        Verdict.INCONCLUSIVE: TrialState.INCONCLUSIVE,
        Verdict.PROMOTE: TrialState.AWAIT_APPROVAL,
    }
    for told, compared, approved in story:
        following = None
        if state is TrialState.AWAIT_APPROVAL:
            following = TrialState.PROMOTING if approved else None
        elif state is TrialState.COMPARE:
            following = after.get(compared)
        elif not state.is_end and state is not TrialState.PROMOTING:
            step = judge_stage(CONFIG, told, place=place, limits=LIMITS)
            assert step.verdict in EARLY
            following = after.get(step.verdict)
            if step.into is not None:
                assert step.verdict is Verdict.CONTINUE
                assert not told.problems
                assert step.into == STAGES[place + 1]
                place += 1
                following = TrialState[step.into.mode.name]
        if following is not None and following is not state:
            assert following in TRANSITIONS[state]
            passed.append(following)
            state = following
    if story == LONG_WAY:
        assert state is TrialState.PROMOTING
    if TrialState.PROMOTING in passed:
        assert passed[-3:] == [TrialState.COMPARE, TrialState.AWAIT_APPROVAL, TrialState.PROMOTING]
        assert passed[:3] == [TrialState.SHADOW, TrialState.CANARY, TrialState.INTERLEAVE]


@given(told=any_facts, place=st.integers(0, 3))
def test_missing_data_always_holds(told: StageFacts, place: int) -> None:
    missing = replace(told, problems=("late",))
    step = judge_stage(CONFIG, missing, place=place, limits=LIMITS)
    assert (step.verdict, step.into, step.out) == (Verdict.HOLD, None, ())
    without = replace(told, served={}, credit={}, sums=None, problems=())
    assert judge_stage(CONFIG, without, place=place, limits=LIMITS).verdict is Verdict.HOLD


def test_a_canary_does_not_wait_for_the_whole_window() -> None:
    assert canary_window(CONFIG, STAGES[CANARY]) == 3  # half of its six hours, not W = 24
    assert canary_window(CONFIG, replace(STAGES[CANARY], hours=100)) == 24
    assert canary_window(CONFIG, replace(STAGES[CANARY], hours=0)) == 24
    back = Metric("back", "return", per="user", window_hours=20, after_hours=6)
    assert canary_window(replace(CONFIG, primary=back, stages=STAGES[-1:]), STAGES[CANARY]) == 24
    slow = Metric("carts", "cart", window_hours=12)
    short = within(replace(CONFIG, guardrails=(slow, back)), hours=3)
    assert (short.window_hours, short.guardrails) == (3, (replace(slow, window_hours=3),))
    assert within(CONFIG, hours=24) == CONFIG
