"""How fast and how steadily is it served? `ratchet bench serve [--data FOLDER]`

In one run, for three sizes of catalogue: bare `session.run` on the released graph, the engine in process, and the HTTP
service under a load from another process. Then, on the smallest: fifty champions promoted under load, three times the
capacity, and a kill. Networks are 64 wide, two blocks, histories of 200 events, float32, one thread. With `--data`
they are of DIGINETICA's first weeks, with made items beyond the real ones (see `bench.nearest`), and large catalogues
have an index; without it weights are random, and all items are scored. Users' histories come from the user state, and
no answer from the cache. The load's own process and the service share the machine.
"""

import statistics
import tempfile
from functools import partial
from pathlib import Path

from bench.rows import Row
from bench.serve_engine import BATCH, open_engine, time_engine
from bench.serve_http import (
    MODERATE,
    measure_kill,
    measure_overload,
    measure_peak,
    measure_swaps,
    per_second,
    quantile,
)
from bench.serve_worlds import Networks, World, load, make_world, served

SIZES = {3_416: 2.0, 100_000: 5.0, 1_000_000: 10.0}
"""Items → bar on a core's time for one user, in ms."""
SWAPS, VERSIONS = 50, 5
PIECES = 3
"""Open loops of one rate; the figure is their median. At 80 % of the capacity a machine that stands still for a second
needs four to work off what came meanwhile."""
SETTINGS = "[serving]\ncache_seconds = 0\nqueue_ms = 100\n"
"""Nothing from the cache; and as long a wait as twice the 99th percentile at capacity, as docs/serving.md advises."""


def run(data: Path | None = None, seconds: float = 6.0, repetitions: int = SWAPS, rows: int = max(SIZES)) -> list[Row]:
    """`seconds`: of each timing; `repetitions`: swaps; `rows`: the largest catalogue that is measured."""
    from bench.nearest import trained

    networks = Networks() if data is None else Networks(*trained(data))
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for items, bar in SIZES.items():
            if items > rows:
                continue
            first = items == min(SIZES)
            world = make_world(
                Path(folder) / str(items), networks, items=items, versions=VERSIONS if first else 1, settings=SETTINGS
            )
            bare, measured = _in_process(world, bar=bar, seconds=seconds)
            found += measured
            found += _over_http(world, bare_ms=bare, seconds=seconds)
            if first:
                found += _under_strain(world, seconds=seconds, swaps=repetitions)
            found += _on_gpu(world, seconds=seconds)
    return found


def _in_process(world: World, *, bar: float, seconds: float) -> tuple[tuple[float, float], list[Row]]:
    """And what bare runs take: ms for one user alone, and for one of a batch."""
    engine = open_engine(world)
    alone = time_engine(engine, batch=1, items=world.items, seconds=seconds)
    together = time_engine(engine, batch=BATCH, items=world.items, seconds=seconds)
    name = f"{world.items:,} items"
    each = together.ours_ms / BATCH
    return (alone.bare_ms, together.bare_ms / BATCH), [
        _figure(f"{name}: bare session.run, batch 1, p50", alone.bare_ms, "ms"),
        _figure(f"{name}: bare session.run, batch {BATCH}, a user", together.bare_ms / BATCH, "ms"),
        _at_most(f"{name}: engine against bare, batch 1, p50", alone.ratio, "×", 1.15),
        _at_least(f"{name}: engine's throughput against bare, batch {BATCH}", 1 / together.ratio, "×", 0.9),
        _at_most(f"{name}: engine, a core's time for one user, batch {BATCH}", each, "ms", bar),
    ]


def _over_http(world: World, *, bare_ms: tuple[float, float], seconds: float) -> list[Row]:
    name = f"{world.items:,} items, HTTP"
    with served(world) as port:
        alone = load(port=port, bodies=world.bodies, seconds=seconds, connections=1)
        peak = measure_peak(world, port, seconds=seconds)
        most = per_second(peak)
        rows = [
            _at_most(f"{name}: against bare, batch 1, p50", quantile(alone.ok_ms, 0.5) / bare_ms[0], "×", 1.15),
            _figure(f"{name}: one request at a time, p50", quantile(alone.ok_ms, 0.5), "ms"),
            _figure(f"{name}: one request at a time, p99", quantile(alone.ok_ms, 0.99), "ms"),
            _figure(f"{name}: throughput", most, "requests/s"),
            _at_least(f"{name}: throughput against bare, batch {BATCH}", most * bare_ms[1] / 1e3, "×", 0.9),
        ]
        for share in (0.25, 0.5, 0.8):
            open_loop = partial(load, port=port, bodies=world.bodies, seconds=seconds, rate=share * most)
            pieces = [open_loop(seed=piece).ok_ms for piece in range(PIECES)]
            rows += [
                _figure(
                    f"{name}: open loop, {share:.0%} of that, p{q * 100:.0f}",
                    statistics.median(quantile(piece, q) for piece in pieces),
                    "ms",
                )
                for q in (0.5, 0.99)
            ]
    return rows


def _under_strain(world: World, *, seconds: float, swaps: int) -> list[Row]:
    with served(world) as port:
        full = measure_peak(world, port, seconds=seconds)
        most = per_second(full)
        over = measure_overload(world, port, peak=most, seconds=2 * seconds)
        swapped = measure_swaps(world, port, rate=MODERATE * most, swaps=swaps)
    answers, lost = measure_kill(world, rate=MODERATE * most)
    return [
        _at_least("three times the capacity: good answers, of the capacity", over.goodput, "×", 0.8),
        _at_most(
            "three times the capacity: p99 of good answers, of that at capacity",
            over.p99 / quantile(full.ok_ms, 0.99),
            "×",
            3.0,
        ),
        _figure("three times the capacity: refused with 503 and Retry-After", over.refused, "requests"),
        _at_most("three times the capacity: neither answered nor refused so", over.others, "requests", 0),
        _at_most("three times the capacity: until as quick as before", over.recovery_seconds, "s", 5.0),
        _at_least("hot swap: champions promoted under load", swapped.swaps, "swaps", swaps),
        _at_most("hot swap: failed requests", swapped.failed, "requests", 0),
        _at_most("hot swap: answers of more than one model", swapped.mixed, "answers", 0),
        _at_least("hot swap: models that answered", swapped.models, "models", min(VERSIONS, swaps + 1)),
        _at_most("hot swap: p99 against that without swaps", swapped.p99 / swapped.quiet_p99, "×", 1.5),
        _figure("kill -9 under load: answers", answers, "answers"),
        _figure("kill -9 under load: exposures of theirs lost", lost, "rows"),
    ]


def _on_gpu(world: World, *, seconds: float) -> list[Row]:
    from serving.networks.sessions import ProviderMissing

    name = f"{world.items:,} items, CUDA"
    try:
        engine = open_engine(world, device="cuda")
    except ProviderMissing:
        return [{"name": f"{name}: no GPU here", "measured": None, "unit": "ms", "bar": None, "holds": None}]
    alone = time_engine(engine, batch=1, items=world.items, seconds=seconds)
    together = time_engine(engine, batch=BATCH, items=world.items, seconds=seconds)
    return [
        _figure(f"{name}: {engine.provider}, batch 1, p50", alone.ours_ms, "ms"),
        _figure(f"{name}: {engine.provider}, batch {BATCH}, a user", together.ours_ms / BATCH, "ms"),
    ]


def _figure(name: str, measured: float, unit: str) -> Row:
    return {"name": name, "measured": measured, "unit": unit, "bar": None, "holds": None}


def _at_most(name: str, measured: float, unit: str, bar: float) -> Row:
    return {"name": name, "measured": measured, "unit": unit, "bar": f"≤ {bar:g}", "holds": bool(measured <= bar)}


def _at_least(name: str, measured: float, unit: str, bar: float) -> Row:
    return {"name": name, "measured": measured, "unit": unit, "bar": f"≥ {bar:g}", "holds": bool(measured >= bar)}
