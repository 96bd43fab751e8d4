"""Whatever is changed behind the ledger's back, `verify` names it."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from stores.ledger import Ledger
from stores.ledger_records import VersionRecord

T0 = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    for number in (1, 2, 3):
        made.record_version(
            VersionRecord(number, f"{number:064x}", "full", number - 1 or None, 1, 1, 0, True, {}, "run", T0, "")
        )
    made.bootstrap(1, actor="ann", reason="the first", now=T0)
    made.open_trial("t1", {"n_max": 9}, challenger=2, salt="s", allocation=0.5, actor="bob", now=T0)
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
