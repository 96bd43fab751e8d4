"""Decisions of a home: from its ledger, its folders and its events, logged one a line."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from model.continual.choosing import Action
from model.continual.prequential import DAY_US
from relations.errors import UsageError
from stores.home import Home
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.settings import Settings, load_settings
from tasks.evaluating import evaluate_model
from tasks.evidence import PREQUENTIAL, gather_evidence, judge_parent
from tasks.ingesting import ingest_file
from tasks.jobs import Mode, TrainingJob, plan_training
from tasks.scheduling import DECISION, decide_training, last_decision
from tasks.training import fit_model

START = datetime(2026, 3, 1, tzinfo=UTC)
NOW = START + timedelta(days=12)
TINY = """
[model]
width = 8
blocks = 1
heads = 1
[train]
epochs = 2
threads = 1
small_events = 0
[evaluation]
max_users = 50
[policy]
exclude_seen = false
"""


def deliver(home: Home, settings: Settings, folder: Path, *, days: range, users: int = 40) -> None:
    """Users who walk around twelve items, one step every eight hours, each from a start of its own."""
    lines = [
        f"u{user:02d},i{(user + 3 * day + step) % 12:02d},view,"
        + (START + timedelta(days=day, hours=8 * step, minutes=user)).isoformat()
        for user in range(users)
        for day in days
        for step in range(3)
    ]
    file = folder / f"events-{days.start}.csv"
    file.write_text("\n".join(["user_id,item_id,behaviour,event_time", *lines]) + "\n")
    ingest_file(file, home=home, settings=settings, now=NOW)


@pytest.fixture
def grown(home: Home, tmp_path: Path) -> tuple[Home, Settings]:
    """A home whose first model, a full retrain, is champion since the ninth day."""
    (home.root / "ratchet.toml").write_text(TINY)
    settings = load_settings(home.root / "ratchet.toml", environment={})
    deliver(home, settings, tmp_path, days=range(9))
    job = plan_training(home, settings, mode=Mode.FULL)
    assert isinstance(job, TrainingJob)
    fit_model.fn(home, settings, job)
    cutoff_us = json.loads(evaluate_model.fn(home, settings, job).read_text())["cutoff_us"]
    ledger = Ledger.of(home, settings)
    ledger.record_version(
        VersionRecord(
            version=1,
            digest="d" * 64,
            mode="full",
            parent=None,
            events_version=job.events_version,
            items_version=job.items_version,
            cutoff_us=cutoff_us,
            offline_passed=True,
            metrics={},
            run_id="",
            created=NOW - timedelta(days=3),
            checkpoint=f"{job.folder}/fitted",
        )
    )
    ledger.bootstrap(1, actor="ann", reason="first", now=NOW)
    return home, settings


def test_a_home_without_events_or_model(home: Home, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are no events yet"):
        gather_evidence.fn(home, settings, now=NOW)
    assert last_decision(home) is None
    deliver(home, settings, tmp_path, days=range(1), users=2)
    found = decide_training.fn(home, settings, now=NOW)
    assert (found.action, found.because) == (Action.FULL, "there is no model yet")


def test_from_nothing_new_to_an_increment(grown: tuple[Home, Settings], tmp_path: Path) -> None:
    home, settings = grown
    idle = decide_training.fn(home, settings, now=NOW)
    assert (idle.action, idle.because) == (Action.SKIP, "no new events since the last full retrain")
    deliver(home, settings, tmp_path, days=range(9, 12))
    found = decide_training.fn(home, settings, now=NOW)
    assert found.action is Action.INCREMENT
    evidence = found.evidence
    assert (evidence.parent, evidence.new_events, evidence.since_full) == (1, 40 * 3 * 3, 40 * 3 * 3)
    assert evidence.full_age_days == pytest.approx(3)
    assert evidence.baseline is not None
    assert {shift.measure for shift in evidence.shifts} >= {"behaviours", "popularity", "new items", "item vectors"}
    assert evidence.full_seconds is not None  # no increment has told its price yet
    assert evidence.increment_seconds is None

    lines = home.decisions.read_text().splitlines()
    assert [json.loads(line)["action"] for line in lines] == ["skip", "increment"]
    job = plan_training(home, settings, mode=Mode.INCREMENTAL)
    assert isinstance(job, TrainingJob)
    assert json.loads((job.path(home) / DECISION).read_text())["because"] == found.because
    assert json.loads(lines[-1])["training"] == job.folder
    # what was measured for the decision is what the training finds: it is not measured again
    measured = (job.path(home) / PREQUENTIAL).read_bytes()
    assert judge_parent.fn(home, settings, job).read_bytes() == measured
    days = json.loads(measured)["days"]
    record = Ledger.of(home, settings).version(1)
    first = (int((START + timedelta(days=9)).timestamp() * 1e6) - record.cutoff_us) // DAY_US
    assert [each["day"] for each in days] == list(range(first, first + len(days)))

    old = decide_training.fn(home, settings, now=NOW + timedelta(days=40))
    assert old.action is Action.FULL
    assert not old.drifted


def test_a_torn_line_is_no_decision(grown: tuple[Home, Settings]) -> None:
    home, settings = grown
    decide_training.fn(home, settings, now=NOW)
    with home.decisions.open("a") as log:
        log.write('{"action": "fu')
    last = last_decision(home)
    assert last is not None
    assert last["action"] == "skip"
    decide_training.fn(home, settings, now=NOW + timedelta(hours=1))
    again = last_decision(home)
    assert again is not None
    assert again["time"] == (NOW + timedelta(hours=1)).isoformat()


def test_forgetting_of_the_newest_increment_counts(grown: tuple[Home, Settings], tmp_path: Path) -> None:
    home, settings = grown
    deliver(home, settings, tmp_path, days=range(9, 12))
    ledger, folder = Ledger.of(home, settings), home.checkpoints / "incremental-x"
    folder.mkdir()
    cohorts = [{"cohort": "tail_items", "breach": True}, {"cohort": "old_users", "breach": False}]
    (folder / "evaluation.json").write_text(json.dumps({"forgetting": {"cohorts": cohorts}, "new_events": 5}))
    first = ledger.version(1)
    ledger.record_version(
        replace(
            first,
            version=2,
            digest="e" * 64,
            mode="incremental",
            parent=1,
            offline_passed=False,
            checkpoint="checkpoints/incremental-x/fitted",
        )
    )
    found = decide_training.fn(home, settings, now=NOW)
    assert (found.action, found.because) == (Action.FULL, "forgotten: tail_items")
