"""Trials with several challengers, and the champion against itself."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from gate.states import TrialMode, TrialState
from relations.errors import GateRefused, UsageError
from stores.ledger import Ledger
from stores.ledger_records import STATE_AFTER, ChallengerRecord, VersionRecord
from stores.serving_records import ServingTrial

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
ARMS = ("challenger", "challenger-2", "challenger-3")


def digest(number: int) -> str:
    return f"{number:064x}"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Champion version 1; 2 to 7 descend from it; 8 failed offline. Carol submitted version 3."""
    made = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    for number in range(1, 9):
        facts = {"offline_passed": number < 8, "submitter": "carol" if number == 3 else ""}
        common = {"mode": "full", "parent": number - 1 or None, "events_version": 1, "items_version": 1, "cutoff_us": 0}
        rest = {"metrics": {}, "run_id": "run", "created": T0, "checkpoint": ""}
        made.record_version(VersionRecord(version=number, digest=digest(number), **common, **rest, **facts))
    made.bootstrap(1, actor="ann", reason="the first", now=T0)
    return made


def begin(ledger: Ledger, *versions: int, trial: str = "t1", config: dict[str, Any] | None = None, **given: Any) -> str:
    given = {"salt": "s", "allocation": 0.5, "actor": "bob", "now": T0} | given
    return ledger.open_trial(trial, config or {}, challengers=versions, **given)


def look(ledger: Ledger, decision: str, *, number: int = 1, trial: str = "t1", **stated: Any) -> str:
    return ledger.record_evidence(trial, {"decision": decision, "look": number, **stated}, now=T0)


def approve(ledger: Ledger, trial: str = "t1", *, actor: str = "ann") -> Any:
    return ledger.approve(trial, actor=actor, reason="clicks rose", now=T0 + HOUR)


def serving(ledger: Ledger) -> ServingTrial:
    trial = ledger.serving_state().trial
    assert trial is not None
    return trial


def test_arms_are_named_in_order_and_serving_knows_them_all(ledger: Ledger) -> None:
    begin(ledger, 4, 2, 3)
    arms = tuple(
        ChallengerRecord(name, version, digest(version)) for name, version in zip(ARMS, (4, 2, 3), strict=True)
    )
    assert ledger.trial("t1").challengers == serving(ledger).challengers == arms
    assert (ledger.trial("t1").challenger, ledger.trial("t1").others) == (4, arms[1:])
    assert ledger.audit()[-1].payload["others"] == [vars(arm) for arm in arms[1:]]
    assert begin(ledger, 4, 2, 3) == ledger.trial("t1").config_hash, "the same again changes nothing"
    assert [entry.action for entry in ledger.audit()].count("open_trial") == 1
    with pytest.raises(GateRefused, match="another frozen configuration"):
        begin(ledger, 4, 3, 2)
    assert ledger.verify() == []


@pytest.mark.parametrize(
    ("versions", "refusal", "said"),
    [
        ((), UsageError, "0 challengers; at least 1, at most 5"),
        ((2, 3, 4, 5, 6, 7), UsageError, "6 challengers"),
        ((2, 3, 2), UsageError, "challengers 2, 3, 2 repeat a bundle"),
        ((2, 1), GateRefused, "version 1: is the champion already"),
        ((2, 8), GateRefused, "version 8: failed the offline check"),
        ((2, 77), UsageError, "version 77: not in the ledger"),
    ],
)
def test_each_challenger_is_checked_as_the_first_is(
    ledger: Ledger, versions: tuple[int, ...], refusal: Any, said: str
) -> None:
    entries = ledger.audit()
    with pytest.raises(refusal, match=said):
        begin(ledger, *versions)
    assert ledger.audit() == entries
    assert ledger.trials() == ()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"challenger_version": 3}, "challenger_version = 3, the trial is opened with 2"),
        ({"challenger_digest": digest(4)}, "challenger_digest"),
        ({"others": []}, r"others = \[\], the trial is opened with \[\{'name': 'challenger-2'"),
        ({"is_aa": True}, "is_aa = True, the trial is opened with False"),
        ({"bake_hours": -1}, "bake_hours = -1; a number of hours"),
        ({"bake_hours": "24"}, "bake_hours = '24'"),
        ({"bake_hours": True}, "bake_hours = True"),
    ],
)
def test_what_is_frozen_must_be_what_users_meet(ledger: Ledger, config: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        begin(ledger, 2, 3, config=config)
    assert ledger.trials() == ()


def test_any_challenger_that_failed_offline_marks_the_trial(ledger: Ledger) -> None:
    begin(ledger, 2, 8, allow_offline_worse=True, simulation=True)
    assert ledger.trial("t1").offline_worse


def test_out_takes_a_challenger_off_users_for_good_and_the_others_go_on(ledger: Ledger) -> None:
    begin(ledger, 2, 3, 4)
    look(ledger, "CONTINUE", number=1, out=["challenger-2"])
    assert serving(ledger).out == ledger.trial("t1").out == ("challenger-2",)
    look(ledger, "CONTINUE", number=2, out=[])
    look(ledger, "HOLD", number=3)
    assert serving(ledger).out == ("challenger-2",), "a later look does not bring it back"
    look(ledger, "CONTINUE", number=4, out=["challenger-2", "challenger"])
    assert serving(ledger).out == ("challenger-2", "challenger"), "in the order of their going"
    for arm, out in (("challenger", []), ("challenger-3", ["challenger-3"])):
        with pytest.raises(GateRefused, match=rf"{arm} \(version \d\) was rejected by a look"):
            look(ledger, "PROMOTE", number=5, challenger=arm, out=out)
    look(ledger, "PROMOTE", number=6, challenger="challenger-3", out=["challenger-2", "challenger"])
    assert ledger.trial("t1").proposed.version == 4
    told = [entry.payload["out"] for entry in ledger.audit() if entry.action == "record_evidence"]
    assert told == [["challenger-2"], [], [], ["challenger"], []]
    assert approve(ledger).version == 4
    assert ledger.verify() == []


@pytest.mark.parametrize(("key", "stated"), [("challenger", "challenger-9"), ("out", ["champion"])])
def test_a_look_can_only_name_the_trials_arms(ledger: Ledger, key: str, stated: Any) -> None:
    begin(ledger, 2, 3)
    with pytest.raises(UsageError, match=rf"evidence {key} names '\S+'; its arms are challenger, challenger-2"):
        look(ledger, "CONTINUE", **{key: stated})


def test_an_approval_promotes_whom_the_newest_look_names(ledger: Ledger) -> None:
    begin(ledger, 2, 3)
    look(ledger, "PROMOTE", number=1, challenger="challenger")
    passed = look(ledger, "PROMOTE", number=2, challenger="challenger-2", challenger_digest=digest(3))
    with pytest.raises(GateRefused, match="carol submitted it"):
        approve(ledger, actor="carol")
    champion = approve(ledger)
    assert (champion.version, champion.digest) == (3, digest(3))
    told = ledger.audit()[-1].payload
    assert (told["challenger"], told["to"]["version"], told["to"]["digest"]) == ("challenger-2", 3, digest(3))
    assert told["evidence"] == passed
    assert approve(ledger, actor="dora") == champion


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"champion_epoch": 2}, "champion_epoch = 2, the trial has 1"),
        ({"champion_digest": digest(9)}, "champion_digest"),
        ({"config_hash": "x"}, "config_hash = 'x'"),
        ({"challenger_digest": digest(3)}, "challenger_digest"),
        ({"challenger": "challenger-2", "challenger_digest": digest(2)}, "challenger_digest"),
        ({"stage": "canary"}, "is at canary; only a comparison can promote"),
    ],
)
def test_a_promote_must_be_of_this_comparison(ledger: Ledger, stated: dict[str, Any], said: str) -> None:
    begin(ledger, 2, 3)
    with pytest.raises(GateRefused, match=said):
        look(ledger, "PROMOTE", **stated)
    assert ledger.trial("t1").state is TrialState.COMPARE
    assert ledger.trial("t1").looks == 0


def test_a_rejected_trial_rejects_all_its_challengers(ledger: Ledger) -> None:
    begin(ledger, 2, 3)
    ledger.reject("t1", actor="ann", reason="ugly pictures", now=T0)
    for version in (2, 3):
        with pytest.raises(GateRefused, match=f"version {version}: the same bundle was rejected in trial t1"):
            begin(ledger, 4, version, trial="t2")
    begin(ledger, 4, trial="t2")


def test_who_went_out_cannot_come_back_and_who_did_not_can(ledger: Ledger) -> None:
    begin(ledger, 2, 3, 4)
    look(ledger, "CONTINUE", number=1, out=["challenger"])
    look(ledger, "PROMOTE", number=2, out=["challenger"], challenger="challenger-3")
    approve(ledger)
    with pytest.raises(GateRefused, match="version 2: the same bundle was rejected in trial t1"):
        begin(ledger, 5, 2, trial="t2")
    begin(ledger, 3, 5, trial="t2")
    assert ledger.verify() == []


def test_a_waiting_trial_makes_way_for_a_newer_version_than_all_of_its_own(ledger: Ledger) -> None:
    begin(ledger, 2, 4)
    look(ledger, "PROMOTE")
    with pytest.raises(GateRefused, match="with version 4, and version 3 is not newer"):
        begin(ledger, 3, trial="t2")
    begin(ledger, 3, 5, trial="t2")
    assert ledger.trial("t1").state is TrialState.STALE


def test_the_champion_meets_itself_and_is_never_promoted(ledger: Ledger) -> None:
    begin(ledger, 1, is_aa=True, config={"is_aa": True})
    trial = ledger.trial("t1")
    assert (trial.is_aa, trial.challenger_digest, trial.offline_worse) == (True, trial.champion_digest, False)
    assert serving(ledger).challenger_digest == digest(1)
    with pytest.raises(GateRefused, match="an A/A trial never promotes"):
        look(ledger, "PROMOTE")
    with pytest.raises(GateRefused, match="is COMPARE, not AWAIT_APPROVAL"):
        approve(ledger)
    look(ledger, "INCONCLUSIVE")
    assert ledger.trial("t1").state is TrialState.INCONCLUSIVE
    assert ledger.verify() == []


def test_a_difference_between_the_champion_and_itself_forbids_no_bundle(ledger: Ledger) -> None:
    begin(ledger, 1, is_aa=True)
    look(ledger, "REJECT", out=["challenger"])
    assert ledger.trial("t1").state is TrialState.REJECTED
    assert "a difference between the champion and itself" in ledger.trial("t1").reason
    begin(ledger, 2, trial="t2")
    look(ledger, "PROMOTE", trial="t2")
    approve(ledger, "t2")
    begin(ledger, 1, trial="t3")  # version 1 again, as a challenger now
    ledger.reject("t3", actor="ann", reason="old", now=T0)
    with pytest.raises(GateRefused, match="rejected in trial t3"):
        begin(ledger, 1, trial="t4")
    assert ledger.verify() == []


@pytest.mark.parametrize(
    ("versions", "refusal", "said"),
    [
        ((2,), GateRefused, "lets the champion meet itself, which is version 1"),
        ((1, 2), UsageError, "an A/A trial has one challenger"),
    ],
)
def test_only_the_champion_can_meet_itself(ledger: Ledger, versions: tuple[int, ...], refusal: Any, said: str) -> None:
    with pytest.raises(refusal, match=said):
        begin(ledger, *versions, is_aa=True)


@pytest.mark.parametrize("mode", [TrialMode.SHADOW, TrialMode.CANARY, TrialMode.INTERLEAVE])
@pytest.mark.parametrize("ending", ["REJECT", "INCONCLUSIVE"])
def test_before_the_comparison_a_look_can_end_a_trial_and_never_promote(
    ledger: Ledger, mode: TrialMode, ending: str
) -> None:
    begin(ledger, 2, mode=mode, share=None if mode is TrialMode.SHADOW else 0.01)
    state = TrialState(mode.name)
    assert ledger.trial("t1").state is state
    for number, decision in enumerate(("CONTINUE", "HOLD"), start=1):
        look(ledger, decision, number=number, stage=str(mode))
        assert ledger.trial("t1").state is state
    with pytest.raises(GateRefused, match=f"is at {mode}; only a comparison"):
        look(ledger, "PROMOTE", number=3)
    look(ledger, ending, number=4, stage=str(mode))
    assert ledger.trial("t1").state is STATE_AFTER[ending]
    assert ledger.verify() == []


def test_a_hold_began_with_the_first_look_of_its_unbroken_row(ledger: Ledger) -> None:
    begin(ledger, 2)
    assert ledger.held_since("t1") is None
    began = []
    for number, decision in enumerate(("HOLD", "CONTINUE", "HOLD", "HOLD", "CONTINUE", "HOLD")):
        ledger.record_evidence("t1", {"decision": decision, "look": number}, now=T0 + number * HOUR)
        began.append(ledger.held_since("t1"))
    assert began == [T0, None, T0 + 2 * HOUR, T0 + 2 * HOUR, None, T0 + 5 * HOUR]


def test_lists_read_the_newest_look_and_serving_reads_none(ledger: Ledger) -> None:
    begin(ledger, 2, 3)
    for number in range(1, 6):
        look(ledger, "CONTINUE", number=number)
    (listed,), whole = ledger.trials(), ledger.trial("t1")
    assert (listed.looks, whole.looks) == (5, 5)
    assert [one.number for one in listed.evidence] == [5]
    assert [one.number for one in whole.evidence] == [1, 2, 3, 4, 5]
    assert listed.evidence[-1] == whole.evidence[-1]
    said: list[str] = []
    engine = ledger._database._opened().engine

    def hear(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        said.append(statement)

    event.listen(engine, "before_cursor_execute", hear)
    assert serving(ledger).id == "t1"
    assert said
    assert not [statement for statement in said if "evidence" in statement]
