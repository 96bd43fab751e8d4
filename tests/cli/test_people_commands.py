"""`ratchet people`, as an admin, a newcomer and a script meet it."""

import getpass
import io
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cli.main import main
from stores.home import Home
from stores.ledger import Ledger
from stores.people import Role
from stores.settings import Settings

GOOD = "correct horse battery"
pytestmark = pytest.mark.usefixtures("quick_passwords")


class Stdin(io.TextIOWrapper):
    terminal = False

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("RATCHET_TOKEN", raising=False)
    return Home.create(tmp_path / "home").root


@pytest.fixture
def people(
    root: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """`people("add", …, stdin=…)` → exit code, stdout, stderr."""

    def run(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", Stdin(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as left:
            main(["people", *arguments, "--home", str(root)])
        told = capfd.readouterr()
        assert "Traceback" not in told.err
        return int(left.value.code or 0), told.out, told.err

    return run


@pytest.fixture
def told(people: Callable[..., tuple[int, str, str]]) -> Callable[..., dict[str, Any]]:
    def run(*arguments: str, stdin: bytes = b"") -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(people(*arguments, "--json", stdin=stdin)[1])
        return answer

    return run


def ledger_of(root: Path) -> Ledger:
    return Ledger.of(Home.open(root), Settings())


def test_from_nobody_to_a_staff(
    root: Path,
    people: Callable[..., tuple[int, str, str]],
    told: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "nobody yet; make the first admin: `ratchet people first NAME`" in people("list")[1]
    code, out, _ = people("first", "Zoë", "--password-stdin", "--token", stdin=f"{GOOD}\n".encode())
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "Zoë: admin, approver, submitter"
    assert lines[1].startswith("rt_")
    assert "second admin" in lines[-1]
    assert GOOD not in out
    code, _, err = people("first", "eve", "--no-password", "--token")
    assert (code, "Zoë is admin already" in err) == (4, True)

    monkeypatch.setenv("RATCHET_TOKEN", lines[1])
    assert told("add", "Ann", "--role", "approver", "--as", "zoë")["created_by"] == "Zoë"
    made = told("token", "ann", "--label", "laptop", "--days", "30")
    assert made["person"] == "Ann"
    listed = told("list")["people"]
    assert [(each["name"], each["roles"]) for each in listed] == [
        ("Zoë", ["admin", "approver", "submitter"]),
        ("Ann", ["approver"]),
    ]
    assert listed[1]["tokens"][0]["state"] == "in force"
    assert made["token"].split("_")[2] not in json.dumps(listed)

    # The newcomer sets a password with the token, and with the password makes another token where there is none.
    monkeypatch.setenv("RATCHET_TOKEN", made["token"])
    assert "Ann has a new password" in people("password", "ann", "--password-stdin", stdin=GOOD.encode())[1]
    code, _, err = people("password", "Zoë", "--password-stdin", stdin=GOOD.encode())
    assert (code, "needs role admin" in err) == (4, True)
    monkeypatch.delenv("RATCHET_TOKEN")
    again = told("token", "ANN", "--password-stdin", stdin=GOOD.encode())
    assert again["person"] == "Ann"
    assert told("token", "ann", "--password-stdin", stdin=b"a wrong password\n")["error"] == "name or password is wrong"
    monkeypatch.setenv("RATCHET_TOKEN", again["token"])
    assert told("revoke", made["token_id"])["person"] == "Ann"
    assert "revoked" in people("list")[1]

    # What may not be is refused, with the exit code of a refusal.
    monkeypatch.setenv("RATCHET_TOKEN", lines[1])
    assert people("roles", "ann", "--role", "submitter", "--role", "approver")[0] == 0
    code, _, err = people("roles", "Zoë", "--role", "approver")
    assert (code, "is the only admin" in err) == (4, True)
    assert told("disable", "ann", "--reason", "left", "--as", "Zoë")["disabled"]
    assert "Ann: approver, submitter, disabled since" in people("list")[1]
    assert told("enable", "ann", "--reason", "is back")["disabled"] is None
    assert ledger_of(root).verify() == []


def test_codes_for_forms(
    root: Path, hire: Callable[..., str], people: Callable[..., tuple[int, str, str]], told: Callable[..., Any]
) -> None:
    hire(Home.open(root), "ann", "approver")
    code, out, _ = people("code", "--step", "rollback", "--as", "ann")
    assert code == 0
    shown, what = out.splitlines()
    assert what == "ann may rollback with it, once, within 10 minutes"
    now = datetime.now(UTC)
    assert ledger_of(root).redeem_code(shown, step="rollback", subject="", now=now)[0].name == "ann"
    assert told("code", "t9", "--step", "approve")["kind"] == "UsageError"  # there is no such trial
    assert told("code", "--step", "approve")["error"] == "step approve: name the TRIAL that the code is for"


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "message"),
    [
        (("first", "gate", "--password-stdin"), GOOD.encode(), 2, "kept for what acts by itself"),
        (("first", "a\u202eb", "--password-stdin"), GOOD.encode(), 2, "do not show"),
        (("first", "zoë", "--password-stdin"), b"short", 2, "5 characters; it has 12"),
        (("first", "zoë", "--password-stdin"), b"", 2, "0 characters; it has 12"),
        (("first", "zoë", "--password-stdin"), b"\xff" * 12, 2, "not UTF-8"),
        (("first", "zoë"), b"", 2, "no terminal to ask at"),
        (("first", "zoë", "--no-password"), b"", 2, "--no-password goes with --token"),
        (("first", "zoë", "--role", "emperor"), b"", 2, "emperor"),
        (("add", "ann", "--role", "approver"), b"", 2, "make the first admin"),
        (("token", "ann"), b"", 2, "make the first admin"),
        (("token", "ann", "--days", "0"), b"", 2, "--days"),
        (("revoke", "12345678"), b"", 2, "make the first admin"),
    ],
)
def test_what_cannot_be_is_said_and_changes_nothing(
    root: Path,
    people: Callable[..., tuple[int, str, str]],
    arguments: tuple[str, ...],
    stdin: bytes,
    code: int,
    message: str,
) -> None:
    left, out, err = people(*arguments, stdin=stdin)
    assert (left, message in err) == (code, True), err
    assert out == ""
    assert ledger_of(root).people() == ()


def test_a_terminal_is_asked_twice_without_echo(
    root: Path, people: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = iter([GOOD, "another", GOOD, GOOD])
    asked: list[str] = []

    def ask(prompt: str, stream: Any = None) -> str:
        assert stream is sys.stderr  # stdout is for the answer
        asked.append(prompt)
        return next(typed)

    monkeypatch.setattr(getpass, "getpass", ask)
    monkeypatch.setattr(Stdin, "terminal", True)
    code, _, err = people("first", "Zoë")
    assert (code, "the two differ" in err) == (2, True)
    assert people("first", "Zoë")[0] == 0
    assert asked == ["password of Zoë: ", "once more: "] * 2
    ledger = ledger_of(root)
    assert ledger.who_knows("zoë", GOOD, now=datetime.now(UTC)).roles == frozenset(Role)

    def leave(prompt: str, stream: Any = None) -> str:
        raise EOFError

    monkeypatch.setattr(getpass, "getpass", leave)
    code, _, err = people("token", "zoë")
    assert (code, "none was given" in err) == (2, True)


def test_in_a_simulation_no_token_is_asked_for(
    home: Home, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RATCHET_TOKEN", raising=False)
    with pytest.raises(SystemExit) as left:
        main(["people", "add", "ann", "--role", "approver", "--as", "anybody", "--home", str(home.root), "--json"])
    assert left.value.code == 0
    assert json.loads(capfd.readouterr().out)["created_by"] == "anybody"


@pytest.mark.parametrize("simulation", [False, True])
def test_verify_names_who_decided_without_the_role_and_says_whether_it_asked(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], simulation: bool
) -> None:
    """Sue gives herself a role, through a ledger that asks for none; a simulation's asks for none either."""
    home, now = Home.create(tmp_path / "home", simulation=simulation), datetime.now(UTC)
    ledger_of(home.root).add_first_admin("root", password=None, now=now)
    ledger_of(home.root).add_person("Sue", roles=frozenset({Role.SUBMITTER}), password=None, actor="root", now=now)
    Ledger(home.ledger_url).set_roles("Sue", roles=frozenset({Role.APPROVER}), actor="Sue", now=now)

    def verified(*arguments: str) -> tuple[int, dict[str, Any]]:
        with pytest.raises(SystemExit) as left:
            main(["ledger", *arguments, "--home", str(home.root), "--json"])
        return int(left.value.code or 0), json.loads(capfd.readouterr().out)

    problem = "audit entry 3 (set_roles person Sue): Sue needed role admin, and had submitter"
    verified("export", str(tmp_path / "file"))
    for arguments in (("verify",), ("verify", "--file", str(tmp_path / "file"))):
        code, answer = verified(*arguments)
        assert (code, answer["roles_checked"]) == ((0, False) if simulation else (4, True))
        assert answer["problems"] == ([] if simulation else [problem])
