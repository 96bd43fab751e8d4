"""Rules beyond one comparison of everybody: several challengers, slices, least days, bots, A/A, and the outlook."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from gate.boundaries import Spending, boundaries
from gate.decision import decide
from gate.estimator import ArmSums
from gate.guardrails import judge_guardrail
from gate.looks import DaySums, LookSums, MetricSums
from gate.metrics import Better, Metric, Slice
from gate.trial import Challenger, TrialConfig
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
THREE = replace(
    CONFIG,
    allocation=0.75,
    others=(Challenger("challenger-2", 3, "c" * 64), Challenger("challenger-3", 4, "d" * 64)),
)
ARMS = THREE.arms


def arm(users, rate):
    """10 impressions a user; Var(S) = 1 a user, so Var(R) = 1/(users·100)."""
    mean = 10 * rate
    moments = {"ss": users * mean**2 + (users - 1), "si": 10 * users * mean, "ii": 100.0 * users}
    return ArmSums(n=users, s=users * mean, i=10.0 * users, **moments)


def look(users, rates, *, day=1.0, **others):
    """`users` in each arm, with the rates of champion, challenger, challenger-2, …"""
    arms = {name: arm(users, rate) for name, rate in zip(ARMS, rates, strict=False)}
    given = {"exposed": {name: int(sums.n) + 10 for name, sums in arms.items()}, **others}
    return LookSums(
        watermark=START + timedelta(days=day),
        since=START,
        metrics={"clicks": MetricSums((DaySums(date(2026, 3, 1), arms),))},
        **given,
    )


# several challengers


def test_each_challenger_is_tested_at_its_share_of_alpha():
    judgement = decide(THREE, [look(1_000, (0.1, 0.1, 0.1, 0.1))])
    (third,) = boundaries((0.5,), spending=Spending.OBF, alpha=0.025 / 3, final=False)
    assert [each.boundary for each in judgement.comparisons] == [third.z] * 3
    assert [each.challenger for each in judgement.comparisons] == list(ARMS[1:])


def test_the_best_of_those_that_pass_is_promoted():
    judgement = decide(THREE, [look(1_000, (0.100, 0.125, 0.131, 0.100))])
    assert [each.verdict for each in judgement.comparisons] == [Verdict.PROMOTE, Verdict.PROMOTE, Verdict.CONTINUE]
    assert (judgement.verdict, judgement.leading.challenger) == (Verdict.PROMOTE, "challenger-2")
    assert judgement.reasons[0].startswith("challenger-2 (v3): z = ")
    assert any(reason.startswith("challenger (v2): PROMOTE") for reason in judgement.reasons)
    assert judgement.as_json()["challenger"] == "challenger-2"
    assert set(judgement.as_json()["comparisons"]) == set(ARMS[1:])


def test_one_that_harms_goes_and_the_others_go_on():
    first = look(1_000, (0.100, 0.060, 0.101, 0.100))
    judgement = decide(THREE, [first])
    assert (judgement.verdict, judgement.out) == (Verdict.CONTINUE, ("challenger",))
    later = look(1_500, (0.100, 0.060, 0.101, 0.100), day=2, out=judgement.out)
    again = decide(THREE, [first, later])
    assert [each.challenger for each in again.comparisons] == ["challenger-2", "challenger-3"]
    assert (again.verdict, again.out) == (Verdict.CONTINUE, ("challenger",))
    assert "challenger (v2): rejected by an earlier look" in again.reasons


def test_the_users_of_one_that_went_are_no_mismatch_for_the_others():
    frozen = {"champion": 2_000, "challenger": 500, "challenger-2": 2_000, "challenger-3": 2_000}
    later = look(1_900, (0.1, 0.06, 0.101, 0.1), day=2, exposed=frozen, out=("challenger",))
    assert decide(THREE, [later]).verdict is Verdict.CONTINUE
    alike = look(1_900, (0.1, 0.1, 0.1, 0.1), day=2, exposed=frozen)
    assert decide(THREE, [alike]).verdict is Verdict.HOLD


def test_when_the_last_one_goes_the_trial_is_rejected():
    last = look(1_000, (0.100, 0.060, 0.060, 0.060), out=("challenger", "challenger-2"))
    judgement = decide(THREE, [last])
    assert (judgement.verdict, judgement.out) == (Verdict.REJECT, ARMS[1:])


def test_a_trial_of_several_ends_when_the_last_comparison_does():
    undecided = look(2_000, (0.100, 0.104, 0.104, 0.104), day=2)
    assert decide(THREE, [undecided]).verdict is Verdict.INCONCLUSIVE
    slow = {name: arm(2_000 if name != "challenger-3" else 1_900, 0.104) for name in ARMS[1:]}
    arms = {"champion": arm(2_000, 0.1), **slow}
    waiting = replace(undecided, metrics={"clicks": MetricSums((DaySums(date(2026, 3, 1), arms),))})
    assert decide(THREE, [waiting]).verdict is Verdict.CONTINUE


# slices


def sliced(config, *, margin=0.1, protected=False):
    return replace(config, slices=(Slice("newcomers", by="new", equals="true", margin=margin, protected=protected),))


def of_slice(champion, challenger, users=500):
    return {"newcomers": {"champion": arm(users, champion), "challenger": arm(users, challenger)}}


def test_a_slice_proven_harmed_rejects_a_winner():
    # SE = √(2/(500·100)) = .0063; .05 against .9·.1 is 6.5 of them.
    judgement = decide(sliced(CONFIG), [look(1_000, (0.100, 0.125), slices=of_slice(0.1, 0.05))])
    assert judgement.verdict is Verdict.REJECT
    assert judgement.reasons[0].startswith("slice newcomers: proven worse than its margin of 10.0%")


def test_a_slice_that_only_looks_bad_blocks_where_it_is_protected():
    bad = look(1_000, (0.100, 0.125), slices=of_slice(0.1, 0.09))
    assert decide(sliced(CONFIG), [bad]).verdict is Verdict.PROMOTE
    judgement = decide(sliced(CONFIG, protected=True), [bad])
    assert judgement.verdict is Verdict.CONTINUE
    assert judgement.reasons[0].startswith("protected slice newcomers")
    good = look(1_000, (0.100, 0.125), slices=of_slice(0.1, 0.125))
    assert decide(sliced(CONFIG, protected=True), [good]).verdict is Verdict.PROMOTE


@pytest.mark.parametrize("slices", [{"newcomers": {}}, of_slice(0.1, 0.2, users=1)])
def test_a_protected_slice_without_users_never_passes(slices):
    judgement = decide(sliced(CONFIG, protected=True), [look(1_000, (0.100, 0.125), slices=slices)])
    assert judgement.verdict is Verdict.CONTINUE
    assert "too few users" in judgement.reasons[0]
    assert judgement.leading.slices[0].rail is None
    end = look(2_000, (0.100, 0.125), day=2, slices=slices)
    assert decide(sliced(CONFIG, protected=True), [end]).verdict is Verdict.INCONCLUSIVE


def test_many_slices_share_the_error_of_being_harmed():
    """Holm: what would be proven alone is not among ten."""
    alone = decide(sliced(CONFIG), [look(1_000, (0.1, 0.1), slices=of_slice(0.1, 0.066))])
    assert alone.verdict is Verdict.REJECT
    names = [f"part {n}" for n in range(10)]
    ten = replace(CONFIG, slices=tuple(Slice(name, by="surface", equals=name) for name in names))
    (hurt,) = of_slice(0.1, 0.066).values()
    (fine,) = of_slice(0.1, 0.1).values()
    parts = {name: hurt if name == "part 3" else fine for name in names}
    assert decide(ten, [look(1_000, (0.1, 0.1), slices=parts)]).verdict is Verdict.CONTINUE


# least days, bots, absolute margins


def test_nothing_is_promoted_before_the_least_days_and_no_alpha_is_spent():
    patient = replace(CONFIG, minimum_days=5)
    early, late = look(1_000, (0.100, 0.140), day=4.9), look(1_100, (0.100, 0.140), day=5)
    judgement = decide(patient, [early])
    assert judgement.verdict is Verdict.CONTINUE
    assert judgement.reasons[0] == "4.9 of at least 5 days are compared; nothing is promoted before"
    assert judgement.leading.spent == 0
    assert decide(patient, [early, late]).verdict is Verdict.PROMOTE
    assert decide(patient, [early, late]).leading.spent == decide(patient, [late]).leading.spent
    assert decide(patient, [look(1_000, (0.100, 0.060))]).verdict is Verdict.REJECT  # harm never waits


def test_n_max_before_the_least_days_is_not_the_end_but_the_deadline_is():
    patient = replace(CONFIG, minimum_days=5)
    many = look(2_500, (0.100, 0.140), day=2)
    assert decide(patient, [many]).verdict is Verdict.CONTINUE
    # The comparison began a week after the trial was opened, so that its least days end after the deadline.
    over = replace(many, watermark=START + timedelta(days=10), since=START + timedelta(days=7))
    judgement = decide(patient, [over])
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "3.0 of at least 5 days" in judgement.reasons[1]


def test_bots_that_fall_into_one_arm_are_a_mismatch():
    even = look(1_000, (0.100, 0.125), bots={"champion": 60, "challenger": 58})
    assert decide(CONFIG, [even]).verdict is Verdict.PROMOTE
    # With the prior as near to a half as it is, some 1,000 against 500 are needed; arms of matured users are alike.
    odd = look(1_000, (0.100, 0.125), bots={"champion": 1_000, "challenger": 500})
    judgement = decide(CONFIG, [odd])
    assert judgement.verdict is Verdict.HOLD
    assert "mismatch on users left out as bots" in judgement.reasons[0]
    assert judgement.leading.bots_p < 0.001


def test_no_failures_at_all_is_good_news_only_with_an_absolute_margin():
    none = arm(1_000, 0.0)
    none = replace(none, ss=0.0)
    relative = Metric("failures", "failure", better=Better.LOWER)
    given = {"champion": none, "challenger": none, "boundary": 2.5, "harm_alpha": 0.01, "n_max": 4_000}
    assert not judge_guardrail(relative, **given).holds
    allowed = judge_guardrail(replace(relative, absolute=0.001), **given)
    # 10,000 impressions an arm: one more failed one each is √2·1e-4, and .001 is 7.07 of them.
    assert allowed.z == pytest.approx(7.0711, abs=1e-4)
    assert allowed.holds
    few = replace(none, n=10, i=100.0, ii=1_000.0)
    assert not judge_guardrail(replace(relative, absolute=0.001), **{**given, "challenger": few}).holds


# A/A


AA = replace(CONFIG, challenger_version=1, challenger_digest="a" * 64, is_aa=True)


def test_an_aa_trial_never_promotes_and_cries_when_equals_differ():
    judgement = decide(AA, [look(1_000, (0.100, 0.140))])
    assert judgement.verdict is Verdict.REJECT
    assert "A/A: the same bundle differs from itself" in judgement.reasons[0]
    assert decide(AA, [look(1_000, (0.140, 0.100))]).verdict is Verdict.REJECT
    # z = −.0145/.00447 = −3.24: beyond the boundary 2.96 at half the users, short of proven harm (4.0).
    below = decide(AA, [look(1_000, (0.1145, 0.100))])
    assert (below.verdict, "z = -3.24 reaches the boundary" in below.reasons[1]) == (Verdict.REJECT, True)
    assert decide(CONFIG, [look(1_000, (0.1145, 0.100))]).verdict is Verdict.CONTINUE
    assert decide(AA, [look(1_000, (0.100, 0.102))]).verdict is Verdict.CONTINUE
    done = decide(AA, [look(2_000, (0.100, 0.102))])
    assert (done.verdict, done.reasons[0]) == (
        Verdict.INCONCLUSIVE,
        "A/A: no difference found between equal arms, as it must be",
    )
    small = replace(AA, minimum_effect=0.5)
    assert decide(small, [look(2_000, (0.100, 0.099))]).verdict is Verdict.INCONCLUSIVE  # below any effect, and right


def test_an_aa_trial_with_a_mismatch_holds_and_ends_rejected():
    skewed = {"champion": 1_500, "challenger": 600}
    assert decide(AA, [look(1_000, (0.1, 0.1), exposed=skewed)]).verdict is Verdict.HOLD
    assert decide(AA, [look(2_000, (0.1, 0.1), exposed=skewed)]).verdict is Verdict.REJECT


# the outlook


def test_the_outlook_tells_what_is_missing():
    continuing = decide(CONFIG, [look(1_000, (0.100, 0.110))]).leading
    # z = .01/√(2/100,000) = 2.236 at half of n_max, boundary 2.96; ×(boundary/z)² users reach the last one.
    needed = continuing.boundary * (2 / 100_000) ** 0.5 / 0.1
    assert continuing.outlook[0] == f"With today's users a lift of {needed:+.2%} would have been enough."
    assert "matured users" in continuing.outlook[1]
    behind = decide(CONFIG, [look(1_000, (0.100, 0.099))]).leading
    assert "The challenger must come out ahead; so far it does not." in behind.outlook
    few = decide(CONFIG, [look(150, (0.100, 0.110))]).leading
    assert few.outlook == ("100 more matured users for a first look.",)
    held = decide(CONFIG, [look(1_000, (0.1, 0.1), problems=("3 files wait",))]).leading
    assert held.outlook == ("The data must be whole first; then look again.", "3 files wait")
    ended = decide(CONFIG, [look(2_000, (0.100, 0.104))]).leading
    # √(2/200,000)/.1 = 3.16 % a standard error; 1.96 + .84 of them.
    assert ended.outlook[0] == "This trial could find a lift of +8.86% four times in five."
    assert "a new trial, planned for it" in ended.outlook[1]
