"""The spool and its replay: what was flushed outlasts a kill, and a server gets every point once."""

import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from relations.errors import DependencyFailed
from stores import replay as replaying
from stores.home import Home
from stores.registry import Registry
from stores.replay import left, read_sent, replay, spools
from stores.settings import Settings, TrackingSettings
from stores.spool import Spool, SpooledRun, read_points, read_run
from stores.tracked_run import TrackedRun

ROOT = Path(__file__).parents[2]
RUN = SpooledRun("checkpoints/one", "full one", tags={"mode": "full"}, params={"train": {"epochs": 2}})


def steps(folder: Path, key: str = "train/loss") -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in read_points(folder)[0] if point.key == key]


def test_what_was_flushed_is_read_back_and_taken_once(tmp_path: Path) -> None:
    with Spool(tmp_path, RUN) as spool:
        for step in (1, 2, 3):
            spool.add("train/loss", step=step, value=1 / step)
        spool.add("ndcg@10", step=1, value=math.nan)
        assert steps(tmp_path) == []  # a point is written with others
        spool.flush()
        assert steps(tmp_path) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert read_run(tmp_path) == RUN
    with Spool(tmp_path, RUN) as again:  # went on from the checkpoint of step 1
        for step in (2, 3, 4):
            again.add("train/loss", step=step, value=9.0)
        again.end("FINISHED")
    assert steps(tmp_path) == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 9.0)]
    found = read_run(tmp_path)
    assert found is not None
    assert found.status == "FINISHED"


def test_half_a_line_is_no_point_and_is_written_over(tmp_path: Path) -> None:
    with Spool(tmp_path, RUN) as spool:
        spool.add("ä/loss", step=1, value=0.5)
    file = tmp_path / "metrics.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + b'["\xc3\xa4/loss", 2, 0.')
    assert read_points(tmp_path) == (read_points(tmp_path, most=1)[0], len(whole))
    with Spool(tmp_path, RUN) as spool:
        spool.add("ä/loss", step=2, value=0.25)
    assert steps(tmp_path, "ä/loss") == [(1, 0.5), (2, 0.25)]


def broken(spool: Spool, error: type[BaseException]) -> None:
    spool.add("loss", step=1, value=1.0)
    raise error


def test_a_block_that_raises_says_how_the_run_ended(tmp_path: Path) -> None:
    for error, status in ((ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")):
        with pytest.raises(error), Spool(tmp_path, RUN) as spool:
            broken(spool, error)
        found = read_run(tmp_path)
        assert found is not None
        assert found.status == status
    assert steps(tmp_path, "loss") == [(1, 1.0)]


def test_a_folder_without_a_spool_holds_nothing(tmp_path: Path) -> None:
    assert read_run(tmp_path) is None
    assert read_points(tmp_path) == ([], 0)
    assert not left(tmp_path, uri="sqlite://")
    assert spools(tmp_path, tmp_path / "missing") == []


@examples(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ends=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=5))
def test_however_often_a_training_is_killed_a_step_is_there_once(
    tmp_path_factory: pytest.TempPathFactory, ends: list[tuple[int, int]]
) -> None:
    """A session goes on from a checkpoint at or before the last flushed step, takes steps, and is killed."""
    folder, flushed = tmp_path_factory.mktemp("spool"), 0
    for taken, back in [*ends, (12, 0)]:
        spool, begin = Spool(folder, RUN), max(0, flushed - back)
        for step in range(begin + 1, begin + taken + 1):
            spool.add("train/loss", step=step, value=float(step))
        spool.flush()  # as before each checkpoint
        flushed = max(flushed, begin + taken)
        spool.add("train/loss", step=flushed + 1, value=-1.0)
        spool._file.close()  # killed: what was not flushed is gone
        spool._buffer.clear()
    assert steps(folder) == [(step, float(step)) for step in range(1, flushed + 1)]


WRITE = """
import sys
from pathlib import Path
from stores.spool import Spool, SpooledRun
with Spool(Path(sys.argv[1]), SpooledRun("k", "n")) as spool:
    for step in range(1, 10**9):
        spool.add("loss", step=step, value=0.5)
        if step % 50 == 0:
            spool.flush()
            print(step, flush=True)
"""


def test_sigkill_loses_nothing_that_was_flushed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITE, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(3)][-1]
        process.send_signal(signal.SIGKILL)
    found = [step for step, _ in steps(tmp_path, "loss")]
    assert len(found) >= told
    assert found == list(range(1, len(found) + 1))


# The replay, to MLflow as it really is


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home.create(tmp_path_factory.mktemp("spool") / "a home", simulation=True)


@pytest.fixture
def registry(made: Home, request: pytest.FixtureRequest) -> Registry:
    return Registry(made, Settings(tracking=TrackingSettings(experiment=request.node.name)))


def fill(folder: Path, run: SpooledRun, count: int) -> Path:
    with Spool(folder, run) as spool:
        for step in range(1, count + 1):
            spool.add("train/loss", step=step, value=1 / step)
            if step % 10 == 0:
                spool.add("ndcg@10", step=step // 10, value=step / count)
    return folder


def shown(registry: Registry, folder: Path, key: str = "train/loss") -> list[tuple[int, float]]:
    sent = read_sent(folder, uri=registry.uri)
    assert sent is not None
    return [(point.step, point.value) for point in registry._client.get_metric_history(sent.run_id, key)]


def test_every_point_arrives_once_with_its_own_time(made: Home, registry: Registry) -> None:
    folder = fill(made.checkpoints / "once", RUN, 1_100)  # more than one request
    assert replay(folder, home=made, registry=registry) == 1_210
    assert replay(folder, home=made, registry=registry) == 0
    assert shown(registry, folder) == [(step, 1 / step) for step in range(1, 1_101)]
    sent = read_sent(folder, uri=registry.uri)
    assert sent is not None
    client: Any = registry._client
    times = {point.timestamp for point in client.get_metric_history(sent.run_id, "ndcg_at_10")}
    assert times == {point.time_ms for point in read_points(folder)[0] if point.key == "ndcg@10"}
    found = client.get_run(sent.run_id)
    assert (found.info.status, found.data.tags["mode"], found.data.params) == ("RUNNING", "full", {"train.epochs": "2"})
    with Spool(folder, RUN) as spool:
        spool.add("train/loss", step=1_101, value=0.0)
        spool.end("FINISHED")
    assert left(folder, uri=registry.uri)
    assert replay(folder, home=made, registry=registry) == 1
    assert client.get_run(sent.run_id).info.status == "FINISHED"
    assert not left(folder, uri=registry.uri)


class Killed(BaseException):
    pass


@pytest.fixture(params=["as the run is made", "before the request", "after it, before its answer", "after the answer"])
def killed_at(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A kill, or a server that did it and whose answer was lost; but for the first, in the second batch."""
    log_points, write, requests, writes = TrackedRun.log_points, replaying._write, [], []

    def log(self: TrackedRun, points: Any) -> None:
        requests.append(points)
        if request.param.startswith("before") and len(requests) == 2:
            raise Killed
        log_points(self, points)
        if request.param.startswith("after it") and len(requests) == 2:
            raise Killed

    def written(folder: Path, sent: Any) -> None:
        writes.append(sent)  # as the run is made, then before and after each request
        if len(writes) == {"as the run is made": 1, "after the answer": 5}.get(request.param):
            raise Killed
        write(folder, sent)

    monkeypatch.setattr(TrackedRun, "log_points", log)
    monkeypatch.setattr(replaying, "_write", written)
    return monkeypatch


def test_a_kill_anywhere_doubles_nothing_and_loses_nothing(
    made: Home, killed_at: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    registry = Registry(made, Settings())
    killed_at.setattr("stores.replay.BATCH", 20)
    name = f"killed-{abs(hash(request.node.name))}"
    folder = fill(made.checkpoints / name, SpooledRun(name, "killed"), 50)
    with pytest.raises(Killed):
        replay(folder, home=made, registry=registry)
    killed_at.undo()
    with Spool(folder, SpooledRun(name, "killed")) as spool:
        spool.add("train/loss", step=51, value=0.0)
    replay(folder, home=made, registry=Registry(made, Settings()))
    assert shown(registry, folder) == [*((step, 1 / step) for step in range(1, 51)), (51, 0.0)]
    assert len(shown(registry, folder, "ndcg_at_10")) == 5
    query = f"tags.`ratchet.key` = '{name}'"
    assert len(registry._client.search_runs([registry._experiment()], query)) == 1


def test_points_that_the_server_has_with_another_time_are_not_sent_again(made: Home, registry: Registry) -> None:
    """What tells a point is run, key and step, not only MLflow's own rule for equal rows."""
    folder = fill(made.checkpoints / "times", SpooledRun("times", "times"), 3)
    run = registry.open_run("times", key="times", tags={}, params={})
    run.log_points([("train/loss", 2, 0.5, 1)])
    assert replay(folder, home=made, registry=registry) == 2
    assert sorted(shown(registry, folder)) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_a_run_stands_inside_its_parent_and_another_server_gets_all_of_it(made: Home, tmp_path: Path) -> None:
    parent = fill(made.tuning / "search", SpooledRun("search", "search"), 2)
    child = fill(parent / "0", SpooledRun("search/0", "trial 0", parent="tuning/search"), 3)
    assert spools(made.tuning) == [parent, child]
    for settings in (Settings(), Settings(tracking=TrackingSettings(uri=f"sqlite:///{tmp_path / 'other.db'}"))):
        registry = Registry(made, settings)
        assert replay(child, home=made, registry=registry) == 3  # its parent was sent before it
        assert not left(parent, uri=registry.uri)
        found, above = read_sent(child, uri=registry.uri), read_sent(parent, uri=registry.uri)
        assert found is not None
        assert above is not None
        assert registry._client.get_run(found.run_id).data.tags["mlflow.parentRunId"] == above.run_id
        assert shown(registry, child) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
        registry._client._tracking_client.store.engine.dispose()


def test_a_run_that_was_deleted_is_made_again(made: Home, registry: Registry) -> None:
    folder = fill(made.checkpoints / "deleted", SpooledRun("deleted", "deleted"), 3)
    replay(folder, home=made, registry=registry)
    first = read_sent(folder, uri=registry.uri)
    assert first is not None
    registry._client.delete_run(first.run_id)
    with Spool(folder, SpooledRun("deleted", "deleted")) as spool:
        spool.add("train/loss", step=4, value=0.0)
    assert replay(folder, home=made, registry=registry) == 4
    assert [step for step, _ in shown(registry, folder)] == [1, 2, 3, 4]


def test_a_dead_server_is_a_dependency_that_failed_and_the_spool_stays(made: Home) -> None:
    folder = fill(made.checkpoints / "dead", SpooledRun("dead", "dead"), 3)
    away = Registry(made, Settings(tracking=TrackingSettings(uri="http://127.0.0.1:9")))
    with pytest.raises(DependencyFailed, match="MLflow at"):
        replay(folder, home=made, registry=away)
    assert left(folder, uri=away.uri)
    assert replay(folder, home=made, registry=Registry(made, Settings())) == 3
