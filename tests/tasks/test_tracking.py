"""A tracking server that is dead, or that takes the connection and never answers, neither stops a training nor loses
anything of it."""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from relations.errors import DependencyFailed
from stores.home import Home
from stores.ledger import Ledger
from stores.mirror import reconcile
from stores.registry import Registry
from stores.replay import left, read_sent
from stores.settings import Settings, TrackingSettings, load_settings
from stores.spool import Spool, SpooledRun, read_points
from tasks import spooling
from tasks.evaluating import evaluate_model
from tasks.jobs import Mode, TrainingJob, plan_training
from tasks.releasing import Released, export_model, register_model
from tasks.spooling import send_left, sending, within
from tasks.training import LOSS, fit_model

NOW = datetime(2026, 2, 1, tzinfo=UTC)
TwoDays = Callable[..., Home]
Hire = Callable[..., str]


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that takes every connection and answers none; with the timeouts of the real thing cut short."""
    monkeypatch.setitem(os.environ, "MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setitem(os.environ, "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    held = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        done = threading.Event()

        def take() -> None:
            while not done.is_set():
                try:
                    held.append(server.accept()[0])
                except TimeoutError:
                    continue

        thread = threading.Thread(target=take)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        done.set()
        thread.join()
    for connection in held:
        connection.close()


class _Failing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(503)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that answers 503 to everything."""
    monkeypatch.setitem(os.environ, "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Failing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def of(home: Home, uri: str = "", **train: Any) -> Settings:
    settings = load_settings(home.root / "ratchet.toml", environment={})
    tracking = TrackingSettings(uri=uri, wait_seconds=5)
    return settings.model_copy(update={"tracking": tracking, "train": settings.train.model_copy(update=train)})


def release(home: Home, settings: Settings) -> tuple[TrainingJob, Released]:
    job = plan_training(home, settings, mode=Mode.FULL)
    assert isinstance(job, TrainingJob)
    fit_model.fn(home, settings, job)
    evaluate_model.fn(home, settings, job)
    export_model.fn(home, settings, job)
    return job, register_model.fn(home, settings, job, submitter="test", now=NOW)


@pytest.mark.slow
def test_a_release_needs_no_tracking_server_and_is_told_to_it_later(
    two_days: TwoDays, tmp_path: Path, silent: str, hire: Hire, caplog: pytest.LogCaptureFixture
) -> None:
    home = two_days(tmp_path)
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        first, one = release(home, of(home, silent))
    assert "not in MLflow yet, the next training tells it" in caplog.text
    assert (one.version, one.run_id) == (1, "")
    assert time.monotonic() - began < 120
    points = read_points(first.path(home))[0]
    assert [point.step for point in points if point.key == LOSS] == list(range(1, len(points) + 1))
    # a local MLflow from here on: the next training tells it of both, in their order
    second, two = release(home, of(home, seed=1))
    assert (two.version, two.run_id != "") == (2, True)
    settings = of(home)
    registry, ledger = Registry(home, settings), Ledger.of(home, settings)
    versions = ledger.versions()
    assert [(each.version, each.digest) for each in registry.versions()] == [(v.version, v.digest) for v in versions]
    client: Any = registry._client
    for job in (first, second):
        sent = read_sent(job.path(home), uri=registry.uri)
        assert sent is not None
        shown = client.get_metric_history(sent.run_id, LOSS)
        assert [point.step for point in shown] == list(range(1, len(shown) + 1))
        assert len(shown) == len(read_points(job.path(home))[0])
        run = client.get_run(sent.run_id)
        assert run.info.status == "FINISHED"
        assert "challenger/ndcg_at_10" in run.data.metrics
        assert not left(job.path(home), uri=registry.uri)
        assert len(client.search_runs([run.info.experiment_id], f"tags.`ratchet.key` = '{job.folder}'")) == 1
    hire(home, "ann", "approver")
    ledger.bootstrap(1, actor="ann", reason="the first", now=NOW)
    assert "alias champion: none → version 1" in reconcile(ledger, registry)


@pytest.mark.slow
def test_mlflow_may_number_a_version_otherwise(
    two_days: TwoDays, tmp_path: Path, hire: Hire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody registered a model of their own meanwhile: the ledger's version 1 is MLflow's 2, and found by digest."""
    home = two_days(tmp_path)
    settings = of(home)
    monkeypatch.setattr("tasks.tracking.track_training", _away)
    _, one = release(home, settings)
    assert one.version == 1
    monkeypatch.undo()
    registry = Registry(home, settings)
    client: Any = registry._client
    client.create_registered_model(registry.model)
    client.create_model_version(registry.model, source="file:///elsewhere")
    release(home, of(home, seed=1))
    ledger = Ledger.of(home, settings)
    assert [record.version for record in ledger.versions()] == [1, 3]
    assert registry.version_of(one.digest) == 2
    hire(home, "ann", "approver")
    ledger.bootstrap(1, actor="ann", reason="the first", now=NOW)
    reconcile(ledger, registry)
    assert registry.aliases() == {"champion": 2}
    assert reconcile(ledger, registry) == []


def _away(*_: Any, **__: Any) -> None:
    raise DependencyFailed("MLflow is away")


def test_work_never_waits_for_a_silent_server(home: Home, silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step spools in well under a millisecond on average, and the block ends as soon as it may."""
    monkeypatch.setattr(spooling, "SEND_SECONDS", 0.01)
    monkeypatch.setattr(spooling, "LEAVE_SECONDS", 0.2)
    settings, folder = Settings(tracking=TrackingSettings(uri=silent)), home.checkpoints / "one"
    began = time.monotonic()
    with Spool(folder, SpooledRun("one", "one")) as spool, sending(home, settings, folder):
        for step in range(1, 1_001):
            spool.add(LOSS, step=step, value=0.5)
        time.sleep(0.2)  # it tries now
    assert time.monotonic() - began < 30  # a wait a step would be minutes
    assert left(folder, uri=silent)
    assert send_left(home, Settings()) == 1_000
    assert send_left(home, Settings()) == 0


def test_a_server_that_answers_5xx_stops_no_work_and_is_told_once_later(
    home: Home, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooling, "SEND_SECONDS", 0.01)
    monkeypatch.setattr(spooling, "LEAVE_SECONDS", 0.2)
    settings, folder = Settings(tracking=TrackingSettings(uri=failing)), home.checkpoints / "one"
    with Spool(folder, SpooledRun("one", "one")) as spool, sending(home, settings, folder):
        for step in range(1, 101):
            spool.add(LOSS, step=step, value=0.5)
        time.sleep(0.2)  # it tries now
    assert left(folder, uri=failing)
    assert send_left(home, Settings()) == 100
    assert send_left(home, Settings()) == 0


def test_what_earlier_runs_left_is_sent_behind_the_next_ones_back(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooling, "SEND_SECONDS", 0.01)
    old, new = home.checkpoints / "old", home.checkpoints / "new"
    with Spool(old, SpooledRun("old", "old")) as spool:
        spool.add(LOSS, step=1, value=0.5)
    with Spool(new, SpooledRun("new", "new")) as spool, sending(home, Settings(), new):
        spool.add(LOSS, step=1, value=0.25)
        spool.flush()
        deadline = time.monotonic() + 60
        while any(left(folder, uri=home.tracking_uri) for folder in (old, new)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert send_left(home, Settings()) == 0


def test_an_answer_in_time_or_a_clear_error() -> None:
    assert within(lambda: 3, seconds=5) == 3
    assert within(lambda: 3, seconds=None) == 3
    with pytest.raises(ZeroDivisionError):
        within(lambda: 1 // 0, seconds=5)
    with pytest.raises(DependencyFailed, match=r"longer than \[tracking\] wait_seconds = 0.01"):
        within(lambda: time.sleep(0.2), seconds=0.01)
