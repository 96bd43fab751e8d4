"""Homes in which a small model can learn within a second."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from simulation.marketplace import Marketplace
from simulation.parameters import Parameters
from stores.home import Home
from stores.pseudonyms import Keys
from stores.settings import load_settings
from tasks.ingesting import ingest_file

NOW = datetime(2026, 2, 1, tzinfo=UTC)
COLUMNS = ("user_id", "item_id", "behaviour", "event_time")
SMALL = """
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
device = "cpu"
"""


@pytest.fixture(scope="session")
def two_days() -> Callable[..., Home]:
    """Makes the home `root / "home"`, in which two days of a small market are ingested; the third lies in `day-2.csv`.

    Its settings are those of a small model, and `more` TOML behind them.
    """

    def make(root: Path, *, more: str = "") -> Home:
        home = Home.create(root / "home")
        Keys.write_derived(home.keys, seed=5)
        (home.root / "ratchet.toml").write_text(SMALL + more)
        settings = load_settings(home.root / "ratchet.toml", environment={})
        market = Marketplace(Parameters(users=50, items=30, topics=4, subtopics_per_topic=2), seed=5)
        for day in range(3):
            rows = [",".join(str(row[name]) for name in COLUMNS) for row in market.organic_day(day)]
            file = home.root / f"day-{day}.csv"
            file.write_text("\n".join([",".join(COLUMNS), *rows]), encoding="utf-8")
            if day < 2:
                ingest_file(file, home=home, settings=settings, now=NOW)
        return home

    return make
