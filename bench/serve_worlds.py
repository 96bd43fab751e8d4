"""Homes to serve from: networks with random weights or trained ones, users with full histories."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.serve_load import Load, Outcome

if TYPE_CHECKING:
    from model.fitted import Fitted
    from model.sequences import Holdout
    from stores.ledger import Ledger

if TYPE_CHECKING:
    from model.fitted import Fitted

WIDTH, BLOCKS, HEADS, LENGTH = 64, 2, 2, 200
USERS = 400
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class World:
    """A home with a champion, and what its users ask."""

    home: Path
    items: int
    digests: list[str]
    """Of versions 1, 2, …; the first is the champion."""

    @property
    def bodies(self) -> list[str]:
        return [json.dumps({"user_id": f"u{user}", "k": 10}) for user in range(USERS)]


@dataclass(frozen=True)
class Networks:
    """What is served. None: random weights, which cost what trained ones cost and have no neighbourhoods to search."""

    fitted: "Fitted | None" = None
    holdout: "Holdout | None" = None

    def of(self, items: int, *, version: int) -> "Fitted":
        """Versions of a size differ in their biases."""
        import torch

        from bench.nearest import of_size

        fitted = random_fitted(items, seed=0) if self.fitted is None else of_size(self.fitted, items)
        ranker = fitted.ranker
        torch.manual_seed(version)
        bias = ranker.item_bias + 0.05 * torch.randn(items + 1)
        ranker.load_state_dict(ranker.state_dict() | {"item_bias": bias.detach()}, assign=True)
        return replace(fitted, ranker=ranker.eval())


def make_world(root: Path, networks: Networks, *, items: int, versions: int = 1, settings: str = "") -> World:
    """A home at `root` with `versions` bundles of `items` items; `settings` is TOML put into its ratchet.toml."""
    from stores.home import Home
    from stores.ledger import Ledger
    from stores.settings import load_settings

    home = Home.create(root)
    (home.root / "ratchet.toml").write_text(settings, encoding="utf-8")
    loaded = load_settings(home.root / "ratchet.toml", environment={})
    ledger = Ledger.of(home, loaded)
    digests = []
    ids: tuple[str, ...] = ()
    for version in range(1, versions + 1):
        fitted = networks.of(items, version=version)
        ids = fitted.vocabulary.items
        digest = _release(home.releases, root / "files", fitted, networks.holdout)
        digests.append(digest)
        record_version(ledger, version, digest)
    crown_first(ledger)
    _fill_user_state(home, ids)
    return World(home.root, items, digests)


def record_version(ledger: "Ledger", version: int, digest: str) -> None:
    """As a training would that passed its checks."""
    from stores.ledger_records import VersionRecord

    ledger.record_version(
        VersionRecord(
            version=version,
            digest=digest,
            mode="full",
            parent=None,
            events_version=0,
            items_version=0,
            cutoff_us=0,
            offline_passed=True,
            metrics={},
            run_id="",
            created=START,
            checkpoint="",
            submitter="trainer",
        )
    )


def crown_first(ledger: "Ledger") -> None:
    """Version 1 becomes champion, by somebody who may."""
    ledger.add_first_admin("ada", password=None, now=START)
    ledger.bootstrap(1, actor="ada", reason="benchmark", now=START)


def promote(ledger: "Ledger", version: int, *, name: str) -> None:
    """Make `version` the champion by way of a trial of this name."""
    from stores.people import deployment_identity

    actor = deployment_identity("trial/benchmark")
    stated: dict[str, Any] = {"salt": name, "allocation": 0.001, "actor": actor, "now": START}
    ledger.open_trial(name, {"name": name}, challengers=[version], **stated)
    ledger.record_evidence(name, {"decision": "PROMOTE", "trial": name}, now=START)
    ledger.approve(name, actor="ada", reason="benchmark", now=START)


def histories(items: int, *, users: int = USERS, seed: int = 0) -> np.ndarray:
    """Vocabulary rows [users, LENGTH]."""
    return np.random.default_rng(seed).integers(1, items + 1, size=(users, LENGTH))


@contextlib.contextmanager
def served(world: World, **environment: str) -> Iterator[int]:
    """A server on the world's home, in a process of its own; gives its port. `environment`: RATCHET_… settings."""
    log = world.home / "served.log"  # a pipe that nobody reads would stall the server once it is full
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "serving.run", "--home", str(world.home), "--port", "0"],
            cwd=Path(__file__).parent.parent,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
            stderr=out,
        )
    try:
        yield _port(world.home, process, log)
    finally:
        process.terminate()
        process.wait(60)


def load(**stated: Any) -> Outcome:
    """Apply a load in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.serve_load"],
        input=json.dumps(asdict(Load(**stated))),
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    outcome = Outcome(**json.loads(done.stdout))
    outcome.statuses = {int(status): count for status, count in outcome.statuses.items()}
    return outcome


def ready(port: int) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10) as answer:
        state: dict[str, Any] = json.load(answer)
    return state


def _port(home: Path, process: "subprocess.Popen[bytes]", log: Path) -> int:
    announcement = home / "run" / "serving.json"
    for _ in range(1200):
        if process.poll() is not None:
            raise RuntimeError(f"the server ended: {log.read_text(errors='replace')[-2000:]}")
        with contextlib.suppress(FileNotFoundError, ValueError):
            stated = json.loads(announcement.read_text())
            if stated["pid"] == process.pid:
                return int(stated["port"])
        time.sleep(0.1)
    raise RuntimeError("the server does not come up")


def random_fitted(items: int, *, seed: int, width: int = WIDTH, blocks: int = BLOCKS, length: int = LENGTH) -> "Fitted":
    """A ranker as if it were trained: its weights are random."""
    import torch

    from model.fitted import Fitted
    from model.network.config import RankerConfig
    from model.network.ranker import Ranker
    from model.objectives.options import ObjectiveOptions
    from model.vocabulary import Vocabulary

    torch.manual_seed(seed)
    config = RankerConfig(items=items, behaviours=9, width=width, blocks=blocks, heads=HEADS, max_history=length)
    return Fitted(
        ranker=Ranker(config).eval(),
        objective=ObjectiveOptions(),
        objective_state={},
        vocabulary=Vocabulary(tuple(f"item-{row}" for row in range(1, items + 1))),
        optimizer_state={},
        losses=(),
        steps=0,
        seconds=0.0,
        tokens=0,
        targets=0,
    )


def _release(releases: Path, folder: Path, fitted: "Fitted", holdout: "Holdout | None") -> str:
    from model.export import export_release
    from model.nearest import NearestOptions, add_nearest
    from stores.bundle import write_bundle
    from stores.serving_settings import ReleaseSettings

    shutil.rmtree(folder, ignore_errors=True)
    exported = export_release(fitted, folder)
    if holdout is not None:
        add_nearest(fitted, folder, holdout=holdout, options=NearestOptions(above=ReleaseSettings().ann_above))
    bundle = write_bundle(folder, describe=exported.describe | {"kind": "full"}, releases=releases, attestation={})
    return bundle.digest


def _fill_user_state(home: Any, ids: Sequence[str]) -> None:
    from stores.pseudonyms import Keys
    from stores.sqlite_state import SqliteState

    keys = Keys.load(home.keys)
    state = SqliteState(home.user_state)
    now_us = round(time.time() * 1e6)
    for user, rows in enumerate(histories(len(ids)).tolist()):
        name = keys.history(f"u{user}")[0]
        state.absorb(
            (name, f"e{user}-{place}", ids[row - 1], "view", now_us - (LENGTH - place) * 60_000_000)
            for place, row in enumerate(rows)
        )
    state.close()
