"""Whom a command is from: the token's person, whatever `--as` says; anybody in a simulation."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import cli.identity
from cli.console import Context
from cli.identity import allowed, identified, identified_or_stated
from cli.main import main
from relations.errors import DependencyFailed, GateRefused, UsageError
from stores import blocklist
from stores.home import Home
from stores.ledger import Ledger
from stores.people import Role
from stores.settings import Settings


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.delenv("RATCHET_TOKEN", raising=False)
    return Home.create(tmp_path / "real")


@pytest.fixture
def context(real: Home) -> Context:
    return Context(real.root, None, as_json=True)


def take_away(home: Home) -> None:
    """The database: SQLite cannot open a folder."""
    (home.root / "ledger.db").rename(home.root / "ledger.away")
    (home.root / "ledger.db").mkdir()


def run(home: Home, *arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--home", str(home.root)], prog_name="ratchet")
    return int(left.value.code or 0)


def test_in_a_simulation_a_name_is_enough(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_TOKEN", "rt_nonsense")
    simulated = Context(home.root, None, as_json=True)
    assert (identified(simulated, "anybody"), identified(simulated)) == ("anybody", "operator")
    assert allowed(simulated, "anybody", Role.ADMIN, what="x") == "anybody"
    assert identified_or_stated(simulated, "anybody").warning == ""


def test_elsewhere_the_token_says_who(real: Home, context: Context, hire: Callable[..., str]) -> None:
    hire(real, "Ann Baker", "approver")
    assert {identified(context, name) for name in ("Ann Baker", " ann  BAKER ", "")} == {"Ann Baker"}
    assert identified_or_stated(context, "ann baker").name == "Ann Baker"
    for name in ("bob", "gate", "ann\x1b[2J"):
        with pytest.raises(UsageError, match="the token in RATCHET_TOKEN is Ann Baker's; name Ann Baker") as refused:
            identified(context, name)
        assert str(refused.value).isprintable()
    assert allowed(context, "", Role.APPROVER, what="x") == "Ann Baker"
    with pytest.raises(GateRefused, match="forget users: needs role admin, and Ann Baker has approver; ask root"):
        allowed(context, "", Role.ADMIN, what="forget users")


def test_without_a_token_the_way_to_one_is_told(
    real: Home, context: Context, hire: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="make the first admin: `ratchet people first NAME --token`"):
        identified(context, "ann")
    shown = hire(real, "ann", "approver")
    ledger = Ledger.of(real, Settings())
    monkeypatch.setenv("RATCHET_TOKEN", " \n")
    with pytest.raises(UsageError, match="put the token of 'ann' in the environment variable RATCHET_TOKEN"):
        identified(context, "ann")
    monkeypatch.setenv("RATCHET_TOKEN", shown[:-1])
    with pytest.raises(UsageError, match="RATCHET_TOKEN: this is no token of this ledger") as refused:
        identified(context, "ann")
    assert shown[:-1] not in str(refused.value)
    monkeypatch.setenv("RATCHET_TOKEN", f" {shown}\n")
    assert identified(context, "ann") == "ann"
    ledger.revoke_token(shown.split("_")[1], actor="ann", now=context.now)
    with pytest.raises(UsageError, match=r"RATCHET_TOKEN: token \w+ of ann revoked"):
        identified(context, "ann")


def test_without_the_ledger_only_what_takes_away_goes_on(
    real: Home, context: Context, hire: Callable[..., str]
) -> None:
    hire(real, "ann", "approver")
    take_away(real)
    with pytest.raises(DependencyFailed):
        identified(context, "ann")
    stated = identified_or_stated(context, "ann")
    assert stated.name == "ann (unverified)"
    assert "not verified" in stated.warning


def test_a_ledger_that_hangs_holds_nobody_up(
    real: Home, context: Context, hire: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hire(real, "ann", "approver")
    hangs = threading.Event()
    monkeypatch.setattr(Ledger, "people", lambda self: hangs.wait() and ())
    monkeypatch.setattr(cli.identity, "PATIENCE_SECONDS", 0.05)
    try:
        assert identified_or_stated(context, "ann").warning.endswith("has not answered within 0.05 s")
    finally:
        hangs.set()


def test_items_can_be_blocked_without_the_ledger_and_unblocked_with_it(
    real: Home, hire: Callable[..., str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hire(real, "ann", "approver")
    block = ("blocklist", "add", "i1", "--as", "ann", "--reason", "recalled")
    monkeypatch.delenv("RATCHET_TOKEN")
    assert run(real, *block) == 2  # the ledger can be asked, and knows nobody's token
    assert blocklist.read(real.blocklist).items == {}
    take_away(real)
    assert run(real, *block) == 0
    assert "who you are was not verified" in capfd.readouterr().out
    assert blocklist.read(real.blocklist).items["i1"].by == "ann (unverified)"
    assert run(real, "blocklist", "remove", "i1", "--as", "ann", "--reason", "fine") == 6


@pytest.mark.parametrize(
    "arguments",
    [
        ("trial", "bootstrap", "1", "--as", "eve", "--reason", "x"),
        ("trial", "start"),
        ("trial", "start", "--as", "eve"),
        ("trial", "stage", "t1", "--mode", "compare", "--as", "eve", "--reason", "x"),
        ("trial", "kill", "t1", "--as", "eve", "--reason", "x"),
        ("trial", "stop", "t1", "--as", "eve", "--reason", "x"),
        ("trial", "bake", "t1", "--as", "eve", "--reason", "x"),
        ("approve", "t1", "--as", "eve", "--reason", "x"),
        ("reject", "t1", "--as", "eve", "--reason", "x"),
        ("rollback", "--as", "eve", "--reason", "x"),
        ("online", "allow", "--as", "eve", "--reason", "x"),
        ("online", "stop", "--as", "eve", "--reason", "x"),
        ("blocklist", "add", "i1", "--as", "eve", "--reason", "x"),
        ("blocklist", "remove", "i1", "--as", "eve", "--reason", "x"),
        ("quarantine", "drop", "d1", "--as", "eve", "--reason", "x"),
        ("forget", "u1"),
        ("privacy", "rotate", "--as", "eve", "--reason", "x"),
        ("train", "--mode", "full"),
        ("train", "--mode", "incremental", "--as", "eve"),
        ("people", "add", "eve", "--role", "admin", "--as", "root"),
        ("people", "roles", "eve", "--role", "admin", "--as", "root"),
        ("people", "disable", "root", "--as", "root", "--reason", "x"),
        ("people", "enable", "root", "--as", "root", "--reason", "x"),
        ("people", "revoke", "12345678"),
        ("people", "code", "--step", "rollback", "--as", "root"),
        ("people", "password", "root", "--password-stdin"),
        ("break-glass", "ask", "1", "--hours", "1", "--as", "eve", "--reason", "x"),
        ("break-glass", "confirm", "1", "--as", "eve", "--reason", "x"),
        ("break-glass", "end", "1", "--as", "eve", "--reason", "x"),
    ],
)
def test_no_command_believes_a_bare_name(
    real: Home,
    hire: Callable[..., str],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
) -> None:
    hire(real, "ann", "approver")
    monkeypatch.delenv("RATCHET_TOKEN")
    before = Ledger.of(real, Settings()).audit()
    assert run(real, *arguments, "--json") == 2
    assert "RATCHET_TOKEN" in json.loads(capfd.readouterr().out)["error"]
    assert Ledger.of(real, Settings()).audit() == before


@pytest.mark.parametrize(
    ("arguments", "role"),
    [
        (("forget", "u1"), "admin"),
        (("privacy", "rotate", "--as", "ann", "--reason", "x"), "admin"),
        (("train", "--mode", "full"), "submitter"),
        (("people", "add", "eve", "--role", "admin"), "admin"),
        (("trial", "bake", "t1", "--as", "ann", "--reason", "x"), "approver"),
    ],
)
def test_a_known_person_needs_the_role(
    real: Home,
    hire: Callable[..., str],
    capfd: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    role: str,
) -> None:
    others = {"admin", "approver", "submitter"} - {role}
    hire(real, "ann", *others)
    assert run(real, *arguments, "--json") == 4
    assert f"needs role {role}, and ann has" in json.loads(capfd.readouterr().out)["error"]
