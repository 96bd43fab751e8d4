"""The command as a person meets it: help without weight, one JSON object, exit codes, no tracebacks."""

import json
import math
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cli.console import Context, Result, command
from cli.main import main

HEAVY = ("torch", "prefect", "mlflow", "great_expectations", "pyarrow", "pandas", "numpy", "sqlalchemy", "ibis")


def ratchet(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom cli.main import main\n"
        "try:\n    main(['--help'], prog_name='ratchet')\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stderr.strip() == "[]"
    assert "approve" in done.stdout
    assert "Exit codes" in done.stdout


def test_every_listed_command_exists_and_takes_json(tmp_path: Path) -> None:
    import click

    from cli.main import COMMANDS, main

    assert isinstance(main, click.Group)
    context = click.Context(main)
    for name in COMMANDS:
        found = main.get_command(context, name)
        assert found is not None
        leaves = found.commands.values() if isinstance(found, click.Group) else [found]
        for leaf in leaves:
            assert {"--home", "--config", "--json"} <= {option for p in leaf.params for option in p.opts}, leaf.name


def test_init_then_status_speak_one_json_object(tmp_path: Path) -> None:
    made = ratchet("init", "--json", cwd=tmp_path)
    assert made.returncode == 0
    assert json.loads(made.stdout)["simulation"] is False
    status = ratchet("status", "--json", cwd=tmp_path)
    assert status.returncode == 0
    found = json.loads(status.stdout)
    assert (found["champion"], found["candidate"], found["trials"], found["tables"]) == (None, None, [], {})
    assert found["events"] == {"delivered": 0, "accepted": 0, "quarantined": 0, "duplicate": 0, "late": 0}


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (("status",), 2, "ratchet init"),
        (("nonsense",), 2, "No such command"),
        (("bench", "nonsense"), 2, "known: "),
        (("rollback",), 2, "--as"),
        (("people", "list"), 2, "ratchet people list: .ratchet"),
        (("keys", "add", "x", "--role", "admin", "--days", "nan"), 2, "nan is no number"),
        (("keys", "add", "x", "--role", "admin", "--days", "1e9"), 2, "not in the range"),
        (("people", "token", "x", "--days", "nan"), 2, "nan is no number"),
        (("online", "allow", "--as", "x", "--reason", "y", "--hours", "inf"), 2, "not in the range"),
        (("tune", "--minutes", "nan"), 2, "nan is no number"),
        (("trial", "screen", "--challenger", "1", "--days", "1e12"), 2, "not in the range"),
        (("console", "--port", "99999"), 2, "not in the range"),
        (("serve", "--port", "-1"), 2, "not in the range"),
    ],
)
def test_a_users_mistake_is_named_with_its_remedy(
    tmp_path: Path, arguments: tuple[str, ...], exit_code: int, says: str
) -> None:
    done = ratchet(*arguments, cwd=tmp_path)
    assert done.returncode == exit_code
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [("approve",), ("train", "--mode", "some"), ("ingest", "--kin", "items"), ("keys", "add", "a", "b")]
)
def test_arguments_that_cannot_be_read_are_one_json_object_too(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--json"])
    told = capsys.readouterr()
    assert ended.value.code == 2
    answer = json.loads(told.out)
    assert answer["kind"] == "UsageError"
    assert answer["error"] in told.err


def test_json_holds_no_nan_and_times_as_the_api_writes_them(capfd: pytest.CaptureFixture[str]) -> None:
    when = datetime(2026, 3, 1, 12, tzinfo=UTC)

    @command("odd")
    def odd(context: Context) -> Result:
        return Result({"rows": [{"measured": math.nan, "bar": (math.inf, 1.5)}], "when": when, "home": context.root})

    with pytest.raises(SystemExit):
        odd(["--json"])
    assert json.loads(capfd.readouterr().out) == {
        "rows": [{"measured": None, "bar": [None, 1.5]}],
        "when": "2026-03-01T12:00:00+00:00",
        "home": ".ratchet",
    }


def test_a_broken_settings_file_names_file_key_and_nearest_name(tmp_path: Path) -> None:
    ratchet("init", cwd=tmp_path)
    (tmp_path / "odd.toml").write_text("[trial]\nalhpa = 0.1\n")
    done = ratchet("status", "--config", "odd.toml", "--json", cwd=tmp_path)
    assert done.returncode == 2
    assert "odd.toml: [trial] alhpa is not a setting; did you mean alpha?" in json.loads(done.stdout)["error"]


def test_a_prefect_that_does_not_start_is_a_dependency_that_failed(tmp_path: Path) -> None:
    ratchet("init", cwd=tmp_path)
    script = (
        "from cli import processes\nprocesses.PREFECT_SECONDS = 0.05\n"
        "from cli.main import main\nmain(['ingest', '--json'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 6
    assert "Prefect did not start within 0.05 s" in json.loads(done.stdout)["error"]
    assert "Traceback" not in done.stderr


def test_rollback_without_a_champion_is_refused_not_crashed(tmp_path: Path) -> None:
    ratchet("init", "--simulation", cwd=tmp_path)
    done = ratchet("rollback", "--as", "ann", "--reason", "test", "--json", cwd=tmp_path)
    assert done.returncode == 4
    assert "error" in json.loads(done.stdout)


def test_doctor_finds_keys_that_others_can_read(tmp_path: Path) -> None:
    ratchet("init", cwd=tmp_path)
    well = ratchet("doctor", "--json", cwd=tmp_path)
    checks = {entry["check"]: entry for entry in json.loads(well.stdout)["checks"]}
    assert checks["keys"]["ok"]
    assert ratchet("keys", "add", "shop", "--role", "recommend", cwd=tmp_path).returncode == 0
    assert ratchet("doctor", cwd=tmp_path).returncode == 0
    (tmp_path / ".ratchet" / "keys" / "token.key").chmod(0o644)
    ill = ratchet("doctor", "--json", cwd=tmp_path)
    checks = {entry["check"]: entry for entry in json.loads(ill.stdout)["checks"]}
    assert ill.returncode == 6
    assert not checks["keys"]["ok"]
    assert "chmod 600" in checks["keys"]["says"]
