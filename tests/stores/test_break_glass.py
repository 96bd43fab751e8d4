"""Breaking the glass: two people, for hours, on the record, and back."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gate.states import TrialState
from relations.errors import GateRefused, UsageError
from stores.ledger import Ledger
from stores.ledger_records import GATE, VersionRecord
from stores.people import Role
from stores.standing_records import DeltaLimits
from stores.version_story import description, gate_tags

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


def made(folder: Path, *, enforce: bool = False) -> Ledger:
    ledger = Ledger(f"sqlite:///{folder / 'ledger.db'}", enforce_roles=enforce)
    for number in (1, 2, 3):
        facts = (number, f"{number:064x}", "full", number - 1 or None, 1, 1, 0, True, {}, "run", T0, "", "")
        ledger.record_version(VersionRecord(*facts, "carol"))
    return ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """Champion version 1; trial t1 compares it with version 2. The audit verifies at every test's end."""
    ledger = made(tmp_path)
    ledger.bootstrap(1, actor="ann", reason="the first", now=T0)
    ledger.open_trial("t1", {}, challengers=[2], salt="s", allocation=0.5, actor="bob", now=T0)
    yield ledger
    assert ledger.verify() == []


def ask(ledger: Ledger, version: int = 3, *, who: str = "ann", hours: float = 4, now: datetime = T0) -> int:
    return ledger.ask_break_glass(version, hours=hours, actor=who, reason="the shop is empty", now=now).number


def confirm(ledger: Ledger, number: int = 1, *, who: str = "dan", now: datetime = T0 + MINUTE) -> int:
    return ledger.confirm_break_glass(number, actor=who, reason="I see it too", now=now).version


def test_two_people_put_a_version_in_charge_and_its_hours_end_by_themselves(ledger: Ledger) -> None:
    ask(ledger)
    champion = ledger.champion()
    assert champion is not None
    assert champion.version == 1, "one person changes nothing"
    assert confirm(ledger) == 3
    record = ledger.break_glass(1)
    assert (record.in_force, record.epoch, record.until) == (True, 2, T0 + MINUTE + 4 * HOUR)
    reign = ledger.history()[-1]
    assert (reign.how, reign.actor, reign.approvers, reign.trial) == ("break_glass", "dan", ("ann", "dan"), None)
    for said in ("the shop is empty", "I see it too", "ann"):
        assert said in reign.reason
    assert ledger.trial("t1").state is TrialState.STALE
    state = ledger.serving_state()
    assert state.champion is not None
    assert (state.champion.version, state.trial) == (3, None)
    assert ledger.expire(T0 + 4 * HOUR) == ()
    assert ledger.expire(T0 + MINUTE + 4 * HOUR) == ("break-glass 1",)
    back = ledger.history()[-1]
    assert (back.version, back.how, back.actor) == (1, "rollback", GATE)
    assert ledger.break_glass(1).ended_by == GATE
    assert [entry.action for entry in ledger.audit()][-5:] == [
        *("ask_break_glass", "break_glass", "close_trial", "rollback", "end_break_glass")
    ]
    assert ledger.expire(T0 + 9 * HOUR) == ()


def test_repeating_a_step_changes_nothing(ledger: Ledger) -> None:
    assert ask(ledger) == ask(ledger) == 1
    assert confirm(ledger) == confirm(ledger) == 3
    ledger.end_break_glass(1, actor="dan", reason="mended", now=T0 + HOUR)
    entries = ledger.audit()
    assert ledger.end_break_glass(1, actor="dan", reason="mended", now=T0 + HOUR) is None
    assert ledger.audit() == entries
    with pytest.raises(GateRefused, match=r"break-glass 1: is over \(mended\); ask anew"):
        confirm(ledger)


@pytest.mark.parametrize("who", ["ann", " Ann", "carol", "gate"])
def test_who_cannot_confirm(ledger: Ledger, who: str) -> None:
    ask(ledger)
    with pytest.raises(GateRefused):
        confirm(ledger, who=who)
    assert len(ledger.history()) == 1


@pytest.mark.parametrize("hours", [0, -1, 72.5, float("nan"), float("inf")])
def test_how_long_is_bounded(ledger: Ledger, hours: float) -> None:
    with pytest.raises(UsageError, match="at most 72"):
        ask(ledger, hours=hours)


def test_a_request_lasts_an_hour_and_its_end_is_recorded(ledger: Ledger) -> None:
    ask(ledger)
    with pytest.raises(GateRefused, match="nobody confirmed it in time"):
        confirm(ledger, now=T0 + HOUR)
    assert ledger.break_glass(1).ended is not None
    assert ask(ledger, now=T0 + HOUR) == 2
    assert ledger.expire(T0 + 2 * HOUR) == ("break-glass 2",)


def test_a_request_is_against_one_champion(ledger: Ledger) -> None:
    ask(ledger)
    ledger.record_evidence("t1", {"decision": "PROMOTE"}, now=T0)
    ledger.approve("t1", actor="dan", reason="good", now=T0)
    with pytest.raises(GateRefused, match="the champion has changed since it was asked"):
        confirm(ledger)
    assert ledger.break_glass(1).ended_reason == "the champion has changed since it was asked"


def test_what_cannot_be_asked(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(GateRefused, match="is the champion already"):
        ask(ledger, 1)
    with pytest.raises(GateRefused, match="Carol had it trained"):
        ask(ledger, who="Carol")
    with pytest.raises(UsageError, match="version 9"):
        ask(ledger, 9)
    with pytest.raises(UsageError, match="break-glass 7: no such request"):
        confirm(ledger, 7)
    ask(ledger)
    with pytest.raises(GateRefused, match="request 1, of version 3 by ann, waits for a second person"):
        ask(ledger, 2, who="dan")
    (tmp_path / "empty").mkdir()
    with pytest.raises(GateRefused, match="there is no champion yet"):
        ask(made(tmp_path / "empty"))


def test_while_it_holds_nothing_else_begins(ledger: Ledger) -> None:
    ask(ledger)
    confirm(ledger)
    with pytest.raises(GateRefused, match="break-glass 1 has put version 3 in charge"):
        ledger.open_trial("t2", {}, challengers=[2], salt="s", allocation=0.5, actor="bob", now=T0 + HOUR)
    limits = DeltaLimits(deltas=1, rows=1, relative_change=1.0, overlap=0.0)
    with pytest.raises(GateRefused, match="break-glass 1 has put its champion in charge"):
        ledger.allow_deltas(recipe="r", limits=limits, expires=T0 + 9 * HOUR, actor="ann", reason="go", now=T0 + HOUR)
    with pytest.raises(GateRefused, match="break-glass 1 is in force already"):
        ask(ledger, 2, now=T0 + HOUR)


def test_a_watched_promotion_is_rolled_back_first(ledger: Ledger) -> None:
    ledger.stop_trial("t1", actor="bob", reason="over", now=T0)
    ledger.open_trial("t2", {"bake_hours": 24}, challengers=[2], salt="s", allocation=0.5, actor="bob", now=T0)
    ledger.record_evidence("t2", {"decision": "PROMOTE"}, now=T0)
    ledger.approve("t2", actor="ann", reason="good", now=T0)
    with pytest.raises(GateRefused, match="bring the former champion back with `ratchet rollback`"):
        ask(ledger)


def test_a_rollback_ends_it(ledger: Ledger) -> None:
    ask(ledger)
    confirm(ledger)
    assert ledger.rollback(actor="eve", reason="worse", now=T0 + HOUR).version == 1
    record = ledger.break_glass(1)
    assert (record.in_force, record.ended_by, record.ended_reason) == (False, "eve", "worse")
    assert ledger.expire(T0 + 9 * HOUR) == (), "there is nothing to bring back twice"


def test_a_request_is_withdrawn(ledger: Ledger) -> None:
    ask(ledger)
    assert ledger.end_break_glass(1, actor="ann", reason="found it", now=T0) is None
    assert len(ledger.history()) == 1
    with pytest.raises(GateRefused, match="is over"):
        confirm(ledger)


def test_nobody_decides_on_a_champion_that_they_did_not_see(ledger: Ledger) -> None:
    said = {"actor": "ann", "reason": "r", "now": T0}
    with pytest.raises(GateRefused, match="break-glass of version 3: the champion is at epoch 1, not 2; look again"):
        ledger.ask_break_glass(3, hours=4, expected_epoch=2, **said)  # type: ignore[arg-type]
    assert ledger.ask_break_glass(3, hours=4, expected_epoch=1, **said).number == 1  # type: ignore[arg-type]
    confirm(ledger)
    # Seen as a request, it has become a reign.
    with pytest.raises(GateRefused, match="end break-glass 1: the champion is at epoch 2, not 1; look again"):
        ledger.end_break_glass(1, expected_epoch=1, **said)  # type: ignore[arg-type]
    assert ledger.break_glass(1).in_force
    back = ledger.end_break_glass(1, expected_epoch=2, **said)  # type: ignore[arg-type]
    assert back is not None
    assert back.version == 1
    assert ledger.end_break_glass(1, expected_epoch=2, **said) is None, "the same again"  # type: ignore[arg-type]


def test_both_must_still_be_approvers(tmp_path: Path) -> None:
    ledger = made(tmp_path, enforce=True)
    ledger.add_first_admin("root", password=None, now=T0)
    for name in ("ann", "dan"):
        ledger.add_person(name, roles=frozenset({Role.APPROVER}), password=None, actor="root", now=T0)
    ledger.bootstrap(1, actor="ann", reason="the first", now=T0)
    ask(ledger)
    ledger.disable_person("ann", actor="root", reason="her token was stolen", now=T0)
    with pytest.raises(GateRefused, match="asked by ann: ann was disabled"):
        confirm(ledger)
    assert len(ledger.history()) == 1


def test_mlflow_is_told(ledger: Ledger) -> None:
    ask(ledger)
    confirm(ledger)
    told = {"trials": ledger.trials(), "history": ledger.history()}
    tags = gate_tags(ledger.version(3), **told)
    assert (tags["gate.state"], tags["approved_by"]) == ("BREAK_GLASS", "ann, dan")
    assert description(ledger.version(3), **told).startswith("BREAK-GLASS: champion since 2026-01-01 00:01 UTC")
    assert "was put in charge by break-glass" in description(ledger.version(1), **told)
    ledger.end_break_glass(1, actor="dan", reason="mended", now=T0 + HOUR)
    told = {"trials": ledger.trials(), "history": ledger.history()}
    assert gate_tags(ledger.version(3), **told)["gate.state"] == "OFFLINE_OK"


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE break_glass SET confirmed_by = 'eve'", "break-glass 1: the ledger holds"),
        ("UPDATE break_glass SET hours = 72", "break-glass 1: the ledger holds"),
        ("UPDATE break_glass SET until = '2027-01-01T00:00:00.000000Z'", "break-glass 1: the ledger holds"),
        ("DELETE FROM break_glass", "break-glass 1: the ledger holds None"),
        ("UPDATE audit SET actor = 'ann' WHERE action = 'break_glass'", "confirmed by who asked for it"),
        ("UPDATE audit SET actor = 'carol' WHERE action = 'break_glass'", "confirmed by who had it trained"),
        ("UPDATE audit SET time = '2026-01-01T09:00:00.000000Z' WHERE action = 'break_glass'", "after its hour"),
        (
            "UPDATE audit SET payload = replace(payload, 'T04:01', 'T09:01') WHERE action = 'break_glass'",
            "for longer than was asked",
        ),
        ("UPDATE audit SET subject = 'break-glass 9' WHERE action = 'break_glass'", "never asked for"),
    ],
)
def test_an_edit_is_named(tmp_path: Path, statement: str, named: str) -> None:
    ledger = made(tmp_path)
    ledger.bootstrap(1, actor="ann", reason="the first", now=T0)
    ask(ledger)
    confirm(ledger)
    assert ledger.verify() == []
    with ledger._database.write() as tx:
        assert tx.exec_driver_sql(statement).rowcount == 1
    problems = ledger.verify()
    assert any(named in problem for problem in problems), problems
