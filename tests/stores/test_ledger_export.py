"""The exported ledger verifies by itself; whatever is changed in it is named, and no secret is in it."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from relations.errors import DataRejected, DependencyFailed, UsageError
from stores.ledger import Ledger
from stores.ledger_export import check_export
from stores.ledger_records import VersionRecord
from stores.people import Role
from tasks.rejudging import replay

T0 = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def ledger(tmp_path: Path, passing_trial: Callable[..., str], quick_passwords: None) -> Ledger:
    """People with a password and a token, a promotion by two, and a broken glass."""
    made = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", enforce_roles=True)
    made.add_first_admin("root", password="correct horse battery staple", now=T0)
    for name in ("ann", "dan"):
        made.add_person(name, roles=frozenset({Role.APPROVER}), password=None, actor="root", now=T0)
    made.add_person("bob", roles=frozenset({Role.SUBMITTER}), password=None, actor="root", now=T0)
    for number in (1, 2, 3):
        made.record_version(
            VersionRecord(number, f"{number:064x}", "full", number - 1 or None, 1, 1, 0, True, {}, "run", T0, "")
        )
    made.bootstrap(1, actor="ann", reason="the first", now=T0)
    passing_trial(made, "t1", challenger=2, actor="bob", now=T0, protected=True)
    made.approve("t1", actor="ann", reason="good", now=T0)
    made.approve("t1", actor="dan", reason="good", now=T0)
    made.ask_break_glass(3, hours=1, actor="ann", reason="fire", now=T0)
    assert made.verify() == []
    return made


@pytest.fixture
def file(ledger: Ledger, tmp_path: Path) -> Path:
    return ledger.export(tmp_path / "ledger.jsonl", now=T0).file


def test_a_file_says_what_the_ledger_says(ledger: Ledger, file: Path) -> None:
    checked = check_export(file)
    assert checked.problems == ()
    assert (checked.head, checked.entries) == (ledger.audit()[-1].hash, len(ledger.audit()))
    assert checked.trials == (ledger.trial("t1"),)
    assert [replay(each) for each in checked.trials] == [()]
    lines = file.read_text().splitlines()
    assert json.loads(lines[0])["rows"] == len(lines) - 1


def test_no_secret_is_in_it(ledger: Ledger, tmp_path: Path) -> None:
    _, shown = ledger.issue_token("ann", label="laptop", lifetime=None, actor="root", now=datetime.now(UTC))
    with ledger._database.read() as tx:
        secret = tx.exec_driver_sql("SELECT secret_sha256 FROM person_token").scalar_one()
        password = tx.exec_driver_sql("SELECT password FROM person WHERE key = 'root'").scalar_one()
    file = ledger.export(tmp_path / "with-token.jsonl", now=T0).file
    text = file.read_text()
    assert "argon2" in password
    for each in (shown, shown.rpartition("_")[2], secret, password, "argon2"):
        assert each not in text
    assert check_export(file).problems == ()
    assert file.stat().st_mode & 0o077 == 0, "evidence is for who exported it"


def test_nothing_is_overwritten_unless_it_is_said(ledger: Ledger, file: Path, tmp_path: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(UsageError, match="--force"):
        ledger.export(file, now=T0)
    with pytest.raises(UsageError, match="--force"):
        ledger.export(tmp_path, now=T0)
    with pytest.raises(DependencyFailed, match="name another folder"):
        ledger.export(tmp_path / "nowhere" / "file", now=T0)
    assert file.read_bytes() == before
    ledger.export(file, now=T0, force=True)
    assert check_export(file).problems == ()
    assert [each.name for each in tmp_path.iterdir() if each.name.endswith(".part")] == []


def swap(line: str, old: str, new: str) -> str:
    assert old in line
    return line.replace(old, new, 1)


def where(lines: list[str], table: str, holding: str = "") -> int:
    return next(at for at, line in enumerate(lines) if f'"table":"{table}"' in line and holding in line)


@pytest.mark.parametrize(
    ("table", "holding", "old", "new", "also"),
    [
        ("audit", '"action":"promote"', '"actor":"dan"', '"actor":"eve"', "(promote trial t1) was changed"),
        ("approval", '"person":"ann"', '"name":"ann"', '"name":"eve"', "approval of trial t1"),
        ("champion", "", '"version":2', '"version":3', "champion of 'default'"),
        ("version", '"version":3', '"offline_passed":true', '"offline_passed":false', "version 3"),
        ("person", '"key":"bob"', "submitter", "approver", "bob"),
        ("break_glass", "", '"hours":1.0', '"hours":72.0', "break-glass 1"),
        ("evidence", "", "CONTINUE", "PROMOTE", ""),
        ("trial", "", '"submitter":"bob"', '"submitter":"eve"', "t1: is not the trial that was opened"),
    ],
)
def test_an_edited_line_is_named_and_so_is_what_it_says(
    file: Path, table: str, holding: str, old: str, new: str, also: str
) -> None:
    lines = file.read_text().splitlines(keepends=True)
    at = where(lines, table, holding)
    if old not in lines[at]:
        old, new = '"decision":"PROMOTE"', '"decision":"REJECT"'
    lines[at] = swap(lines[at], old, new)
    file.write_text("".join(lines))
    problems = check_export(file).problems
    assert problems[0].startswith(f"line {at + 1} ({table} ")
    assert sum(each.startswith("line ") for each in problems) == 1
    assert any(also in each for each in problems[1:]), problems


def test_a_line_that_is_gone_added_or_moved_is_named(file: Path) -> None:
    lines = file.read_text().splitlines(keepends=True)
    for changed in ([*lines[:5], *lines[6:]], [*lines[:5], lines[4], *lines[5:]], [*lines[:4], lines[5], lines[4]]):
        file.write_text("".join(changed))
        assert any(each.startswith("line ") for each in check_export(file).problems)
    file.write_text("".join(lines[:-1]))
    assert any("its header says" in each for each in check_export(file).problems)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"{}\n",
        b"[]\n",
        b"\xff\xfe\x00",
        b'{"ratchet_ledger": 2}\n',
        b'{"ratchet_ledger": NaN}\n',
        b"[" * 9_999,
    ],
)
def test_what_is_no_export_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "odd"
    file.write_bytes(content)
    with pytest.raises(DataRejected, match="odd"):
        check_export(file)
    with pytest.raises(UsageError, match="no such file"):
        check_export(tmp_path / "none")


def test_rows_that_no_table_takes_are_named(file: Path) -> None:
    def with_line(change: dict[str, Any]) -> tuple[str, ...]:
        file.write_text(whole + json.dumps({"table": "version", "row": {}} | change) + "\n")
        return check_export(file).problems

    whole = file.read_text()
    for change in ({}, {"table": "nothing"}, {"row": 3}, {"row": {"version": 1}}, {"table": None}):
        assert any("is no row of the ledger" in each for each in with_line(change)), change
