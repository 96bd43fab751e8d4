"""The corrected effect from the ledger's record of a trial, and where it is shown."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli.commands.trial import trial as command
from gate.looks import LookSums
from gate.stopping import corrected
from gate.trial import CHALLENGER, TrialConfig
from stores.home import Home
from stores.ledger import Ledger
from stores.ledger_records import TrialRecord, VersionRecord
from stores.settings import Settings
from tasks import tracking_looks
from tasks.correcting import corrected_effect
from tasks.tracking_looks import track_look
from tasks.trial_page.page import write_trial_page

T0 = datetime(2026, 3, 2, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "home", simulation=True)


@pytest.fixture
def ledger(home: Home, passing_trial: Callable[..., str], look_again: Callable[..., str]) -> Ledger:
    """trial-1 was promoted at its first look, and confirmed by the next."""
    ledger = Ledger.of(home, Settings())
    for number in (1, 2):
        ledger.record_version(
            VersionRecord(number, f"{number}" * 64, "full", None, 1, 1, 0, True, {}, "run", T0, "checkpoint")
        )
    ledger.bootstrap(1, actor="ann", reason="the first", now=T0)
    passing_trial(ledger, "trial-1", challenger=2, actor="bob", now=T0)
    look_again(ledger, "trial-1", now=T0 + timedelta(days=1))
    return ledger


def status(capfd: pytest.CaptureFixture[str], home: Home, *words: str) -> dict[str, Any]:
    done = CliRunner().invoke(command, ["status", *words, "--json", "--home", str(home.root)])
    assert done.exit_code == 0, done.output
    told: dict[str, Any] = json.loads(capfd.readouterr().out)["trials"][0]
    return told


def page(record: TrialRecord, folder: Path, *, k: int = 5) -> str:
    write_trial_page(folder / "trial.html", record, k=k)
    return (folder / "trial.html").read_text(encoding="utf-8")


def test_it_follows_from_the_looks_on_record_and_names_the_one_that_stopped(ledger: Ledger) -> None:
    record = ledger.trial("trial-1")
    looks = [LookSums.from_json(each.evidence["sums"]) for each in record.evidence]
    found = corrected(TrialConfig.from_json(record.config), looks, CHALLENGER)
    assert found is not None
    assert found == corrected_effect(record, CHALLENGER)
    assert [each.decision for each in record.evidence] == ["PROMOTE", "PROMOTE"]
    assert found.look == 1
    shifted = tuple(replace(each, number=each.number + 3) for each in record.evidence)  # after three looks at a shadow
    assert corrected_effect(replace(record, evidence=shifted), CHALLENGER) == replace(found, look=4)


@pytest.mark.parametrize("broken", ["no looks", "newest look alone", "no sums", "no config"])
def test_a_record_that_cannot_be_read_says_nothing(ledger: Ledger, broken: str) -> None:
    record = ledger.trial("trial-1")
    first = replace(record.evidence[0], evidence={"stage": "compare"})
    changed = {
        "no looks": replace(record, evidence=(), looks=0),
        "newest look alone": replace(record, evidence=record.evidence[-1:]),
        "no sums": replace(record, evidence=(first,), looks=1),
        "no config": replace(record, config={}),
    }
    assert corrected_effect(changed[broken], CHALLENGER) is None


def test_the_page_says_it_beside_the_lift(ledger: Ledger, tmp_path: Path) -> None:
    record = ledger.trial("trial-1")
    found = corrected_effect(record, CHALLENGER)
    assert found is not None
    assert found.lift is not None
    assert found.lift_interval is not None
    low, high = found.lift_interval.lower, found.lift_interval.upper
    said = page(record, tmp_path)
    line = f"corrected for stopping at look 1: <strong>{found.lift:+.2%} [{low:+.2%}, {high:+.2%}]</strong>, p = "
    assert said.index("lift of clicks") < said.index(line) < said.index("Waits for")
    assert "corrected for" not in page(record, tmp_path, k=10**9)
    unread = replace(record, evidence=tuple(replace(each, evidence={"look": 1}) for each in record.evidence))
    assert "corrected for" not in page(unread, tmp_path)


def test_status_of_one_trial_has_it_in_json(home: Home, ledger: Ledger, capfd: pytest.CaptureFixture[str]) -> None:
    found = corrected_effect(ledger.trial("trial-1"), CHALLENGER)
    assert found is not None
    assert status(capfd, home, "trial-1")["corrected"] == found.as_json()
    assert "corrected" not in status(capfd, home)


def test_mlflow_is_told_with_the_look_that_stopped(home: Home, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[int, Mapping[str, float | None]] = {}

    class Remembers:
        def __init__(self, *_: Any) -> None:
            pass

        def version_of(self, digest: str) -> int:
            return 2

        def log_trial(self, *_: Any, looks: list[tuple[int, Mapping[str, float | None]]], **__: Any) -> None:
            told.update(looks)

    monkeypatch.setattr(tracking_looks, "Registry", Remembers)
    monkeypatch.setattr(tracking_looks, "mirror_decision", lambda *_: ((), ""))
    track_look.fn(home, Settings(), {"trial_id": "trial-1"})
    found = corrected_effect(ledger.trial("trial-1"), CHALLENGER)
    assert found is not None
    assert found.lift_interval is not None
    names = ("corrected/lift", "corrected/low", "corrected/high", "corrected/p")
    stated = (found.lift, found.lift_interval.lower, found.lift_interval.upper, found.p_value)
    assert tuple(told[1][name] for name in names) == stated
    assert not set(names) & set(told[2])
