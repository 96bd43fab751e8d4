"""`ratchet approve`, `break-glass` and `ledger`, as a person types them."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli.main import main
from stores.bundle import write_bundle
from stores.home import Home
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.settings import Settings

WHO = ("--as", "ann", "--reason", "clicks rose")


@pytest.fixture
def place(home: Home, tmp_path: Path, passing_trial: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Home:
    """A simulation home: version 1 is champion, version 2 waits for two approvals, 3 is newer; MLflow is away."""
    monkeypatch.setenv("RATCHET_TRACKING__URI", "http://127.0.0.1:9")
    ledger, now = Ledger.of(home, Settings()), datetime.now(UTC)
    for number in (1, 2, 3):
        files = tmp_path / f"files-{number}"
        files.mkdir()
        (files / "model.onnx").write_bytes(bytes([number]))
        digest = write_bundle(files, describe={}, releases=home.releases, attestation={}).digest
        facts = (number, digest, "full", number - 1 or None, 1, 1, 0, True, {}, "run", now, "")
        ledger.record_version(VersionRecord(*facts))
    ledger.bootstrap(1, actor="ann", reason="the first", now=now)
    passing_trial(ledger, "t1", challenger=2, actor="bob", now=now, protected=True)
    return home


@pytest.fixture
def ratchet(place: Home, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any]]]:
    def run(*words: str, home: bool = True) -> tuple[int, dict[str, Any]]:
        where = ("--home", str(place.root)) if home else ("--home", "/nowhere")
        capfd.readouterr()
        done = CliRunner().invoke(main, [*words, *where, "--json"])
        return done.exit_code, json.loads(capfd.readouterr().out.splitlines()[-1])

    return run


def test_two_people_approve_and_the_first_one_is_told_that_it_waits(ratchet: Any) -> None:
    code, answer = ratchet("approve", "t1", *WHO)
    assert (code, answer) == (5, {"trial": "t1", "approved_by": ["ann"], "quorum": 2})
    code, answer = ratchet("approve", "t1", "--evidence", "0" * 64, "--as", "dan", "--reason", "too")
    assert (code, "read it, and decide again" in answer["error"]) == (4, True)
    code, answer = ratchet("approve", "t1", "--as", "dan", "--reason", "too")
    assert (code, answer["champion"]["version"]) == (0, 2)
    code, answer = ratchet("ledger", "show", "t1")
    assert [each["name"] for each in answer["trial"]["approvals"]] == ["ann", "dan"]
    actions = ["open_trial", "record_evidence", "approve", "promote"]
    assert (code, [each["action"] for each in answer["audit"]]) == (0, actions)


def test_the_glass_is_broken_and_mended(ratchet: Any) -> None:
    assert ratchet("break-glass", "ask", "3", "--hours", "80", *WHO)[0] == 2
    assert ratchet("break-glass", "ask", "3", "--hours", "2", *WHO)[1]["number"] == 1
    assert ratchet("break-glass", "confirm", "1", *WHO)[0] == 4
    code, answer = ratchet("break-glass", "confirm", "1", "--as", "dan", "--reason", "I see it")
    assert (code, answer["champion"]["version"], answer["action"]) == (0, 3, "break_glass")
    assert ratchet("status")[1]["break_glass"][0]["confirmed_by"] == "dan"
    code, answer = ratchet("break-glass", "end", "1", *WHO)
    assert (code, answer["champion"]["version"]) == (0, 1)
    assert [each["ended_by"] for each in ratchet("break-glass", "list")[1]["break_glass"]] == ["ann"]
    assert ratchet("ledger", "verify")[0] == 0


def test_nobody_asks_for_what_cannot_serve(ratchet: Any, place: Home) -> None:
    model = place.releases / Ledger.of(place, Settings()).version(3).digest / "model.onnx"
    sound = model.read_bytes()
    model.write_bytes(b"other")
    code, answer = ratchet("break-glass", "ask", "3", *WHO)
    assert code != 0
    assert "model.onnx does not match its SHA-256" in answer["error"]
    assert ratchet("break-glass", "list")[1]["break_glass"] == []
    model.write_bytes(sound)
    assert ratchet("break-glass", "ask", "3", *WHO)[1]["hours"] == 4.0, "where nobody says how long"


def test_an_export_verifies_where_there_is_no_home_and_an_edited_line_does_not(ratchet: Any, tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    code, exported = ratchet("ledger", "export", str(file))
    assert (code, ratchet("ledger", "export", str(file))[0]) == (0, 2)
    code, answer = ratchet("ledger", "verify", "--file", str(file), home=False)
    assert (code, answer["whole"], answer["looks"], answer["head"]) == (0, True, 1, exported["head"])
    text = file.read_text()
    file.write_text(text.replace('"submitter":"bob"', '"submitter":"eve"', 1))
    code, answer = ratchet("ledger", "verify", "--file", str(file), home=False)
    assert code == 4
    assert answer["problems"][0].startswith("line ")


def test_a_look_that_does_not_follow_from_its_sums_is_found(ratchet: Any, place: Home) -> None:
    """Written with everything that hashes, so that only judging it again can tell."""
    ledger = Ledger.of(place, Settings())
    latest = ledger.trial("t1").evidence[-1].evidence
    sums = {**latest["sums"], "crossed": 9_000}
    ledger.record_evidence("t1", {**latest, "sums": sums}, now=datetime.now(UTC))
    assert ledger.verify() == []
    code, answer = ratchet("ledger", "verify")
    assert (code, answer["looks"]) == (4, 2)
    assert any(each.startswith("trial t1, look 2: verdict is") for each in answer["problems"])
    assert ratchet("approve", "t1", *WHO)[0] == 4


def test_what_somebody_wrote_stays_on_its_line(place: Home) -> None:
    said = "fine\n   9 2026-01-01T00:00:00 eve promote \x1b[2J\u202e"
    now = datetime.now(UTC)
    Ledger.of(place, Settings()).reject("t1", actor="ann", reason=said, now=now)
    plain = CliRunner().invoke(main, ["ledger", "show", "t1", "--home", str(place.root)]).stdout
    assert "eve promote" in plain
    assert not any(line.startswith("   9 ") for line in plain.splitlines())
    assert not {"\x1b", "\u202e"} & set(plain)
