"""A release's index of its items: in the bundle, and in the attestation, or why there is none."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from serving.networks.engine import Engine
from simulation.marketplace import Marketplace
from simulation.parameters import Parameters
from stores.bundle import Bundle, open_bundle
from stores.home import Home
from stores.pseudonyms import Keys
from stores.settings import Settings
from tasks.ingesting import ingest_file
from tasks.jobs import Mode, TrainingJob, plan_training
from tasks.releasing import export_model
from tasks.training import fit_model

NOW = datetime(2026, 2, 1, tzinfo=UTC)
SMALL = {
    "model": {"width": 8, "blocks": 1, "heads": 1, "max_history": 10},
    "train": {"epochs": 2, "batch_tokens": 400, "small_events": 0, "threads": 1, "device": "cpu"},
    "evaluation": {"holdout_share": 0.4},
}
COLUMNS = ("user_id", "item_id", "behaviour", "event_time")


@pytest.fixture
def fitted(tmp_path: Path) -> tuple[Home, TrainingJob]:
    home = Home.create(tmp_path / "home")
    Keys.write_derived(home.keys, seed=5)
    market = Marketplace(Parameters(users=150, items=300, topics=4, subtopics_per_topic=2), seed=5)
    rows = [",".join(str(row[name]) for name in COLUMNS) for day in range(2) for row in market.organic_day(day)]
    file = home.root / "events.csv"
    file.write_text("\n".join([",".join(COLUMNS), *rows]), encoding="utf-8")
    settings = Settings.model_validate(SMALL)
    ingest_file(file, home=home, settings=settings, now=NOW)
    job = plan_training(home, settings, mode=Mode.FULL)
    assert isinstance(job, TrainingJob)
    fit_model.fn(home, settings, job)
    return home, job


def released(home: Home, job: TrainingJob, **release: float) -> Bundle:
    (job.path(home) / "export.json").unlink(missing_ok=True)
    settings = Settings.model_validate(SMALL | {"release": release})
    return open_bundle(home.releases, export_model.fn(home, settings, job))


def test_settings_say_from_where_on_there_is_an_index(fitted: tuple[Home, TrainingJob]) -> None:
    plain = released(*fitted)
    assert plain.attestation["nearest"]["built"] is False
    assert "an index pays from 100,000 on ([release] ann_above)" in plain.attestation["nearest"]["reason"]
    assert Engine.load(plain).nearest is None
    indexed = released(*fitted, ann_above=100, ann_recall=0.1)
    told = indexed.attestation["nearest"]
    assert told["built"], told
    assert told["best"] == 100
    assert 0.1 <= told["recall_low"] <= told["recall"] <= 1
    engine = Engine.load(indexed)
    assert engine.nearest is not None
    assert engine.nearest.best_at_most == 100
    assert indexed.digest != plain.digest
