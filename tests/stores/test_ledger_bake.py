"""A promotion is watched before it is believed."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gate.states import TrialState
from relations.errors import GateRefused
from stores.ledger import Ledger
from stores.ledger_records import GATE, Champion, VersionRecord
from stores.serving_records import ServingBake
from stores.standing_records import DeltaLimits

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
BAKE = 24


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Champion version 1; 2 to 4 descend from it."""
    made = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    for number in range(1, 5):
        made.record_version(
            VersionRecord(number, f"{number:064x}", "full", number - 1 or None, 1, 1, 0, True, {}, "run", T0, "")
        )
    made.bootstrap(1, actor="ann", reason="the first", now=T0)
    return made


def begin(ledger: Ledger, trial: str = "t1", *, challenger: int = 2, bake_hours: float = BAKE) -> None:
    config = {"bake_hours": bake_hours}
    ledger.open_trial(trial, config, challengers=[challenger], salt="s", allocation=0.5, actor="bob", now=T0)


def approve(ledger: Ledger, trial: str = "t1", *, hours: int = 1) -> Champion:
    return ledger.approve(trial, actor="ann", reason="clicks rose", now=T0 + hours * HOUR)


def promoted(ledger: Ledger, *, until: TrialState = TrialState.PROMOTING) -> Champion:
    """`t1` approved an hour after T0, seen to serve at the second, believed at the 26th."""
    begin(ledger)
    ledger.record_evidence("t1", {"decision": "PROMOTE"}, now=T0)
    champion = approve(ledger)
    if until is not TrialState.PROMOTING:
        ledger.begin_bake("t1", now=T0 + 2 * HOUR)
    if until is TrialState.PROMOTED:
        ledger.end_bake("t1", now=T0 + (2 + BAKE) * HOUR)
    assert ledger.trial("t1").state is until
    return champion


WATCHED = pytest.mark.parametrize("state", [TrialState.PROMOTING, TrialState.BAKING])
AFTER = pytest.mark.parametrize("state", [TrialState.PROMOTING, TrialState.BAKING, TrialState.PROMOTED])


def test_from_the_approval_to_a_believed_champion(ledger: Ledger) -> None:
    champion = promoted(ledger)
    assert (champion.version, champion.epoch) == (2, 2)
    trial = ledger.trial("t1")
    assert (trial.is_open, trial.is_watched, trial.promoted_epoch, trial.bakes_until) == (False, True, 2, None)
    state = ledger.serving_state()
    assert (state.champion, state.trial) == (champion, None), "everybody gets the new one"
    assert state.bake == ServingBake("t1", "PROMOTING", 1, f"{1:064x}")

    baking = ledger.begin_bake("t1", now=T0 + 2 * HOUR)
    assert (baking.state, baking.bakes_until) == (TrialState.BAKING, T0 + (2 + BAKE) * HOUR)
    assert ledger.serving_state().bake == ServingBake("t1", "BAKING", 1, f"{1:064x}")

    believed = ledger.end_bake("t1", now=T0 + (2 + BAKE) * HOUR)
    assert (believed.state, believed.is_watched, believed.bakes_until) == (TrialState.PROMOTED, False, None)
    assert ledger.serving_state().bake is None
    assert ledger.champion() == champion
    told = [entry for entry in ledger.audit() if entry.subject == "trial t1"][-3:]
    assert [(entry.action, entry.payload["state"]) for entry in told] == [
        ("promote", "PROMOTING"),
        ("begin_bake", "BAKING"),
        ("end_bake", "PROMOTED"),
    ]
    assert {entry.payload.get("digest", champion.digest) for entry in told} == {champion.digest}
    assert ledger.verify() == []


@pytest.mark.parametrize("config", [{}, {"bake_hours": 0}, {"bake_hours": 0.0}])
def test_without_hours_to_bake_a_promotion_is_believed_at_once(ledger: Ledger, config: dict[str, Any]) -> None:
    ledger.open_trial("t1", config, challengers=[2], salt="s", allocation=0.5, actor="bob", now=T0)
    ledger.record_evidence("t1", {"decision": "PROMOTE"}, now=T0)
    approve(ledger)
    assert ledger.trial("t1").state is TrialState.PROMOTED
    assert ledger.serving_state().bake is None
    with pytest.raises(GateRefused, match="is PROMOTED, not PROMOTING"):
        ledger.begin_bake("t1", now=T0)
    assert ledger.verify() == []


@AFTER
def test_every_step_again_is_once_and_the_same_answer(ledger: Ledger, state: TrialState) -> None:
    champion = promoted(ledger, until=state)
    entries = ledger.audit()
    assert approve(ledger, hours=9) == champion
    if state is TrialState.BAKING:
        assert ledger.begin_bake("t1", now=T0 + 9 * HOUR).bakes_until == T0 + (2 + BAKE) * HOUR
    if state is TrialState.PROMOTED:
        assert ledger.end_bake("t1", now=T0 + 99 * HOUR).changed == T0 + (2 + BAKE) * HOUR
    assert ledger.audit() == entries


@AFTER
@pytest.mark.parametrize("actor", [GATE, "dora"])
def test_an_alarm_or_a_person_brings_the_former_champion_back(ledger: Ledger, state: TrialState, actor: str) -> None:
    promoted(ledger, until=state)
    former = ledger.former()
    assert former is not None
    assert former.version == 1
    back = ledger.rollback(actor=actor, reason="errors rose", now=T0 + 40 * HOUR, expected_epoch=2)
    assert (back.version, back.epoch) == (1, 3)
    trial = ledger.trial("t1")
    assert (trial.state, trial.decided_by) == (TrialState.ROLLED_BACK, actor)
    assert trial.reason == "rolled back from version 2 to 1: errors rose"
    assert ledger.serving_state().bake is None
    for step in (ledger.begin_bake, ledger.end_bake):
        with pytest.raises(GateRefused, match="is ROLLED_BACK"):
            step("t1", now=T0 + 50 * HOUR)
    with pytest.raises(GateRefused, match="is ROLLED_BACK, not AWAIT_APPROVAL"):
        approve(ledger)
    begin(ledger, "t2", challenger=3)
    assert ledger.verify() == []


@WATCHED
def test_no_trial_begins_while_a_promotion_is_watched(ledger: Ledger, state: TrialState) -> None:
    promoted(ledger, until=state)
    until = "bakes for 24 hours once" if state is TrialState.PROMOTING else "is baking until 2026-01-02T02:00"
    with pytest.raises(
        GateRefused, match=rf"trial t1: its challenger was promoted on 'default' and .*{until}.*rollback"
    ):
        begin(ledger, "t2", challenger=3)
    with pytest.raises(GateRefused, match="trial t1: "):
        ledger.open_trial("t2", {}, challengers=[2], is_aa=True, salt="s", allocation=0.5, actor="bob", now=T0)
    ledger.begin_bake("t1", now=T0 + 2 * HOUR)
    ledger.end_bake("t1", now=T0 + 30 * HOUR)
    begin(ledger, "t2", challenger=3)


@WATCHED
def test_no_deltas_are_allowed_on_a_champion_that_is_watched(ledger: Ledger, state: TrialState) -> None:
    promoted(ledger, until=state)
    stated: dict[str, Any] = {"recipe": "r", "limits": DeltaLimits(1, 1, 1.0, 0.5), "expires": T0 + timedelta(days=9)}
    with pytest.raises(GateRefused, match="t1 promoted its champion and still watches it"):
        ledger.allow_deltas(**stated, actor="carla", reason="sale week", now=T0 + timedelta(hours=3))
    assert ledger.standings() == ()


def test_another_surface_does_not_wait(ledger: Ledger) -> None:
    promoted(ledger)
    ledger.bootstrap(3, actor="ann", reason="another page", now=T0, surface="cart")
    ledger.open_trial("t2", {}, challengers=[4], salt="s", allocation=0.5, actor="bob", now=T0, surface="cart")
    assert ledger.serving_state("cart").bake is None


def test_a_bake_does_not_end_before_its_time(ledger: Ledger) -> None:
    promoted(ledger, until=TrialState.BAKING)
    with pytest.raises(GateRefused, match=r"bakes until 2026-01-02T02:00:00\.000000Z, and it is 2026-01-02T01:59"):
        ledger.end_bake("t1", now=T0 + (2 + BAKE) * HOUR - timedelta(seconds=1))
    assert ledger.trial("t1").state is TrialState.BAKING


@WATCHED
@pytest.mark.parametrize("step", [Ledger.reject, Ledger.stop_trial, Ledger.kill_trial])
def test_a_watched_promotion_is_ended_by_a_rollback_alone(
    ledger: Ledger, state: TrialState, step: Callable[..., Any]
) -> None:
    promoted(ledger, until=state)
    with pytest.raises(GateRefused, match="its challenger is the champion: `ratchet rollback`"):
        step(ledger, "t1", actor="ann", reason="errors", now=T0)
    with pytest.raises(GateRefused, match="takes no more evidence"):
        ledger.record_evidence("t1", {"decision": "REJECT"}, now=T0)
    assert ledger.trial("t1").state is state


def test_nothing_bakes_that_was_not_promoted(ledger: Ledger) -> None:
    begin(ledger)
    for step in (ledger.begin_bake, ledger.end_bake):
        with pytest.raises(GateRefused, match="t1: is COMPARE, not"):
            step("t1", now=T0)
