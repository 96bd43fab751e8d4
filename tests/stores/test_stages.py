"""A trial's stages: forward only, growing only, audited; and a kill that is final."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.states import STAGES, TrialMode, TrialState
from relations.errors import GateRefused, UsageError
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.serving_records import ServingTrial

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
WHO = {"actor": "ann", "reason": "so far so good"}


def made(path: Path) -> Ledger:
    ledger = Ledger(f"sqlite:///{path}")
    for number in (1, 2, 3):
        ledger.record_version(
            VersionRecord(number, f"{number:064x}", "full", number - 1 or None, 1, 1, 0, True, {}, "run", T0, "")
        )
    ledger.bootstrap(1, actor="ann", reason="the first", now=T0)
    return ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return made(tmp_path / "ledger.db")


def begin(ledger: Ledger, trial: str = "t1", *, challenger: int = 2, **given: Any) -> None:
    given = {"allocation": 0.5, "salt": "s", "actor": "bob", "now": T0} | given
    ledger.open_trial(trial, {"challenger": challenger}, challengers=[challenger], **given)


def stage(ledger: Ledger, mode: TrialMode, allocation: float | None = None, *, hours: int = 1) -> Any:
    return ledger.set_stage("t1", mode, allocation=allocation, now=T0 + hours * HOUR, **WHO)


def serving(ledger: Ledger) -> ServingTrial:
    trial = ledger.serving_state().trial
    assert trial is not None
    return trial


def test_a_trial_without_stages_compares(ledger: Ledger) -> None:
    begin(ledger)
    assert ledger.trial("t1").stages == ()
    assert ledger.trial("t1").mode is TrialMode.COMPARE
    assert (serving(ledger).mode, serving(ledger).allocation, serving(ledger).canary) == (TrialMode.COMPARE, 0.5, 0.0)
    assert [entry.action for entry in ledger.audit()][-1] == "open_trial"


def test_from_the_shadow_to_the_comparison(ledger: Ledger) -> None:
    begin(ledger, mode=TrialMode.SHADOW)
    assert (serving(ledger).mode, serving(ledger).allocation) == (TrialMode.SHADOW, 0.0)
    stage(ledger, TrialMode.CANARY, 0.01, hours=1)
    stage(ledger, TrialMode.CANARY, 0.05, hours=2)
    stage(ledger, TrialMode.INTERLEAVE, 0.2, hours=3)
    last = stage(ledger, TrialMode.COMPARE, hours=4)
    assert (last.number, last.allocation, last.since) == (5, 0.5, T0 + 4 * HOUR)
    modes = [(each.number, str(each.mode), each.allocation, each.actor) for each in ledger.trial("t1").stages]
    assert modes == [
        (1, "shadow", 0.0, "bob"),
        (2, "canary", 0.01, "ann"),
        (3, "canary", 0.05, "ann"),
        (4, "interleave", 0.2, "ann"),
        (5, "compare", 0.5, "ann"),
    ]
    trial = serving(ledger)
    assert (trial.mode, trial.allocation, trial.compared, trial.canary) == (TrialMode.COMPARE, 0.5, 0.5, 0.05)
    told = [entry for entry in ledger.audit() if entry.action == "set_stage"]
    assert [entry.payload["number"] for entry in told] == [1, 2, 3, 4, 5]
    assert ledger.verify() == []


@pytest.mark.parametrize(
    ("first", "share", "then", "allocation", "refusal", "said"),
    [
        ("canary", 0.02, "shadow", None, GateRefused, "shadow comes before it"),
        ("canary", 0.02, "canary", 0.01, GateRefused, "a ramp only grows"),
        ("interleave", 0.5, "interleave", 0.2, GateRefused, "a ramp only grows"),
        ("compare", None, "canary", 0.01, GateRefused, "canary comes before it"),
        ("shadow", None, "canary", 0.051, UsageError, "at most 0.05"),
        ("shadow", None, "canary", None, UsageError, "state a share"),
        ("shadow", None, "canary", 0.0, UsageError, "state a share"),
        ("shadow", None, "canary", float("nan"), UsageError, "state a share"),
        ("shadow", None, "shadow", 0.1, UsageError, "shown to nobody"),
        ("shadow", None, "interleave", 1.01, UsageError, "at most 1"),
        ("shadow", None, "compare", 0.4, UsageError, "frozen configuration says 0.5"),
        ("shadow", None, "killed", None, UsageError, "ratchet trial kill t1"),
    ],
)
def test_steps_that_cannot_be_taken_leave_no_trace(
    ledger: Ledger, first: str, share: float | None, then: str, allocation: float | None, refusal: Any, said: str
) -> None:
    begin(ledger, mode=TrialMode(first), share=share)
    entries = ledger.audit()
    with pytest.raises(refusal, match=said):
        stage(ledger, TrialMode(then), allocation)
    assert ledger.audit() == entries


def test_a_canary_leaves_the_comparison_half_of_its_users(ledger: Ledger) -> None:
    begin(ledger, allocation=0.04, mode=TrialMode.SHADOW)
    with pytest.raises(UsageError, match=r"at most 0\.02"):
        stage(ledger, TrialMode.CANARY, 0.03)
    assert stage(ledger, TrialMode.CANARY, 0.02).allocation == 0.02


def test_the_same_stage_again_is_once(ledger: Ledger) -> None:
    begin(ledger, mode=TrialMode.SHADOW)
    first = stage(ledger, TrialMode.CANARY, 0.01)
    entries = ledger.audit()
    assert stage(ledger, TrialMode.CANARY, 0.01, hours=9) == first
    assert ledger.audit() == entries


def test_a_killed_trial_is_shown_to_nobody_and_can_only_be_ended(ledger: Ledger) -> None:
    begin(ledger)
    killed = ledger.kill_trial("t1", actor="ann", reason="prices are gone", now=T0 + HOUR)
    assert (killed.mode, killed.allocation, killed.number) == (TrialMode.KILLED, 0.0, 1)
    assert serving(ledger).killed
    assert serving(ledger).allocation == 0.0
    assert ledger.kill_trial("t1", actor="eve", reason="me too", now=T0 + 2 * HOUR) == killed
    for step in (
        lambda: stage(ledger, TrialMode.COMPARE),
        lambda: ledger.record_evidence("t1", {"decision": "CONTINUE"}, now=T0 + HOUR),
    ):
        with pytest.raises(
            GateRefused, match=r"killed by ann \(prices are gone\); end it with `ratchet trial stop t1`"
        ):
            step()
    with pytest.raises(GateRefused, match="t1: is running"):
        begin(ledger, "t2", challenger=3)
    ledger.stop_trial("t1", actor="ann", reason="killed", now=T0 + HOUR)
    begin(ledger, "t2", challenger=3)
    assert [entry.action for entry in ledger.audit()].count("kill_trial") == 1
    assert ledger.verify() == []


def test_a_kill_voids_what_waits_for_approval(ledger: Ledger) -> None:
    begin(ledger)
    ledger.record_evidence("t1", {"decision": "PROMOTE"}, now=T0)
    with pytest.raises(GateRefused, match="AWAIT_APPROVAL; only a running trial"):
        stage(ledger, TrialMode.COMPARE)
    ledger.kill_trial("t1", actor="ann", reason="errors", now=T0 + HOUR)
    with pytest.raises(GateRefused, match="ABORTED: it was killed by ann: errors"):
        ledger.approve("t1", actor="carl", reason="clicks rose", now=T0 + 2 * HOUR)
    assert ledger.trial("t1").state is TrialState.ABORTED
    champion = ledger.champion()
    assert champion is not None
    assert champion.version == 1
    begin(ledger, "t2", challenger=3)
    ledger.stop_trial("t2", actor="ann", reason="enough", now=T0)
    with pytest.raises(GateRefused, match="t2: is ABORTED, it is over"):
        ledger.kill_trial("t2", actor="ann", reason="late", now=T0)


def test_only_a_comparison_promotes(ledger: Ledger) -> None:
    begin(ledger, mode=TrialMode.CANARY, share=0.01)
    with pytest.raises(GateRefused, match="is at canary; only a comparison can promote"):
        ledger.record_evidence("t1", {"decision": "PROMOTE"}, now=T0)
    ledger.record_evidence("t1", {"decision": "REJECT"}, now=T0)  # harm ends it at any stage
    with pytest.raises(GateRefused, match="is REJECTED"):
        stage(ledger, TrialMode.COMPARE)


def test_who_and_why_are_asked(ledger: Ledger) -> None:
    begin(ledger)
    for who, said in (({"actor": " ", "reason": "x"}, "who decides"), ({"actor": "ann", "reason": ""}, "why")):
        with pytest.raises(UsageError, match=said):
            ledger.kill_trial("t1", now=T0, **who)
    with pytest.raises(UsageError, match="no such trial"):
        ledger.kill_trial("t9", actor="ann", reason="x", now=T0)


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE trial_stages SET allocation = 0.5", "stage 1 of trial t1"),
        ("UPDATE trial_stages SET actor = 'eve'", "stage 1 of trial t1"),
        ("DELETE FROM trial_stages", "stage 1 of trial t1: the ledger holds None"),
        (
            "INSERT INTO trial_stages VALUES ('t1', 2, 'compare', 0.5, '2026-01-01T00:00:00.000000Z', 'eve', '')",
            "stage 2 of trial t1",
        ),
    ],
)
def test_verify_names_a_stage_changed_behind_its_back(ledger: Ledger, statement: str, named: str) -> None:
    begin(ledger, mode=TrialMode.CANARY, share=0.01)
    assert ledger.verify() == []
    with ledger._database.write() as tx:
        assert tx.exec_driver_sql(statement).rowcount == 1
    assert any(named in problem for problem in ledger.verify())


STEPS = st.lists(
    st.tuples(
        st.sampled_from([*STAGES, TrialMode.KILLED]), st.sampled_from([None, 0.0, 0.01, 0.03, 0.05, 0.3, 0.5, 1.0])
    ),
    max_size=8,
)


@settings(max_examples=15, deadline=None)
@given(first=st.sampled_from(STAGES[:2]), steps=STEPS)
def test_whatever_is_tried_stages_only_go_forward_and_shares_only_grow(
    tmp_path_factory: pytest.TempPathFactory, first: TrialMode, steps: list[tuple[TrialMode, float | None]]
) -> None:
    ledger = made(tmp_path_factory.mktemp("ledger") / "ledger.db")
    begin(ledger, mode=first, share=0.01 if first is TrialMode.CANARY else None)
    for mode, allocation in steps:
        try:
            if mode is TrialMode.KILLED:
                ledger.kill_trial("t1", now=T0, **WHO)
            else:
                stage(ledger, mode, allocation)
        except (GateRefused, UsageError):
            continue
    order = [*STAGES, TrialMode.KILLED]
    passed = ledger.trial("t1").stages
    for one, other in pairwise(passed):
        assert order.index(one.mode) <= order.index(other.mode)
        assert one.mode is not other.mode or one.allocation < other.allocation
    assert (serving(ledger).mode, serving(ledger).allocation) == (passed[-1].mode, passed[-1].allocation)
    assert ledger.verify() == []
