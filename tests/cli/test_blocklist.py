"""`ratchet blocklist` as a person uses it at night: the file first, the ledger when it can."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli.commands.blocklist import blocklist
from stores import blocklist as store
from stores.home import Home
from stores.ledger import Ledger
from stores.settings import Settings


def ratchet(home: Home, *arguments: str) -> tuple[int, Any]:
    done = CliRunner().invoke(blocklist, [*arguments, "--home", str(home.root)])
    return done.exit_code, done.output


def acts(home: Home) -> list[tuple[str, str, Any]]:
    audit = Ledger.of(home, Settings()).audit()
    return [(entry.actor, entry.action, entry.payload["items"]) for entry in audit]


def test_blocking_listing_and_letting_go(home: Home) -> None:
    code, said = ratchet(home, "add", "a", "ü\x1b[2J", "--as", "ada", "--reason", "recalled")
    assert (code, said.splitlines()) == (0, ["a: blocked", "ü\\x1b[2J: blocked"])
    assert ratchet(home, "add", "a", "--as", "bob", "--reason", "too")[1] == "a: was blocked already\n"
    assert "by ada: recalled" in ratchet(home, "list")[1]
    assert ratchet(home, "remove", "a", "b", "--as", "bob", "--reason", "fine")[1].splitlines() == [
        "a: may be shown again",
        "b: was not blocked",
    ]
    assert acts(home) == [("ada", "block", ["a", "ü\x1b[2J"]), ("bob", "unblock", ["a"])]
    assert Ledger.of(home, Settings()).verify() == []


def test_a_ledger_that_is_down_stops_no_blocking_and_is_told_later(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_LEDGER__URL", f"sqlite:///{home.root}/nowhere/ledger.db")
    code, said = ratchet(home, "add", "a", "--as", "ada", "--reason", "recalled")
    assert code == 0
    assert "in force, but not in the ledger yet" in said
    assert set(store.read(home.blocklist).items) == {"a"}
    monkeypatch.delenv("RATCHET_LEDGER__URL")
    assert ratchet(home, "add", "b", "--as", "bob", "--reason", "x")[0] == 0
    assert acts(home) == [("ada", "block", ["a"]), ("bob", "block", ["b"])]
    assert store.read(home.blocklist).unrecorded == ()


def test_an_act_that_the_ledger_took_before_a_kill_is_there_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(store, "recorded", lambda path, acts: None)  # killed before the file learnt of it
        ratchet(home, "add", "a", "--as", "ada", "--reason", "x")
    ratchet(home, "add", "b", "--as", "ada", "--reason", "x")
    assert [items for _, _, items in acts(home)] == [["a"], ["b"]]


def test_one_json_object_and_exit_codes(home: Home, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def answer(*arguments: str) -> tuple[int, Any]:
        capfd.readouterr()
        try:
            blocklist.main([*arguments, "--json", "--home", str(home.root)], standalone_mode=False)
        except SystemExit as left:
            return int(left.code or 0), json.loads(capfd.readouterr().out)
        raise AssertionError("a command leaves")

    assert answer("add", "a", "--as", "ada", "--reason", "x") == (
        0,
        {"blocked": ["a"], "recorded": True, "problem": None},
    )
    code, listed = answer("list")
    assert (code, [(item["item_id"], item["by"], item["reason"]) for item in listed["items"]]) == (
        0,
        [("a", "ada", "x")],
    )
    assert answer("add", "a", "--as", " ", "--reason", "x")[0] == 2
    home.blocklist.write_text("{")
    code, told = answer("add", "b", "--as", "ada", "--reason", "x")
    assert (code, told["kind"]) == (3, "DataRejected")
