"""The served network in this process: bare ONNX Runtime, and our engine on the same graph, in turns."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.serve_worlds import LENGTH, World, histories
from serving.networks.engine import Engine
from serving.networks.histories import Asked
from serving.networks.queries import Query
from stores.bundle import open_bundle
from stores.home import Home

BATCH, BEST = 32, 50


@dataclass(frozen=True)
class Timed:
    """Medians over turns. `bare_ms`, `ours_ms`: of a whole run; `ratio`: median of the turns' ratios, ours to bare."""

    bare_ms: float
    ours_ms: float
    ratio: float


def open_engine(world: World, *, device: str = "cpu") -> Engine:
    home = Home.open(world.home)
    return Engine.load(open_bundle(home.releases, world.digests[0]), device=device, threads=1)


def time_engine(engine: Engine, *, batch: int, items: int, seconds: float) -> Timed:
    """Full histories, with the user's own items left out, as serving asks them."""
    asked = [
        Query(
            Asked(row_L, np.ones(LENGTH, np.int64), np.arange(60 * LENGTH, 0, -60), [[]] * LENGTH),
            sorted(set((row_L - 1).tolist())),
        )
        for row_L in histories(items)
    ]
    batches = [asked[at : at + batch] for at in range(0, min(8 * batch, len(asked) - batch), batch)]
    feeds = [{**engine.feed(queries), "mask": engine.mask_V1, "k": np.array([BEST], np.int64)} for queries in batches]
    session = engine._session

    def bare(number: int) -> None:
        session.run(["best_rows", "best_scores"], feeds[number % len(feeds)])

    def ours(number: int) -> None:
        engine.best(batches[number % len(batches)], n=BEST)

    bare(0)
    ours(0)
    turns: list[tuple[float, float]] = []
    end, number = time.perf_counter() + seconds, 0
    while time.perf_counter() < end or len(turns) < 5:
        number += 1
        first, second = (bare, ours) if number % 2 else (ours, bare)
        one, other = _ms(first, number), _ms(second, number)
        turns.append((one, other) if number % 2 else (other, one))
    return Timed(
        statistics.median(bare_ms for bare_ms, _ in turns),
        statistics.median(ours_ms for _, ours_ms in turns),
        statistics.median(ours_ms / bare_ms for bare_ms, ours_ms in turns),
    )


def _ms(ask: Callable[[int], None], number: int) -> float:
    started = time.perf_counter()
    ask(number)
    return (time.perf_counter() - started) * 1e3
