"""Poisoned batches of real and simulated logs: how many are quarantined, and how many clean ones with them.

    python -m bench.poison --data ../shared/data

The bounds of `expectations.batches` were tuned on MovieLens 100k, Amazon, DIGINETICA and two marketplaces.
None of them has seen what is reported as held out: MovieLens 1M and two other marketplaces.
Every batch is held against the 30 before it; the first 8 have too few. A batch is caught when a critical bound breaks
(tests hold these bounds against Great Expectations' own verdicts). `holds` is computed from `measured` and `bar`.
"""

import argparse
import json
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa

from bench.poison_worlds import (
    KINDS,
    SCHEMA,
    Poison,
    amazon,
    cut,
    diginetica,
    marketplace,
    movielens,
    movielens_1m,
    poisoned,
)  # fmt: skip
from bench.rows import Row, at_least, at_most
from expectations.batches import Severity, bounds
from relations.profile import numbers, profile
from simulation.parameters import Parameters

WINDOW, MIN_WINDOW, MIN_ROWS = 30, 8, 200  # the defaults of [validation]
SHARES = (0.05, 0.1, 0.2)
SEED = 20_260_301
Profile = Mapping[str, float]


@dataclass(frozen=True)
class World:
    """Batches of one log in time order. `kinds`: the poison that this log can show. `every`: one batch in so many is
    poisoned, each with all kinds and shares; `first`: the first batch that is judged."""

    name: str
    batches: Sequence[pa.Table]
    held_out: bool
    kinds: tuple[str, ...] = KINDS
    every: int = 1
    first: int = 0


@dataclass
class Count:
    caught: int = 0
    of: int = 0
    by: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Which numbers spoke."""

    def add(self, reasons: Sequence[str]) -> None:
        self.of += 1
        self.caught += bool(reasons)
        for number in reasons:
            self.by[number] += 1

    @property
    def percent(self) -> float:
        return round(100 * self.caught / max(self.of, 1), 2)


@dataclass
class Found:
    world: World
    clean: Count
    poison: dict[tuple[str, float], Count]


class Profiler:
    """`relations.profile` compiled once, on a DuckDB connection of its own."""

    def __init__(self) -> None:
        self._connection = ibis.duckdb.connect()
        self._connection.raw_sql("SET TimeZone = 'UTC'")
        self._register(SCHEMA.empty_table(), SCHEMA.empty_table())
        with warnings.catch_warnings():
            # Ibis 12 asks DuckDB 2 for a schema by a name that DuckDB has renamed.
            warnings.filterwarnings("ignore", message="fetch_arrow_table", category=DeprecationWarning)
            delivery, trailing = (self._connection.table(name) for name in ("delivery", "trailing"))
        expression = profile(delivery, trailing=trailing)
        self._sql = self._connection.compile(expression)

    def __call__(self, batch: pa.Table, trailing: pa.Table) -> dict[str, float]:
        self._register(batch, trailing)
        return numbers(self._connection.con.sql(self._sql).to_arrow_table())

    def close(self) -> None:
        self._connection.disconnect()

    def _register(self, batch: pa.Table, trailing: pa.Table) -> None:
        self._connection.con.register("delivery", batch)
        self._connection.con.register("trailing", trailing)


def worlds(folder: Path | None, *, thin: int = 1) -> list[Callable[[], World]]:
    """All worlds, each made when it is its turn. `folder`: the real logs; None: the marketplaces alone. `thin`: poison
    so many times fewer batches."""

    def market(seed: int, parameters: Parameters | None, name: str, *, held_out: bool) -> World:
        days = marketplace(seed=seed, days=60, parameters=parameters)
        return World(f"marketplace, seed {seed}{name}", days, held_out, every=4 * thin)

    made = [
        lambda: market(0, None, "", held_out=False),
        lambda: market(3, Parameters(users=1_500, items=500, new_items_per_day=30, bots=1), ", small", held_out=False),
        lambda: market(2, None, "", held_out=True),
        lambda: market(4, Parameters(users=2_500, items=800, new_users_per_day=60, bots=2), ", growing", held_out=True),
    ]
    if folder is not None:
        made += [
            lambda: World("MovieLens 100k, 5,000 rows", cut(movielens(folder), rows=5_000), False, every=thin),
            lambda: World("MovieLens 100k, 2,500 rows", cut(movielens(folder), rows=2_500), False, every=2 * thin),
            lambda: World(
                "MovieLens 1M, 5,000 rows", cut(movielens_1m(folder), rows=5_000), True,
                kinds=("label flips", "popularity bomb"), every=4 * thin,
            ),
            lambda: World("Amazon 2023, 1,000 rows", cut(amazon(folder), rows=1_000), False, every=thin),
            lambda: World(
                "DIGINETICA, 5,000 rows, second half", cut(diginetica(folder), rows=5_000), False,
                kinds=("bots", "one user", "popularity bomb"), every=8 * thin, first=100,
            ),
        ]  # fmt: skip
    return made


def hunt(world: World, *, seed: int = SEED) -> Found:
    """Judge every batch of `world` clean, and its poisoned copies. A caught copy never enters a window; a caught clean
    batch does, as one that somebody looked at and replayed."""
    profiler, rng = Profiler(), np.random.default_rng(seed)
    clean, poison = Count(), defaultdict[tuple[str, float], Count](Count)
    past: list[Profile] = []
    start = max(world.first - WINDOW, 1)
    for number in range(start, len(world.batches)):
        batch, trailing = world.batches[number], pa.concat_tables(world.batches[max(0, number - WINDOW) : number])
        seen = profiler(batch, trailing)
        if number >= world.first and len(past) >= MIN_WINDOW:
            clean.add(_critical(seen, past))
            if (number - world.first) % world.every == 0:
                catalogue = sorted(set(trailing.column("item_id").to_pylist()))
                for kind in world.kinds:
                    for share in SHARES:
                        what = Poison(kind, share, added=bool(rng.integers(2)))
                        bad = poisoned(batch, what, catalogue=catalogue, rng=rng)
                        poison[kind, share].add(_critical(profiler(bad, trailing), past))
        past = [*past, seen][-WINDOW:]
    profiler.close()
    return Found(world, clean, dict(poison))


def _critical(seen: Profile, past: Sequence[Profile]) -> list[str]:
    found = bounds(seen, baseline=past, kind="events", min_window=MIN_WINDOW, min_rows=MIN_ROWS)
    return [each.norm.number for each in found if each.norm.severity is Severity.CRITICAL and not each.holds(seen)]


def run(data: Path | None = None, *, thin: int = 1) -> list[Row]:
    """The fault table's row. Minutes at `thin` = 1."""
    found = [hunt(make()) for make in worlds(data, thin=thin)]
    rows: list[Row] = []
    for held_out in (True, False):
        part = [each for each in found if each.world.held_out is held_out]
        label = "held out" if held_out else "tuned on"
        rows += _rows(f"{label}, all", _sum(each.clean for each in part), _merged(part))
        for each in part:
            rows += _rows(f"{label}: {each.world.name}", each.clean, each.poison)
    return rows


def _rows(name: str, clean: Count, poison: Mapping[tuple[str, float], Count]) -> list[Row]:
    everything = _sum(poison.values())
    rows = [
        at_most(f"{name}: clean, quarantined ({clean.caught} of {clean.of})", clean.percent, 1.0),
        at_least(f"{name}: poisoned, quarantined ({everything.caught} of {everything.of})", everything.percent, 95.0),
    ]
    for (kind, share), count in sorted(poison.items()):
        said = f"{name}: {kind}, {100 * share:.0f} % ({count.caught} of {count.of})"
        rows.append(at_least(said, count.percent, 95.0))
    return rows


def _sum(counts: Iterable[Count]) -> Count:
    total = Count()
    for count in counts:
        total.caught += count.caught
        total.of += count.of
    return total


def _merged(found: Sequence[Found]) -> dict[tuple[str, float], Count]:
    keys = sorted({key for each in found for key in each.poison})
    return {key: _sum(each.poison[key] for each in found if key in each.poison) for key in keys}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.poison", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of the real logs (default: the marketplaces alone)")
    parser.add_argument("--thin", type=int, default=1, help="poison so many times fewer batches (default: 1)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    chosen = parser.parse_args(arguments)
    if chosen.thin < 1:
        parser.error(f"--thin {chosen.thin}: at least 1")
    began = time.monotonic()
    rows = run(chosen.data, thin=chosen.thin)
    if chosen.json:
        print(json.dumps({"rows": rows}, ensure_ascii=False))
    else:
        for row in rows:
            verdict = "holds" if row["holds"] else "FAILS"
            print(f"{row['name']:<86} {row['measured']:>7} {row['unit']} {row['bar']:>5}  {verdict}")
        print(f"{time.monotonic() - began:.0f} s")
    return 0 if all(row["holds"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
