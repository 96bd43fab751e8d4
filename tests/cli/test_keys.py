"""`ratchet keys`, as a person and as a script meet it."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.commands.keys import ROLES
from cli.main import main
from stores.api_keys import KeyRing, Role
from stores.home import Home


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Home.create(tmp_path / "home").root


def keys(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["keys", *arguments, "--home", str(root)])


def test_a_key_is_shown_once(root: Path) -> None:
    assert "no key was made" in keys(root, "list").output
    made = keys(root, "add", "web shop", "--role", "recommend", "--role", "feedback", "--days", "90")
    assert made.exit_code == 0, made.output
    shown = made.output.splitlines()[0]
    assert shown.startswith("rk_")
    assert "shown this once" in made.output
    listed = keys(root, "list").output
    assert shown.rpartition("_")[2] not in listed
    for part in (shown.split("_")[1], "in force", "feedback, recommend", "web shop", "until"):
        assert part in listed


def test_keys_for_scripts(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def told(*arguments: str) -> dict[str, object]:
        with pytest.raises(SystemExit):
            main(["keys", *arguments, "--home", str(root), "--json"])
        answer: dict[str, object] = json.loads(capfd.readouterr().out)
        return answer

    made = told("add", "ops", "--role", "admin")
    assert (made["roles"], made["expires"]) == (["admin"], None)

    ring = KeyRing(Home.open(root).api_keys)
    assert ring.check(str(made["key"]), now=datetime.now(UTC)).id == made["id"]
    rest = {name: made[name] for name in made if name != "key"}
    assert told("list") == {"keys": [rest | {"state": "in force"}]}
    assert told("revoke", "ops")["id"] == made["id"]
    (listed,) = told("list")["keys"]  # type: ignore[misc]
    assert listed["state"] == "revoked"
    assert told("revoke", "nobody")["kind"] == "UsageError"


def test_wrong_arguments_are_usage_errors(root: Path) -> None:
    assert keys(root, "add", "x").exit_code == 2
    assert keys(root, "add", "x", "--role", "root").exit_code == 2
    assert keys(root, "add", "x", "--role", "admin", "--days", "0").exit_code == 2
    assert keys(root, "revoke", "nobody").exit_code == 2


def test_the_commands_roles_are_the_stores() -> None:

    assert tuple(Role) == ROLES
