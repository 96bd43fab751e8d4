"""The HTTP service under load from another process: rates, swaps, three times its capacity, and kill -9."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.serve_load import Outcome
from bench.serve_worlds import World, load, promote, ready, served

MODERATE = 0.4
"""Share of the capacity at which swaps happen: a server that is to survive a failed one runs no fuller."""
AT_PEAK = 48
"""Connections of the closed loop that measures capacity."""


def quantile(ms: list[float], q: float) -> float:
    return float(np.quantile(ms, q)) if ms else float("nan")


def measure_peak(world: World, port: int, *, seconds: float) -> Outcome:
    load(port=port, bodies=world.bodies, seconds=1.0, connections=AT_PEAK)
    return load(port=port, bodies=world.bodies, seconds=seconds, connections=AT_PEAK)


def per_second(outcome: Outcome) -> float:
    return len(outcome.ok_ms) / outcome.seconds


@dataclass(frozen=True)
class Swapped:
    quiet_p99: float
    p99: float
    failed: int
    mixed: int
    swaps: int
    models: int


def measure_swaps(world: World, port: int, *, rate: float, swaps: int) -> Swapped:
    """Champions promoted one after another by the ledger, each loaded anew, while requests come at `rate`."""
    quiet = [
        ms
        for piece in range(3)  # as long as those with swaps: each begins with a process and its connections
        for ms in load(port=port, bodies=world.bodies, seconds=5.0, rate=rate, seed=piece).ok_ms
    ]
    done: list[int] = []
    stop = threading.Event()
    promoting = threading.Thread(target=_promote, args=(world, port, swaps, done, stop))
    outcomes: list[Outcome] = []
    promoting.start()
    try:
        while promoting.is_alive():
            outcomes.append(load(port=port, bodies=world.bodies, seconds=5.0, rate=rate, seed=len(outcomes)))
    finally:
        stop.set()
        promoting.join()
    ok_ms = [ms for outcome in outcomes for ms in outcome.ok_ms]
    failed = sum(count for outcome in outcomes for status, count in outcome.statuses.items() if status != 200)
    mixed = sum(outcome.mixed for outcome in outcomes)
    models = {digest for outcome in outcomes for digest in outcome.digests}
    return Swapped(quantile(quiet, 0.99), quantile(ok_ms, 0.99), failed, mixed, sum(done), len(models))


@dataclass(frozen=True)
class Overloaded:
    goodput: float
    """Share of the capacity."""
    p99: float
    refused: int
    others: int
    """Neither answered nor refused with 503 and Retry-After."""
    recovery_seconds: float


def measure_overload(world: World, port: int, *, peak: float, seconds: float) -> Overloaded:
    """Three times the capacity, then half of it: how soon are answers again as quick as they were?"""
    before = load(port=port, bodies=world.bodies, seconds=4.0, rate=0.5 * peak)
    usual = quantile(before.ok_ms, 0.99)
    over = load(port=port, bodies=world.bodies, seconds=seconds, rate=3 * peak, connections=256)
    after = load(port=port, bodies=world.bodies, seconds=8.0, rate=0.5 * peak)
    slow = [at for at, ms in zip(after.done_at, after.ok_ms, strict=True) if ms > 3 * usual]
    good = [at for at in over.done_at if at <= seconds]
    bad = over.without_retry_after + sum(n for status, n in over.statuses.items() if status not in (200, 503))
    lasting = max(slow, default=0.0) if len(slow) > 0.01 * len(after.ok_ms) else 0.0
    return Overloaded(len(good) / seconds / peak, quantile(over.ok_ms, 0.99), over.statuses.get(503, 0), bad, lasting)


def measure_kill(world: World, *, rate: float) -> tuple[int, int]:
    """Answers of a server that was killed under load, and exposures of theirs that are not on the disk."""
    landing = world.home / "landing" / "exposures"
    with served(world) as port:
        pid = int(json.loads((world.home / "run" / "serving.json").read_text())["pid"])
        killer = threading.Timer(3.0, os.kill, (pid, signal.SIGKILL))
        killer.start()
        outcome = load(port=port, bodies=world.bodies, seconds=4.0, rate=rate, keep_ids=True)
        killer.join()
    found = _request_ids(landing)
    return len(outcome.request_ids), 10 * sum(one not in found for one in outcome.request_ids)


def _request_ids(landing: Path) -> set[str]:
    return {
        json.loads(line)["request_id"]
        for file in landing.iterdir()
        for line in file.read_bytes().splitlines(keepends=True)
        if line.endswith(b"\n")
    }


def _promote(world: World, port: int, swaps: int, done: list[int], stop: threading.Event) -> None:
    from stores.home import Home
    from stores.ledger import Ledger
    from stores.settings import load_settings

    home = Home.open(world.home)
    ledger = Ledger.of(home, load_settings(home.root / "ratchet.toml", environment={}))
    for _ in range(swaps):
        champion = ledger.serving_state().champion
        assert champion is not None
        version = champion.version % len(world.digests) + 1
        promote(ledger, version, name=f"swap-{champion.epoch}")
        if not _until(lambda version=version: ready(port)["champion"]["version"] == version, stop):  # type: ignore[misc]
            return
        done.append(1)


def _until(holds: Callable[[], bool], stop: threading.Event) -> bool:
    for _ in range(150):
        if stop.is_set():
            return False
        if holds():
            return True
        time.sleep(0.2)
    return False
