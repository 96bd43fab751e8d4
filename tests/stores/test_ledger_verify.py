"""Whatever is changed behind the ledger's back, `verify` names it."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from gate.states import TrialMode
from stores.audit import append_audit
from stores.champion import move_champion
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord, stamp
from stores.ledger_tables import approvals
from stores.people import key_of

T0 = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    for number in (1, 2, 3):
        made.record_version(
            VersionRecord(number, f"{number:064x}", "full", number - 1 or None, 1, 1, 0, True, {}, "run", T0, "")
        )
    made.bootstrap(1, actor="ann", reason="the first", now=T0)
    made.open_trial("t1", {"n_max": 9}, challengers=[2], salt="s", allocation=0.5, actor="bob", now=T0)
    made.record_evidence("t1", {"decision": "CONTINUE"}, now=T0)
    made.record_evidence("t1", {"decision": "PROMOTE"}, now=T0)
    made.approve("t1", actor="ann", reason="good", now=T0)
    assert made.verify() == []
    return made


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE champion SET version = 3", "champion of 'default' is {'version': 3"),
        ("DELETE FROM champion", "champion of 'default' is None"),
        ("UPDATE champion_history SET actor = 'eve' WHERE epoch = 2", "history of 'default', epoch 2"),
        ("DELETE FROM champion_history WHERE epoch = 1", "history of 'default', epoch 1"),
        ("UPDATE version SET offline_passed = 0 WHERE version = 3", "version 3: the ledger holds"),
        ("UPDATE version SET digest = 'x' WHERE version = 3", "version 3: the ledger holds"),
        ("DELETE FROM version WHERE version = 3", "version 3: the ledger holds None"),
        ("UPDATE trial SET config = '{\"n_max\":8}'", "its configuration is not the one that was frozen"),
        ("UPDATE trial SET state = 'REJECTED'", "its state REJECTED is not the one in the audit"),
        ("UPDATE trial SET allocation = 0.9", "t1: is not the trial that was opened"),
        ("UPDATE trial SET submitter = 'eve'", "t1: is not the trial that was opened"),
        ("DELETE FROM trial", "trial t1: in the audit, and gone"),
        ('UPDATE evidence SET evidence = \'{"decision":"PROMOTE"}\' WHERE number = 1', "evidence 1 was changed"),
        ("UPDATE evidence SET decision = 'PROMOTE' WHERE number = 1", "evidence 1 was changed"),
        ("UPDATE evidence SET recorded = '2027-01-01T00:00:00.000000Z' WHERE number = 2", "evidence 2 is not as"),
        ("DELETE FROM evidence WHERE number = 1", "is gone from the ledger"),
        ("UPDATE audit SET actor = 'eve' WHERE number = 8", "audit entry 8 (promote trial t1) was changed"),
        ("UPDATE audit SET payload = replace(payload, 'good', 'bad') WHERE number = 8", "audit entry 8 (promote"),
        ("UPDATE audit SET hash = 'x' WHERE number = 5", "audit entry 6 does not follow entry 5"),
        ("DELETE FROM audit WHERE number = 5", "audit entry 5 is missing"),
        ("DELETE FROM audit WHERE number = 8", "champion of 'default' is {'version': 2"),
    ],
)
def test_a_change_behind_its_back_is_named(ledger: Ledger, statement: str, named: str) -> None:
    with ledger._database.write() as tx:
        assert tx.exec_driver_sql(statement).rowcount == 1
    problems = ledger.verify()
    assert any(named in problem for problem in problems), problems


@pytest.fixture
def several(ledger: Ledger) -> Ledger:
    """Trial t2 of two challengers, one of them out, which passed, and was approved, and bakes."""
    for number in (4, 5):
        ledger.record_version(
            VersionRecord(number, f"{number:064x}", "full", 3, 1, 1, 0, True, {}, "run", T0, "", submitter="carol")
        )
    opened = {"salt": "s", "allocation": 0.5, "actor": "bob", "now": T0}
    ledger.open_trial("t2", {"bake_hours": 1}, challengers=[3, 4], **opened)
    ledger.record_evidence("t2", {"decision": "CONTINUE", "out": ["challenger"]}, now=T0)
    ledger.record_evidence("t2", {"decision": "PROMOTE", "challenger": "challenger-2"}, now=T0)
    ledger.approve("t2", actor="ann", reason="good", now=T0)
    ledger.begin_bake("t2", now=T0)
    assert ledger.verify() == []
    return ledger


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE trial_challengers SET version = 5", "t2: is not the trial that was opened"),
        ("UPDATE trial_challengers SET digest = 'x'", "t2: is not the trial that was opened"),
        ("UPDATE trial_challengers SET trial = 't9'", "trial t9: has challengers, and is not in the ledger"),
        ("DELETE FROM trial_challengers", "t2: is not the trial that was opened"),
        ("DELETE FROM trial_out", "t2: out are [], the audit says ['challenger']"),
        ("UPDATE trial_out SET look = 2", "t2: out are"),
        ("UPDATE trial_out SET digest = 'x'", "t2: out are"),
        ("UPDATE trial_out SET name = 'challenger-2'", "t2: out are ['challenger-2'], the audit says"),
        (
            "UPDATE trial SET state = 'PROMOTED' WHERE id = 't2'",
            "its state PROMOTED is not the one in the audit, BAKING",
        ),
        ("UPDATE trial SET promoted_epoch = 2 WHERE id = 't2'", "promoted to epoch 2, the audit says 3"),
    ],
)
def test_a_change_of_challengers_or_of_a_bake_is_named(several: Ledger, statement: str, named: str) -> None:
    with several._database.write() as tx:
        assert tx.exec_driver_sql(statement).rowcount == 1
    problems = several.verify()
    assert any(named in problem for problem in problems), problems


def entry(ledger: Ledger, action: str, trial: str, **payload: Any) -> None:
    """One more link, well chained, as an insider with the database's password would write it."""
    with ledger._database.write() as tx:
        told = {"trial": trial, **payload}
        append_audit(tx, actor="eve", action=action, subject=f"trial {trial}", payload=told, now=T0)


@pytest.mark.parametrize(
    ("action", "payload", "named"),
    [
        ("record_evidence", {"decision": "PROMOTE", "challenger_digest": "x"}, "t3: record_evidence of a challenger"),
        ("record_evidence", {"decision": "PROMOTE", "challenger": "champion"}, "t3: record_evidence of a challenger"),
        ("record_evidence", {"decision": "PROMOTE"}, "t3: record_evidence that would promote, of no comparison"),
        ("record_evidence", {"decision": "PROMOTE", "out": ["challenger"]}, "would promote a rejected challenger"),
        ("close_trial", {"state": "PROMOTED"}, "t3: close_trial as a promotion"),
        ("close_trial", {"state": "ROLLED_BACK"}, "t3: went from CANARY to ROLLED_BACK, and no way leads there"),
        ("end_bake", {"state": "PROMOTED", "bake_hours": 0}, "t3: end_bake before it had baked"),
        ("set_stage", {"mode": "shadow", "number": 2}, "t3: went from CANARY to SHADOW, and no way leads there"),
        ("promote", {"state": "PROMOTED", "evidence": "x"}, "t3: promote without a wait for it"),
        ("promote", {"state": "PROMOTED", "evidence": "x"}, "t3: promote without a passing look"),
        ("promote", {"state": "PROMOTED", "evidence": "x"}, "t3: promote of another than the look's challenger"),
        ("promote", {"state": "PROMOTED", "evidence": "x"}, "t3: promote of another epoch's champion"),
        ("kill_trial", {"number": 2}, "stage 2 of trial t3: the ledger holds None"),
    ],
)
def test_a_step_against_the_rules_is_named_though_it_is_well_chained(
    ledger: Ledger, action: str, payload: dict[str, Any], named: str
) -> None:
    opened = {"salt": "s", "allocation": 0.5, "actor": "bob", "now": T0}
    ledger.open_trial("t3", {}, challengers=[3], mode=TrialMode.CANARY, share=0.01, **opened)
    assert ledger.verify() == []
    filled = {"challenger_digest": f"{3:064x}", "evidence": "e"} if action == "record_evidence" else {}
    moved = {"surface": "cart", "reason": "", "to": {"epoch": 1, "digest": "d"}} if action == "promote" else {}
    entry(ledger, action, "t3", **(filled | moved | payload))
    problems = ledger.verify()
    assert any(named in problem for problem in problems), problems
    assert not any("was changed after it was written" in problem or "cut" in problem for problem in problems)


def test_a_step_of_a_trial_that_was_never_opened_is_named(ledger: Ledger) -> None:
    entry(ledger, "close_trial", "t9", state="REJECTED")
    assert any("close_trial of trial t9, which was never opened" in problem for problem in ledger.verify())


@pytest.mark.parametrize(
    ("mode", "end", "named"),
    [
        (TrialMode.COMPARE, Ledger.reject, ["open_trial of a bundle that trial t2 has rejected"]),
        (TrialMode.SHADOW, None, ["open_trial while trial t2 is SHADOW"]),
        (TrialMode.COMPARE, None, ["open_trial while trial t2 is AWAIT_APPROVAL"]),
    ],
)
def test_a_trial_that_could_not_be_opened_is_named(
    ledger: Ledger, mode: TrialMode, end: Callable[..., None] | None, named: list[str]
) -> None:
    """The table is made to say otherwise until it is open."""
    opened: dict[str, Any] = {"challengers": [3], "salt": "s", "allocation": 0.5, "actor": "bob", "now": T0}
    ledger.open_trial("t2", {}, mode=mode, **opened)
    if mode is TrialMode.COMPARE:
        ledger.record_evidence("t2", {"decision": "PROMOTE"}, now=T0)
    if end is not None:
        end(ledger, "t2", actor="ann", reason="ugly", now=T0)
    state = str(ledger.trial("t2").state)
    set_to = "UPDATE trial SET state = '{}' WHERE id = 't2'"
    with ledger._database.write() as tx:
        tx.exec_driver_sql(set_to.format("EXPIRED"))
    ledger.open_trial("t3", {}, **opened)
    with ledger._database.write() as tx:
        tx.exec_driver_sql(set_to.format(state))
    assert [each.partition("trial t3: ")[2] for each in ledger.verify()] == named


@pytest.mark.parametrize("submitter", ["bob", "Carol "])
def test_a_promotion_by_its_submitter_is_named(ledger: Ledger, submitter: str) -> None:
    """Written by one who may write the tables, so that everything agrees but the rules."""
    ledger.record_version(VersionRecord(4, f"{4:064x}", "full", 3, 1, 1, 0, True, {}, "run", T0, "", submitter="carol"))
    ledger.open_trial("t2", {}, challengers=[4], salt="s", allocation=0.5, actor="bob", now=T0)
    ledger.record_evidence("t2", {"decision": "PROMOTE"}, now=T0)
    look = ledger.trial("t2").evidence[-1].sha256
    told = {"trial": "t2", "state": "PROMOTED", "challenger": "challenger", "evidence": look}
    told |= {"quorum": 1, "approvers": [submitter]}
    with ledger._database.write() as tx:
        step = {"version": 4, "digest": f"{4:064x}", "how": "promote", "subject": "trial t2", "trial": "t2"}
        assert move_champion(
            tx, surface="default", expected=2, actor=submitter, reason="mine", now=T0, facts=told, **step
        )
        tx.exec_driver_sql("UPDATE trial SET state = 'PROMOTED', promoted_epoch = 3 WHERE id = 't2'")
        given = {"trial": "t2", "evidence": look, "person": key_of(submitter), "name": submitter}
        tx.execute(insert(approvals).values(**given, reason="mine", given=stamp(T0)))
    problems = ledger.verify()
    assert problems
    assert all("trial t2: promote by its submitter" in problem for problem in problems)


def test_the_chain_starts_at_zero_and_links_every_entry(ledger: Ledger) -> None:
    entries = ledger.audit()
    assert entries[0].previous == "0" * 64
    assert [entry.previous for entry in entries[1:]] == [entry.hash for entry in entries[:-1]]
    assert [entry.action for entry in entries] == [
        *["record_version"] * 3,
        "bootstrap",
        "open_trial",
        *["record_evidence"] * 2,
        "promote",
    ]
