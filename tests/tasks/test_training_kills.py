"""A training killed at any stage and begun again ends as one that was not: the same digest, one version."""

import shutil
import signal
from pathlib import Path

import pytest

from bench.fault_homes import Workers
from bench.fault_trainings import (
    PRELOAD,
    grown_home,
    measure_increment_kills,
    measure_release_kills,
    outcome,
    train,
    under_way,
)
from stores.home import Home

STAGES = ("run/*", "fitted/training.json", "export.json")
"""Files of a training's folder by which its fit has begun, is done, and its bundle is released."""


@pytest.fixture(scope="module")
def workers() -> Workers:
    return Workers(also=PRELOAD)


@pytest.fixture
def api(prefect_harness: None) -> str:
    from prefect.settings import PREFECT_API_URL

    return str(PREFECT_API_URL.value())


def end_of(home: Home, mode: str, *, workers: Workers, api: str, kills: bool) -> tuple[str, ...]:
    """Train, killed first at each stage if so asked; then twice more, for the same training is the same version."""
    root = str(home.root)
    for stage in STAGES if kills else ():
        reached = f"{mode}-*/{stage}"
        ended = workers.run(train, root, mode, api, kill_when=lambda: any(home.checkpoints.glob(reached)))  # noqa: B023
        assert ended.exit == -signal.SIGKILL
    for _ in range(2 if kills else 1):
        assert workers.run(train, root, mode, api).exit == 0
    assert under_way(root, api) == 0
    return outcome(home, workers=workers)


@pytest.mark.servers
@pytest.mark.slow
def test_kills_in_fit_evaluation_and_registration_change_nothing(tmp_path: Path, workers: Workers, api: str) -> None:
    home = grown_home(tmp_path / "home", workers=workers, api=api)  # its first version was trained undisturbed
    grown = tmp_path / "grown"
    shutil.copytree(home.root, grown)
    ends = []
    for kills in (False, True):
        shutil.rmtree(home.root)
        shutil.copytree(grown, home.root)
        ends.append([end_of(home, mode, workers=workers, api=api, kills=kills) for mode in ("incremental", "full")])
    assert ends[0] == ends[1]
    assert [len(end) for end in ends[1]] == [2 * 3 + 1, 3 * 3 + 1]  # versions in three places, and what was fitted


@pytest.mark.servers
@pytest.mark.slow
def test_an_increment_killed_at_random_moments(tmp_path: Path, workers: Workers, api: str) -> None:
    rows = measure_increment_kills(tmp_path, kills=2, workers=workers, api=api)
    assert [row for row in rows if not row["holds"] and "slowest" not in row["name"]] == []


@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_export_and_a_registration_killed_at_random_moments(tmp_path: Path, workers: Workers, api: str) -> None:
    rows = measure_release_kills(tmp_path, kills=1, workers=workers, api=api)
    assert len(rows) == 8
    assert [row for row in rows if not row["holds"]] == []
