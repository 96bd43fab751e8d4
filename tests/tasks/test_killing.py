"""The kill switch at any hour: with the ledger, without it, and what the ledger is told afterwards."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cli.main import main
from gate.states import TrialState
from relations.errors import DataRejected, DependencyFailed, GateRefused, UsageError
from stores import kill_switch
from stores.home import Home
from stores.kill_switch import Kill
from stores.kills import kill_trial
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.settings import Settings
from tasks.killing import settle_kills

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
SETTINGS = Settings()
WHO: dict[str, Any] = {"actor": "ann", "reason": "prices are gone", "now": T0}


@pytest.fixture
def home(tmp_path: Path, hire: Callable[..., str]) -> Home:
    made = Home.create(tmp_path / "home")
    hire(made, "bob", "submitter")
    hire(made, "ann", "approver", "submitter")
    ledger = Ledger.of(made, SETTINGS)
    for number in (1, 2):
        ledger.record_version(
            VersionRecord(number, f"{number:064x}", "full", number - 1 or None, 1, 1, 0, True, {}, "run", T0, "")
        )
    ledger.bootstrap(1, actor="ann", reason="the first", now=T0)
    ledger.open_trial("t1", {"n_max": 9}, challengers=[2], salt="s", allocation=0.5, actor="bob", now=T0)
    return made


@pytest.fixture
def down(home: Home) -> Callable[[bool], None]:
    """Takes the ledger's database away, or brings it back."""
    there, away = home.root / "ledger.db", home.root / "ledger.away"

    def switch(down: bool) -> None:
        if down:
            there.rename(away)
            there.mkdir()  # SQLite cannot open a folder
        else:
            there.rmdir()
            away.rename(there)

    return switch


def ledger_of(home: Home) -> Ledger:
    return Ledger.of(home, SETTINGS)


def test_a_kill_is_in_the_file_and_in_the_ledger(home: Home) -> None:
    assert kill_switch.read(home.kill_switch) == ()
    done = kill_trial(home, SETTINGS, "t1", **WHO)
    assert (done.recorded, done.warning) == (True, "")
    assert kill_switch.read(home.kill_switch) == (Kill("t1", "ann", "prices are gone", T0),)
    assert ledger_of(home).trial("t1").killed is not None
    assert kill_trial(home, SETTINGS, "t1", **WHO).recorded  # again is once
    assert len(kill_switch.read(home.kill_switch)) == 1
    assert settle_kills(home, ledger_of(home), now=T0) == ()


def test_without_the_ledger_the_file_says_it_and_the_ledger_hears_of_it_later(
    home: Home, down: Callable[[bool], None]
) -> None:
    down(True)
    done = kill_trial(home, SETTINGS, "t1", **WHO)
    assert not done.recorded
    assert "serving is told" in done.warning
    assert [kill.trial for kill in kill_switch.read(home.kill_switch)] == ["t1"]
    down(False)
    ledger = ledger_of(home)
    assert ledger.trial("t1").killed is None
    assert settle_kills(home, ledger, now=T0 + HOUR) == ("t1",)
    killed = ledger.trial("t1").killed
    assert killed is not None
    assert (killed.actor, killed.since) == ("ann", T0 + HOUR)
    assert killed.reason == "prices are gone (at 2026-01-01T00:00:00.000000Z, while the ledger was out of reach)"
    assert settle_kills(home, ledger, now=T0 + HOUR) == ()
    assert len(kill_switch.read(home.kill_switch)) == 1, "a server that cannot reach the ledger keeps to it"
    assert ledger.verify() == []


def test_a_trial_that_only_the_file_says_is_killed_cannot_be_approved(home: Home) -> None:
    from tasks.deciding import approve_trial

    ledger = ledger_of(home)
    ledger.record_evidence("t1", {"decision": "PROMOTE"}, now=T0)
    (home.releases / f"{2:064x}").mkdir(parents=True)
    kill_switch.add(home.kill_switch, Kill("t1", "ann", "prices are gone", T0))
    with pytest.raises((GateRefused, DataRejected)):
        approve_trial(home, SETTINGS, "t1", actor="carl", reason="better", now=T0)
    assert ledger.trial("t1").killed is not None
    with pytest.raises(GateRefused, match="ABORTED: it was killed by ann"):
        ledger.approve("t1", actor="carl", reason="better", now=T0)
    assert ledger.trial("t1").state is TrialState.ABORTED


def test_a_name_that_no_trial_has_is_not_left_in_the_file(home: Home) -> None:
    with pytest.raises(UsageError, match="'t9': no such trial"):
        kill_trial(home, SETTINGS, "t9", **WHO)
    assert kill_switch.read(home.kill_switch) == ()


def test_a_broken_url_is_no_reason_to_take_a_kill_back(home: Home) -> None:
    broken = Settings.model_validate({"ledger": {"url": "no url"}})
    assert not kill_trial(home, broken, "t1", **WHO).recorded
    assert [kill.trial for kill in kill_switch.read(home.kill_switch)] == ["t1"]


def test_a_trial_that_is_over_says_so(home: Home) -> None:
    ledger_of(home).stop_trial("t1", actor="ann", reason="enough", now=T0)
    with pytest.raises(GateRefused, match="t1: is ABORTED, it is over"):
        kill_trial(home, SETTINGS, "t1", **WHO)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"format": 2, "killed": []}', '{"format": 1, "killed": [{"trial": "t"}]}']
)
def test_a_damaged_switch_is_named_and_the_ledger_is_told_all_the_same(
    home: Home, down: Callable[[bool], None], text: str
) -> None:
    home.kill_switch.write_text(text)
    with pytest.raises(DataRejected, match=r"kill-switch\.json: not a kill switch .*no challenger is shown"):
        kill_switch.read(home.kill_switch)
    down(True)
    with pytest.raises(DependencyFailed, match="t1 is NOT killed"):
        kill_trial(home, SETTINGS, "t1", **WHO)
    down(False)
    done = kill_trial(home, SETTINGS, "t1", **WHO)
    assert done.recorded
    assert "kill-switch.json" in done.warning


def test_kills_at_once_are_all_kept(home: Home) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: kill_switch.add(home.kill_switch, Kill(f"ü{n}", "ann", "x", T0)), range(24)))
    assert {kill.trial for kill in kill_switch.read(home.kill_switch)} == {f"ü{n}" for n in range(24)}
    assert [path.name for path in home.serving.glob(".*part")] == []


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main([*arguments], prog_name="ratchet")
    return int(left.value.code or 0)


def test_the_commands(home: Home, down: Callable[[bool], None], capfd: pytest.CaptureFixture[str]) -> None:
    where = ("--home", str(home.root), "--json", "--as", "ann", "--reason", "so far so good")
    ledger = ledger_of(home)
    ledger.stop_trial("t1", actor="ann", reason="enough", now=T0)
    assert run("trial", "start", "--mode", "shadow", "--challenger", "2", "--home", str(home.root), "--json") == 0
    capfd.readouterr()
    assert run("trial", "stage", "trial-2", "--mode", "canary", "--allocation", "0.01", *where) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["stage"], told["mode"], told["allocation"]) == (2, "canary", 0.01)
    assert run("trial", "stage", "trial-2", "--mode", "shadow", *where) == 4
    assert run("trial", "stage", "trial-2", "--mode", "canary", "--allocation", "0.2", *where) == 2
    capfd.readouterr()
    down(True)
    assert run("trial", "kill", "trial-2", *where) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["killed"], told["recorded"]) == (True, False)
    assert "not verified" in told["warning"]
    assert [kill.actor for kill in kill_switch.read(home.kill_switch)] == ["ann (unverified)"]
    assert run("trial", "status", "--home", str(home.root), "--json") == 6
    down(False)
    assert run("trial", "stage", "trial-2", "--mode", "compare", *where) == 4  # and tells the ledger
    capfd.readouterr()
    assert run("trial", "status", "trial-2", "--home", str(home.root), "--json") == 0
    assert json.loads(capfd.readouterr().out)["trials"][0]["mode"] == "killed"
    assert run("ledger", "verify", "--home", str(home.root), "--json") == 0
    assert run("trial", "kill", "trial-9", *where) == 2
    assert run("trial", "stop", "trial-2", *where) == 0


def test_the_flow_tells_the_ledger_and_leaves_a_killed_trial_alone(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    import flows.trial

    monkeypatch.setattr(flows.trial, "ingest_landing", lambda **_: None)
    monkeypatch.setattr(flows.trial, "refresh_serving", lambda *_: None)
    kill_switch.add(home.kill_switch, Kill("t1", "ann", "prices are gone", T0))
    answer = flows.trial.trial.fn(str(home.root), start=True, now=T0)
    assert answer == {"verdict": None, "reasons": ["t1 was killed, and waits to be stopped"]}
    assert ledger_of(home).trial("t1").killed is not None
