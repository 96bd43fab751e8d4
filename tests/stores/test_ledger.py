"""The ledger's rules: who becomes champion, who may approve what, and what ends a trial."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from gate.states import TrialState
from gate.trial import digest as gate_digest
from relations.errors import DependencyFailed, GateRefused, SettingsError, UsageError
from stores.champion import move_champion
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord, canonical_json, sha256, stamp, unstamp

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def record(number: int, *, parent: int | None = None, passed: bool = True, submitter: str = "") -> VersionRecord:
    return VersionRecord(
        version=number,
        digest=f"{number:064x}",
        mode="full",
        parent=parent,
        events_version=number,
        items_version=0,
        cutoff_us=1_767_225_600_000_000,
        offline_passed=passed,
        metrics={"ndcg@10": 0.25},
        run_id=f"run-{number}",
        created=T0,
        checkpoint=f"checkpoints/{number}",
        submitter=submitter,
    )


@pytest.fixture
def ledger(ledger_url: str) -> Ledger:
    """Champion version 1; versions 2 to 4 descend from it, one from the other."""
    made = Ledger(ledger_url)
    for number, parent in ((1, None), (2, 1), (3, 2), (4, 3)):
        made.record_version(record(number, parent=parent))
    made.bootstrap(1, actor="ann", reason="the first", now=T0)
    return made


def begin(ledger: Ledger, trial: str = "t1", *, challenger: int = 2, **stated: Any) -> str:
    given = {"salt": "salt", "allocation": 0.5, "actor": "bob", "now": T0} | stated
    return ledger.open_trial(trial, {"challenger": challenger, "n_max": 100}, challengers=[challenger], **given)


def look(ledger: Ledger, decision: str = "PROMOTE", trial: str = "t1", *, number: int = 1, now: datetime = T0) -> str:
    return ledger.record_evidence(trial, {"decision": decision, "look": number, "lift": 0.1}, now=now)


def approve(ledger: Ledger, trial: str = "t1", *, actor: str = "ann", now: datetime = T0 + HOUR) -> Any:
    return ledger.approve(trial, actor=actor, reason="clicks rose", now=now)


def test_the_whole_way_from_nothing_to_a_promotion_and_back(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    assert ledger.serving_state().champion is None
    assert ledger.candidate() is None
    ledger.record_version(record(1))
    ledger.record_version(record(2, parent=1))
    first = ledger.bootstrap(1, actor="ann", reason="the first", now=T0)
    assert (first.version, first.epoch, first.since) == (1, 1, T0)
    begin(ledger)
    state = ledger.serving_state()
    assert state.trial is not None
    assert (state.trial.challenger_version, state.trial.champion_epoch, state.trial.allocation) == (2, 1, 0.5)
    evidence = look(ledger)
    assert ledger.trial("t1").state is TrialState.AWAIT_APPROVAL
    assert ledger.serving_state().trial is not None, "the comparison goes on while a person thinks"
    second = approve(ledger)
    assert (second.version, second.epoch) == (2, 2)
    assert ledger.serving_state().champion == second
    assert ledger.serving_state().trial is None
    assert ledger.trial("t1").evidence[-1].sha256 == evidence
    third = ledger.rollback(actor="ann", reason="complaints", now=T0 + 2 * HOUR)
    assert (third.version, third.digest, third.epoch) == (1, first.digest, 3)
    assert ledger.trial("t1").state is TrialState.ROLLED_BACK
    assert [reign.how for reign in ledger.history()] == ["bootstrap", "promote", "rollback"]
    promoted = next(entry for entry in ledger.audit() if entry.action == "promote")
    assert promoted.actor == "ann"
    assert promoted.payload["evidence"] == evidence
    assert promoted.payload["from"]["version"] == 1
    assert ledger.verify() == []


def test_a_second_ledger_reads_what_the_first_wrote(ledger: Ledger, ledger_url: str) -> None:
    other = Ledger(ledger_url)
    assert other.champion() == ledger.champion()
    assert other.version(2) == record(2, parent=1)


def test_recording_a_version_twice_keeps_the_first_entry(ledger: Ledger) -> None:
    assert ledger.record_version(replace(record(9, parent=1), digest=f"{2:064x}")) == 2
    assert [each.version for each in ledger.versions()] == [1, 2, 3, 4]
    with pytest.raises(UsageError, match="version 2: is recorded with digest"):
        ledger.record_version(replace(record(2), digest="f" * 64))


def test_the_candidate_is_the_newest_that_passed_and_descends_from_the_champion(ledger: Ledger) -> None:
    assert ledger.candidate() == record(4, parent=3)
    ledger.record_version(record(5, parent=4, passed=False))
    ledger.record_version(record(6))  # from scratch, with no parent: it does not descend
    ledger.record_version(record(7, parent=6))
    assert ledger.candidate() == record(4, parent=3)
    begin(ledger, challenger=4)
    look(ledger)
    approve(ledger)
    assert ledger.candidate() is None, "5 failed, 6 and 7 do not descend from 4"
    ledger.record_version(record(8, parent=5))
    candidate = ledger.candidate()
    assert candidate is not None
    assert candidate.version == 8, "a failed parent is no bar for its child"


def test_bootstrap_only_while_there_is_no_champion(ledger: Ledger) -> None:
    assert ledger.bootstrap(1, actor="eve", reason="again", now=T0 + HOUR) == ledger.champion()
    with pytest.raises(GateRefused, match="needs a trial"):
        ledger.bootstrap(2, actor="eve", reason="mine", now=T0)
    with pytest.raises(UsageError, match="version 77"):
        ledger.bootstrap(77, actor="eve", reason="mine", now=T0)
    assert len(ledger.history()) == 1


def test_open_trial_refuses(ledger: Ledger, tmp_path: Path) -> None:
    empty = Ledger(f"sqlite:///{tmp_path / 'empty.db'}")
    empty.record_version(record(2))
    with pytest.raises(GateRefused, match="no champion to meet"):
        begin(empty)
    with pytest.raises(GateRefused, match="is the champion already"):
        begin(ledger, challenger=1)
    with pytest.raises(UsageError, match="version 77"):
        begin(ledger, challenger=77)
    with pytest.raises(UsageError, match=r"allocation = 1\.5"):
        begin(ledger, allocation=1.5)
    with pytest.raises(UsageError, match="Name a person"):
        begin(ledger, actor=" ")
    begin(ledger)
    with pytest.raises(GateRefused, match="t1: is running"):
        begin(ledger, "t2", challenger=3)
    assert ledger.verify() == []


def test_a_challenger_that_failed_offline_needs_a_simulation(ledger: Ledger) -> None:
    ledger.record_version(record(5, parent=4, passed=False))
    with pytest.raises(GateRefused, match="failed the offline check"):
        begin(ledger, challenger=5)
    with pytest.raises(GateRefused, match="simulation homes only"):
        begin(ledger, challenger=5, allow_offline_worse=True)
    begin(ledger, challenger=5, allow_offline_worse=True, simulation=True)
    assert ledger.trial("t1").offline_worse
    assert ledger.audit()[-1].payload["offline_worse"] is True


def test_opening_the_same_trial_twice_is_one_trial_and_an_edit_is_refused(ledger: Ledger) -> None:
    frozen = begin(ledger)
    entries = len(ledger.audit())
    assert begin(ledger) == frozen == sha256('{"challenger":2,"n_max":100}')
    assert len(ledger.audit()) == entries
    with pytest.raises(GateRefused, match="another frozen configuration"):
        begin(ledger, challenger=3)


def test_a_newer_challenger_replaces_one_that_waits(ledger: Ledger) -> None:
    begin(ledger, challenger=3)
    look(ledger)
    with pytest.raises(GateRefused, match="not newer"):
        begin(ledger, "t2", challenger=2)
    begin(ledger, "t2", challenger=4)
    assert ledger.trial("t1").state is TrialState.STALE
    serving = ledger.serving_state().trial
    assert serving is not None
    assert serving.id == "t2"
    with pytest.raises(GateRefused, match="STALE"):
        approve(ledger, "t1")


@pytest.mark.parametrize(
    ("decision", "state", "serves"),
    [
        ("CONTINUE", TrialState.COMPARE, True),
        ("HOLD", TrialState.COMPARE, True),
        ("PROMOTE", TrialState.AWAIT_APPROVAL, True),
        ("REJECT", TrialState.REJECTED, False),
        ("INCONCLUSIVE", TrialState.INCONCLUSIVE, False),
    ],
)
def test_what_a_decision_makes_of_a_trial(ledger: Ledger, decision: str, state: TrialState, serves: bool) -> None:
    begin(ledger)
    look(ledger, decision)
    assert ledger.trial("t1").state is state
    assert ledger.trial("t1").decision == decision
    assert (ledger.serving_state().trial is not None) is serves


def test_evidence_is_recorded_once_and_never_after_the_end(ledger: Ledger) -> None:
    begin(ledger)
    first = look(ledger, "CONTINUE")
    assert look(ledger, "CONTINUE") == first == sha256('{"decision":"CONTINUE","lift":0.1,"look":1}')
    assert len(ledger.trial("t1").evidence) == 1
    with pytest.raises(UsageError, match="decision = 'MAYBE'"):
        look(ledger, "MAYBE")
    with pytest.raises(UsageError, match=r"sums\[1\]\.n is not a finite number"):
        ledger.record_evidence("t1", {"decision": "HOLD", "sums": [{"n": 1.0}, {"n": float("nan")}]}, now=T0)
    look(ledger, "REJECT", number=2)
    with pytest.raises(GateRefused, match="takes no more evidence"):
        look(ledger, "PROMOTE", number=3)
    with pytest.raises(UsageError, match="no such trial"):
        look(ledger, trial="t9")


def test_approval_refuses_the_submitter_of_trial_or_training(ledger: Ledger) -> None:
    ledger.record_version(record(5, parent=4, submitter="Carol"))
    begin(ledger, challenger=5)
    look(ledger)
    for name in ("bob", " BOB ", "carol"):
        with pytest.raises(GateRefused, match="cannot approve it"):
            approve(ledger, actor=name)
    with pytest.raises(UsageError, match="Name a person"):
        approve(ledger, actor="  ")
    with pytest.raises(UsageError, match="--reason"):
        ledger.approve("t1", actor="ann", reason="", now=T0)
    assert ledger.trial("t1").state is TrialState.AWAIT_APPROVAL, "a refused approval changes nothing"
    assert approve(ledger).version == 5


def test_approval_needs_a_promote_as_the_newest_look(ledger: Ledger) -> None:
    begin(ledger)
    with pytest.raises(GateRefused, match="is COMPARE, not AWAIT_APPROVAL"):
        approve(ledger)
    look(ledger)
    look(ledger, "HOLD", number=2)
    with pytest.raises(GateRefused, match="look 2 says HOLD"):
        approve(ledger)
    look(ledger, number=3)
    assert approve(ledger).version == 2


def test_evidence_ages_and_a_fresh_look_renews_it(ledger: Ledger) -> None:
    begin(ledger)
    look(ledger)
    with pytest.raises(GateRefused, match=r"older than 24 hours; look again"):
        approve(ledger, now=T0 + 24 * HOUR + timedelta(microseconds=1))
    look(ledger, number=2, now=T0 + 25 * HOUR)
    assert approve(ledger, now=T0 + 49 * HOUR).version == 2, "24 hours to the microsecond are not too old"


def test_a_trial_that_waits_too_long_expires(ledger: Ledger) -> None:
    begin(ledger)
    look(ledger)
    look(ledger, number=2, now=T0 + 72 * HOUR)
    assert ledger.expire(T0 + 72 * HOUR) == ()
    with pytest.raises(GateRefused, match="EXPIRED: waited for approval since 2026-01-01 00"):
        approve(ledger, now=T0 + 72 * HOUR + timedelta(seconds=1))
    assert ledger.trial("t1").state is TrialState.EXPIRED
    assert ledger.serving_state().trial is None
    begin(ledger, "t2", challenger=3)
    look(ledger, trial="t2")
    assert ledger.expire(T0 + 73 * HOUR) == ("t2",)
    assert ledger.verify() == []


def test_approving_twice_is_one_commit(ledger: Ledger) -> None:
    begin(ledger)
    look(ledger)
    champion = approve(ledger)
    entries = len(ledger.audit())
    assert approve(ledger, actor="dora", now=T0 + 2 * HOUR) == champion
    assert len(ledger.audit()) == entries
    begin(ledger, "t2", challenger=3)
    look(ledger, trial="t2")
    approve(ledger, "t2")
    with pytest.raises(GateRefused, match="is PROMOTED, not AWAIT_APPROVAL"):
        approve(ledger)
    for _ in range(2):
        ledger.rollback(actor="ann", reason="complaints", now=T0 + 3 * HOUR)
    with pytest.raises(GateRefused, match="ROLLED_BACK"):
        approve(ledger)


def test_a_changed_champion_makes_the_trial_stale(ledger: Ledger) -> None:
    """Cannot happen through the ledger's own steps, which end open trials; an old row must be refused all the same."""
    begin(ledger)
    look(ledger)
    with ledger._database.write() as tx:
        tx.execute(text("UPDATE trial SET champion_epoch = 7"))
    assert ledger.serving_state().trial is None
    with pytest.raises(GateRefused, match="STALE: it was run against the champion of epoch 7, now it is version 1"):
        approve(ledger)
    assert ledger.trial("t1").state is TrialState.STALE
    assert len(ledger.history()) == 1


def test_a_rejected_bundle_cannot_come_back(ledger: Ledger) -> None:
    begin(ledger)
    look(ledger)
    ledger.reject("t1", actor="bob", reason="too few new items", now=T0)
    assert (ledger.trial("t1").decided_by, ledger.trial("t1").reason) == ("bob", "too few new items")
    ledger.reject("t1", actor="bob", reason="too few new items", now=T0)
    with pytest.raises(GateRefused, match="REJECTED, not AWAIT"):
        approve(ledger)
    with pytest.raises(GateRefused, match="rejected in trial t1"):
        begin(ledger, "t2")
    begin(ledger, "t2", challenger=3)
    look(ledger, "REJECT", trial="t2")
    with pytest.raises(GateRefused, match="rejected in trial t2"):
        begin(ledger, "t3", challenger=3)


def test_a_stopped_trial_may_be_tried_again(ledger: Ledger) -> None:
    begin(ledger)
    ledger.stop_trial("t1", actor="ann", reason="wrong window", now=T0)
    assert ledger.serving_state().trial is None
    with pytest.raises(GateRefused, match="is ABORTED already"):
        ledger.reject("t1", actor="ann", reason="late", now=T0)
    begin(ledger, "t2")


def test_rollback_goes_further_back_and_never_forth(ledger: Ledger) -> None:
    for trial, challenger in (("t1", 2), ("t2", 3)):
        begin(ledger, trial, challenger=challenger)
        look(ledger, trial=trial)
        approve(ledger, trial)
    begin(ledger, "t3", challenger=4)
    back = [ledger.rollback(actor="ann", reason="worse", now=T0) for _ in range(2)]
    assert [each.version for each in back] == [2, 1]
    assert [each.epoch for each in back] == [4, 5]
    assert ledger.trial("t3").state is TrialState.STALE
    with pytest.raises(GateRefused, match="no champion before"):
        ledger.rollback(actor="ann", reason="worse", now=T0)
    begin(ledger, "t4", challenger=4)
    look(ledger, trial="t4")
    approve(ledger, "t4")
    assert ledger.rollback(actor="ann", reason="worse", now=T0).version == 1
    with pytest.raises(GateRefused, match="no champion before"):
        ledger.rollback(actor="ann", reason="worse", now=T0)
    assert ledger.verify() == []


def test_rollback_refuses_when_the_champion_changed_since_the_caller_looked(ledger: Ledger) -> None:
    begin(ledger)
    look(ledger)
    approve(ledger)
    ledger.rollback(actor="ann", reason="worse", now=T0, expected_epoch=2)
    with pytest.raises(GateRefused, match="at epoch 3, not 2"):
        ledger.rollback(actor="dora", reason="worse", now=T0, expected_epoch=2)


def test_surfaces_are_separate(ledger: Ledger) -> None:
    ledger.bootstrap(3, actor="ann", reason="another page", now=T0, surface="cart")
    begin(ledger, "t1")
    begin(ledger, "t2", challenger=4, surface="cart")
    trial = ledger.serving_state("cart").trial
    assert trial is not None
    assert (trial.id, trial.champion_epoch) == ("t2", 1)
    assert ledger.verify() == []


def test_what_the_gate_freezes_hashes_alike_here() -> None:
    config = {"ü": [1, 2.5, None], "a": {"c": True, "b": "x"}}
    assert sha256(canonical_json(config, what="config")) == gate_digest(config)


@given(st.datetimes(timezones=st.just(UTC)))
def test_stamps_keep_the_moment_and_its_order(moment: datetime) -> None:
    assert unstamp(stamp(moment)) == moment
    assert (stamp(moment) < stamp(T0)) == (moment < T0)


def test_times_without_zone_are_refused(ledger: Ledger) -> None:
    with pytest.raises(UsageError, match="without zone"):
        begin(ledger, now=datetime(2026, 1, 1))  # noqa: DTZ001


def test_an_unreachable_database_says_where(tmp_path: Path) -> None:
    with pytest.raises(DependencyFailed, match=r"nowhere/ledger\.db: unable to open"):
        Ledger(f"sqlite:///{tmp_path / 'nowhere' / 'ledger.db'}").champion()
    (tmp_path / "broken.db").write_bytes(b"not a database" * 100)
    with pytest.raises(DependencyFailed, match=r"broken\.db: file is not a database"):
        Ledger(f"sqlite:///{tmp_path / 'broken.db'}").champion()
    with pytest.raises(SettingsError, match="not a database URL"):
        Ledger("ledger.db")


def test_the_swap_compares_and_leaves_everything_when_it_loses(ledger: Ledger) -> None:
    begin(ledger)
    entries = len(ledger.audit())
    stated = {"surface": "default", "version": 2, "digest": "d", "how": "promote", "subject": "trial t1"}
    with ledger._database.write() as tx:
        for expected in (None, 0, 2):
            assert move_champion(tx, expected=expected, actor="ann", reason="good", now=T0, **stated) is None
    champion = ledger.champion()
    assert champion is not None
    assert (champion.version, champion.epoch, len(ledger.history()), len(ledger.audit())) == (1, 1, 1, entries)
