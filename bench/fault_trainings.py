"""Kills of an increment at random moments, each followed by the same command: the end is that of one undisturbed.

What is run is the flow of `ratchet train --mode incremental`, whole, on a real Prefect server: a killed run must also
be ended there, by the run that follows it. SIGKILL does not prove safety against power loss.
"""

import csv
import hashlib
import json
import logging
import math
import random
import shutil
import signal
import time
from datetime import timedelta
from pathlib import Path

from bench.fault_homes import NOW, Workers, make_home
from bench.rows import Row, at_least, at_most
from relations.errors import RatchetError
from simulation.marketplace import Marketplace
from simulation.parameters import Parameters
from stores.bundle import open_bundle
from stores.home import Home
from stores.settings import Settings, load_settings

TOML = """
[model]
width = 16
blocks = 1
max_history = 20
[train]
epochs = 3
batch_tokens = 400
threads = 1
checkpoint_every_steps = 5
[increment]
min_new_events = 1
"""
PRELOAD = ("flows.full_retrain", "flows.incremental", "flows.runs", "mlflow.tracking")
COLUMNS = ("user_id", "item_id", "behaviour", "event_time", "value")
SEED = 17


def train(root: str, mode: str, api: str) -> None:
    """A worker's whole work: the training flow, its run kept by the Prefect server at `api`."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.full_retrain import full_retrain
    from flows.incremental import incremental

    logging.disable(logging.CRITICAL)
    with temporary_settings({PREFECT_API_URL: api}):
        (full_retrain if mode == "full" else incremental)(root, now=NOW)


def grown_home(root: Path, *, workers: Workers, api: str) -> Home:
    """A home with a champion of three days of a small marketplace, and the events of a fourth to learn."""
    from tasks.deciding import bootstrap_champion

    home = make_home(root)
    (home.root / "ratchet.toml").write_text(TOML)
    market = Marketplace(Parameters(users=100, items=60, topics=4, subtopics_per_topic=3), seed=5)
    days = [market.organic_day(day) for day in range(4)]
    _deliver(home, [row for day in days[:3] for row in day], name="first")
    ended = workers.run(train, str(home.root), "full", api)
    if ended.exit != 0:
        raise RuntimeError(f"{root}: the first training ended with {ended.exit}")
    bootstrap_champion(home, _settings(home), 1, actor="bench", reason="first", now=NOW)
    _deliver(home, days[3], name="second")
    return home


def outcome(home: Home, *, workers: Workers) -> tuple[str, ...]:
    """Digests of all versions in the ledger, in MLflow and among the releases, and of the increment's fitted model.

    Told by a worker: MLflow keeps a home's database open, and a home that was laid back has another one.
    """
    file = home.root.with_name("outcome.json")
    ended = workers.run(_tell_outcome, str(home.root), str(file))
    if ended.exit != 0:
        raise RuntimeError(f"{home.root}: its outcome could not be read, exit {ended.exit}")
    return tuple(json.loads(file.read_text()))


def _tell_outcome(root: str, file: str) -> None:
    from stores.ledger import Ledger
    from stores.registry import Registry

    home = Home.open(Path(root))
    settings = _settings(home)
    versions = Ledger.of(home, settings).versions()
    found = hashlib.sha256()
    for record in versions:
        fitted = home.root / record.checkpoint
        for name in ("model.safetensors", "optimizer.safetensors", "objective.safetensors", "vocabulary.json"):
            found.update((fitted / name).read_bytes())
        found.update(json.dumps(json.loads((fitted / "training.json").read_text())["losses"]).encode())
    told = (
        *sorted(f"ledger {record.version} {record.digest}" for record in versions),
        *sorted(f"registered {each.digest}" for each in Registry(home, settings).versions()),
        *sorted(f"released {folder.name}" for folder in home.releases.iterdir()),
        f"fitted {found.hexdigest()}",
    )
    Path(file).write_text(json.dumps(told))


def measure_increment_kills(folder: Path, *, kills: int, workers: Workers, api: str) -> list[Row]:
    """`kills` times: the same home, an increment killed at a moment drawn from its whole time, and begun again."""
    draw = random.Random(SEED)
    home = grown_home(folder / "increments", workers=workers, api=api)
    before = folder / "before"
    shutil.copytree(home.root, before)
    root = str(home.root)
    calm = workers.run(train, root, "incremental", api)
    expected = outcome(home, workers=workers)
    killed, other, failed, left, restarts = 0, 0, int(calm.exit != 0), 0, [0.0]
    for _ in range(3 * kills):
        if killed == kills:
            break
        shutil.rmtree(home.root)
        shutil.copytree(before, home.root)
        ended = workers.run(train, root, "incremental", api, kill_after=draw.uniform(0, calm.seconds))
        if ended.exit != -signal.SIGKILL:
            continue  # it was faster than its model
        killed += 1
        again = workers.run(train, root, "incremental", api)
        restarts.append(again.seconds)
        failed += again.exit != 0
        other += outcome(home, workers=workers) != expected
        left += under_way(root, api)
    doubled = abs(len(expected) - 7)  # two versions in three places, and the fitted models
    return [
        at_least("increment killed at random moments: kills", killed, kills, unit="kills"),
        at_most("increment killed: other digests, versions or weights than undisturbed", other, 0, unit="times"),
        at_most("increment killed: versions too many or too few", doubled, 0, unit="versions"),
        at_most("increment killed: commands that failed after it", failed, 0, unit="times"),
        at_most("increment killed: runs still under way in Prefect", left, 0, unit="runs"),
        at_most(
            "increment killed: slowest command after it, of an undisturbed one's time",
            round(max(restarts) / calm.seconds, 2),
            3,
            unit="times",
        ),
    ]


def measure_release_kills(folder: Path, *, kills: int, workers: Workers, api: str) -> list[Row]:
    """`kills` times in the export and as often in the registration of the same increment, each begun again.

    No bundle is ever visible but whole ones, and there is one version a digest, in the ledger and in MLflow.
    """
    draw = random.Random(SEED)
    home = grown_home(folder / "releases", workers=workers, api=api)
    root = str(home.root)
    workers.run(train, root, "incremental", api, kill_when=lambda: _reached(home, "evaluation.json"))
    before = folder / "evaluated"
    shutil.copytree(home.root, before)
    calm = _Moments(home)
    failed_calm = workers.run(train, root, "incremental", api, kill_when=calm.reached).exit != 0
    calm.end()
    expected = outcome(home, workers=workers)
    rows = []
    for stage, after_export, span in (("export", False, calm.exported), ("registration", True, calm.rest)):
        killed, partial, other, failed = 0, 0, 0, int(failed_calm)
        for _ in range(10 * kills):
            if killed == kills:
                break
            shutil.rmtree(home.root)
            shutil.copytree(before, home.root)
            # From the moment itself and not from the start, which a busy machine puts anywhere.
            moments = _Moments(home, delay=draw.uniform(0, span), after_export=after_export)
            ended = workers.run(train, root, "incremental", api, kill_when=moments.reached)
            if ended.exit != -signal.SIGKILL:
                moments.end()
                span = min(span, moments.rest if after_export else moments.exported)  # it is faster than it was
                continue
            killed += 1
            partial += _partial(home)
            failed += workers.run(train, root, "incremental", api).exit != 0
            other += outcome(home, workers=workers) != expected
        rows += [
            at_least(f"{stage} killed at random moments: kills", killed, kills, unit="kills"),
            at_most(f"{stage} killed: bundles visible that are not whole", partial, 0, unit="bundles"),
            at_most(f"{stage} killed: other digests or versions than undisturbed", other, 0, unit="times"),
            at_most(f"{stage} killed: commands that failed after it", failed, 0, unit="times"),
        ]
    return rows


class _Moments:
    """When the training under way had exported, and ended: seconds from its start, as seen by a poll.

    `delay`: when to kill it, in seconds from the start, or `after_export` from then on.
    """

    def __init__(self, home: Home, *, delay: float = math.inf, after_export: bool = False) -> None:
        self._home, self._delay, self._after_export = home, delay, after_export
        self._began = time.monotonic()
        self.exported = 0.0
        self.rest = 0.0
        """Seconds from the export to the end."""

    def reached(self) -> bool:
        now = time.monotonic() - self._began
        if not self.exported and _reached(self._home, "export.json"):
            self.exported = now
        if self._after_export:
            return bool(self.exported) and now - self.exported >= self._delay
        return now >= self._delay

    def end(self) -> None:
        now = time.monotonic() - self._began
        self.exported = self.exported or now
        self.rest = now - self.exported


def _reached(home: Home, name: str) -> bool:
    return any(home.checkpoints.glob(f"incremental-*/{name}"))


def _partial(home: Home) -> int:
    """Bundles that serving might try and could not open; what is hidden, nobody tries."""
    found = 0
    for folder in home.releases.iterdir():
        if not folder.name.startswith("."):
            try:
                open_bundle(home.releases, folder.name)
            except RatchetError:
                found += 1
    return found


def under_way(root: str, api: str) -> int:
    """Runs of the home that Prefect takes for running, though all have ended."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        found = client.read_flow_runs(limit=200)
    return sum(
        run.parameters.get("home") == root and run.state is not None and not run.state.is_final() for run in found
    )


def _deliver(home: Home, rows: list[dict[str, object]], *, name: str) -> None:
    from tasks.ingesting import ingest_file

    file = home.root.parent / f"{home.root.name}-{name}.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, COLUMNS, extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(rows)
    ingest_file(file, home=home, settings=_settings(home), now=NOW + timedelta(seconds=1))


def _settings(home: Home) -> Settings:
    return load_settings(home.root / "ratchet.toml", environment={})
