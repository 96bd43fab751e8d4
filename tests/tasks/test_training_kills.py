"""A training killed at any stage and begun again ends as one that was not: the same digest, one version."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from simulation.marketplace import Marketplace
from simulation.parameters import Parameters
from stores.home import Home
from stores.ledger import Ledger
from stores.pseudonyms import Keys
from stores.registry import Registry
from stores.settings import load_settings

TOML = """
[model]
width = 16
blocks = 1
max_history = 20
[train]
epochs = 30
batch_tokens = 400
small_events = 0
threads = 1
checkpoint_every_steps = 5
"""
SCRIPT = Path(__file__).with_name("training_process.py")


def filled_home(root: Path) -> Home:
    from tasks.ingesting import ingest_file

    home = Home.create(root)
    Keys.write_derived(home.keys, seed=5)
    (home.root / "ratchet.toml").write_text(TOML)
    settings = load_settings(home.root / "ratchet.toml", environment={})
    market = Marketplace(Parameters(users=200, items=80, topics=4, subtopics_per_topic=3), seed=5)
    rows = [row for day in range(3) for row in market.organic_day(day)]
    file = root.parent / f"{root.name}.csv"
    columns = ("user_id", "item_id", "behaviour", "event_time", "value")
    lines = [",".join("" if row.get(name) is None else str(row[name]) for name in columns) for row in rows]
    file.write_text("\n".join([",".join(columns), *lines]), encoding="utf-8")
    ingest_file(file, home=home, settings=settings, now=datetime(2026, 2, 1, tzinfo=UTC))
    return home


def run(home: Home, *, kill_when: str | None = None) -> bool:
    """Train; with `kill_when`, SIGKILL as soon as such a file is there. Returns whether it was killed."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(home.root)],
        env=environment,
        cwd=SCRIPT.parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while process.poll() is None:
        assert time.monotonic() < deadline
        if kill_when is not None and any(home.checkpoints.glob(kill_when)):
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.005)
    assert process.returncode == 0
    return False


@pytest.mark.slow
def test_kills_in_fit_evaluation_and_registration_change_nothing(tmp_path: Path) -> None:
    whole, killed = filled_home(tmp_path / "whole"), filled_home(tmp_path / "killed")
    run(whole)
    stages = ("full-*/run/*", "full-*/fitted/training.json", "full-*/export.json")
    assert [run(killed, kill_when=stage) for stage in stages] == [True, True, True]
    run(killed)
    run(killed)  # and once more: the same training is the same version
    found = []
    for home in (whole, killed):
        settings = load_settings(home.root / "ratchet.toml", environment={})
        versions = Ledger.of(home, settings).versions()
        assert [record.version for record in versions] == [1]
        assert [each.digest for each in Registry(home, settings).versions()] == [versions[0].digest]
        assert [folder.name for folder in home.releases.iterdir()] == [versions[0].digest]
        found.append((versions[0].digest, dict(versions[0].metrics)))
    assert found[0] == found[1]
