"""The offline check of a home's challenger: what the panel says stops it, and the report says why."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.fitted import load_fitted, save_fitted
from simulation.marketplace import Marketplace
from simulation.parameters import Parameters
from stores.home import Home
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.pseudonyms import Keys
from stores.settings import Settings, load_settings
from tasks.allowed import consented
from tasks.cohorts import forgetting_lines, forgetting_markdown, forgetting_metrics, load_cohorts
from tasks.evaluating import evaluate_model
from tasks.ingesting import ingest_file
from tasks.jobs import Mode, TrainingJob, plan_training
from tasks.material import load_material
from tasks.training import fit_model

NOW = datetime(2026, 2, 1, tzinfo=UTC)
TOML = """
[model]
width = 8
blocks = 1
heads = 1
max_history = 10
[train]
epochs = 2
batch_tokens = 400
small_events = 0
threads = 1
[privacy]
k = 1
[forgetting]
users_share = 0.4
min_users = 5
"""
COLUMNS = ("user_id", "item_id", "behaviour", "event_time")


class Place:
    """A home with a champion, and events that came after it."""

    def __init__(self, root: Path) -> None:
        self.home = Home.create(root / "home", simulation=True)
        Keys.write_derived(self.home.keys, seed=5)
        (self.home.root / "ratchet.toml").write_text(TOML)
        self.settings: Settings = load_settings(self.home.root / "ratchet.toml", environment={})
        self.market = Marketplace(Parameters(users=150, items=30, topics=4, subtopics_per_topic=2), seed=5)
        self.deliver(root, 0)
        self.deliver(root, 1)
        job, report = self.trained(Mode.FULL)
        assert report["forgetting"] is None  # there is no champion to compare with
        Ledger.of(self.home, self.settings).record_version(self.version(job, report))
        self.crown()
        self.deliver(root, 2)

    def deliver(self, root: Path, day: int) -> None:
        rows = [",".join(str(row[name]) for name in COLUMNS) for row in self.market.organic_day(day)]
        file = root / f"day{day}.csv"
        file.write_text("\n".join([",".join(COLUMNS), *rows]), encoding="utf-8")
        ingest_file(file, home=self.home, settings=self.settings, now=NOW + timedelta(days=day))

    def trained(self, mode: Mode) -> tuple[TrainingJob, dict[str, Any]]:
        job = plan_training(self.home, self.settings, mode=mode)
        assert isinstance(job, TrainingJob)
        fit_model.fn(self.home, self.settings, job)
        return job, self.evaluated(job)

    def evaluated(self, job: TrainingJob) -> dict[str, Any]:
        (job.path(self.home) / "evaluation.json").unlink(missing_ok=True)
        found: dict[str, Any] = json.loads(evaluate_model.fn(self.home, self.settings, job).read_text("utf-8"))
        return found

    def version(self, job: TrainingJob, report: dict[str, Any]) -> VersionRecord:
        return VersionRecord(
            version=1,
            digest="d" * 64,
            mode=job.mode.value,
            parent=None,
            events_version=job.events_version,
            items_version=job.items_version,
            cutoff_us=report["cutoff_us"],
            offline_passed=True,
            metrics={},
            run_id="",
            created=NOW,
            checkpoint=f"{job.folder}/fitted",
        )

    def crown(self) -> None:
        Ledger.of(self.home, self.settings).bootstrap(1, actor="test", reason="first", now=NOW)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


def test_the_panel_is_learnt_from_by_no_training(place: Place) -> None:
    found = consented(place.home, place.settings)
    panel = set(found.sequences.user_U[found.sequences.count_U(found.panel_N) > 0].tolist())
    assert 20 <= len(panel) <= 90
    for mode in Mode:
        job = plan_training(place.home, place.settings, mode=mode)
        assert isinstance(job, TrainingJob)
        material = load_material(place.home, place.settings, job)
        learnt = {user.encode() for user in (*material.new.users, *material.past.users)}
        assert learnt
        assert not learnt & panel


def test_rows_stay_frozen_while_the_champion_stays(place: Place, tmp_path: Path) -> None:
    job = plan_training(place.home, place.settings, mode=Mode.INCREMENTAL)
    assert isinstance(job, TrainingJob)
    before = load_cohorts(place.home, place.settings, job)
    place.deliver(tmp_path, 3)
    after = load_cohorts(place.home, place.settings, job)
    assert before is not None
    assert after is not None
    cutoff_us = Ledger.of(place.home, place.settings).version(1).cutoff_us
    assert before.holdout.histories.time_N.max() < cutoff_us
    assert np.array_equal(before.holdout.event_R, after.holdout.event_R)
    assert np.array_equal(before.holdout.histories.time_N, after.holdout.histories.time_N)


def test_a_challenger_that_forgot_is_stopped_with_the_cohort_named(place: Place) -> None:
    job, report = place.trained(Mode.INCREMENTAL)
    assert [each["cohort"] for each in report["forgetting"]["cohorts"]][:2] == ["all", "old_items"]
    worse = load_fitted(job.path(place.home) / "fitted")
    worse.ranker.item_bias.data *= -20  # the least popular first
    save_fitted(worse, job.path(place.home) / "fitted")
    report = place.evaluated(job)
    assert not report["passed"]
    assert "forgetting: ndcg@10 of " in report["verdict"]
    assert "[forgetting] margin = 0.02" in report["verdict"]
    assert "all: ndcg@10" in forgetting_lines(report["forgetting"])[0]
    assert "| all |" in forgetting_markdown(report["forgetting"])
    metrics = forgetting_metrics(report["forgetting"])
    assert metrics["forgetting/ndcg@10/all/change"] < -0.02
    assert metrics["stability/overlap@10"] < 1


def test_without_a_panel_nothing_is_measured(place: Place) -> None:
    stated = place.settings.forgetting.model_copy(update={"users_share": 0.0})
    settings = place.settings.model_copy(update={"forgetting": stated})
    job = plan_training(place.home, settings, mode=Mode.INCREMENTAL)
    assert isinstance(job, TrainingJob)
    assert load_cohorts(place.home, settings, job) is None
    assert forgetting_lines(None) == ("forgetting: not measured, there is no champion or no panel",)
    assert forgetting_metrics(None) == {}
    assert "not measured" in forgetting_markdown(None)
