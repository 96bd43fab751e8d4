"""Sequences for training: what an update with 1 % new events costs beside building everything again.

`python -m bench.sequences` measures on a synthetic log with event ids as the door derives them. The new events fall on
few, active users (a day's traffic), or on users drawn uniformly: the worst case, where each event touches another user,
whose whole sequence is written again. Every update is counted, those that merge segments into a new base included.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from bench.rows import Row, at_most
from relations.schemas import DELIVERIES, EVENTS, TIME
from stores.lake import Lake
from stores.sequences.store import SequenceStore

UPDATES = 12
"""Enough that the worst case merges its segments once."""
SHARE = 0.01
ACTIVE_SHARE = 0.03
"""Share of the users that a day's events fall on."""
ITEMS = 50_000
GOAL = 10.0
"""Percent of a full rebuild's time."""
WORST = 30.0
"""The same where each event touches another user, so that 1 % of the events writes some 10 % of the sequences."""


def measure_sequences(*, events: int = 6_000_000, users: int = 600_000, updates: int = UPDATES) -> list[Row]:
    """Rows of the benchmark; takes some 15 seconds a million events. `updates`: how many deliveries of 1 % follow."""
    rows = []
    rng = np.random.default_rng(20_260_301)
    worlds = (("a day's users", ACTIVE_SHARE, GOAL), ("uniformly drawn users", None, WORST))
    for name, spread, bar in worlds:
        with tempfile.TemporaryDirectory(prefix="ratchet-sequences-") as folder:
            lake = Lake(Path(folder) / "lake")
            store = SequenceStore(Path(folder) / "sequences")
            _deliver(lake, _drawn(rng, events, users=users, spread=1.0), delivery="first", begin=0)
            rebuilds, spent = [_seconds(partial(store.rebuild, lake))], []
            for number in range(updates):
                count = round(events * SHARE)
                drawn = _drawn(rng, count, users=users, spread=spread)
                _deliver(lake, drawn, delivery=f"d{number}", begin=events + number * count)
                spent.append(_seconds(partial(store.update, lake)))
            read = _seconds(partial(store.read, lake))
            rebuilds.append(_seconds(partial(store.rebuild, lake)))
            whole = statistics.mean(rebuilds)
            for said, figure in (("median", statistics.median(spent)), ("mean", statistics.mean(spent))):
                rows.append(at_most(f"update, 1 % new events of {name}, {said}", 100 * figure / whole, bar))
            rows.append(at_most(f"read after {updates} updates ({name})", 100 * read / whole, 100.0))
    return [{**row, "measured": round(row["measured"], 2)} for row in rows]


def _drawn(rng: np.random.Generator, count: int, *, users: int, spread: float | None) -> np.ndarray:
    """The user of each event: `spread` of the users, the active ones more often; None: all alike."""
    if spread is None:
        return rng.integers(0, users, size=count)
    pool = rng.permutation(users)[: max(1, round(users * spread))]
    weight = rng.pareto(1.5, size=len(pool)) + 0.2
    return rng.choice(pool, size=count, p=weight / weight.sum())


def _deliver(lake: Lake, user_N: np.ndarray, *, delivery: str, begin: int) -> None:
    """One delivery of events numbered from `begin`, and its receipt; 1 in 100 events is late by up to a day."""
    rng = np.random.default_rng(begin)
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        number_N = begin + np.arange(len(user_N))
        late_N = np.where(rng.random(len(user_N)) < 0.01, rng.integers(0, 86_400, size=len(user_N)), 0)
        item_N = np.minimum(rng.zipf(1.3, size=len(user_N)), ITEMS)
        con.register("drawn", pa.table({"n": number_N, "u": user_N, "i": item_N, "late": late_N}))
        rows = con.execute(
            """
            SELECT 'e_' || md5('event ' || n) AS event_id, 'p1_' || md5('user ' || u) AS user, 'item-' || i AS item_id,
                   CASE WHEN n % 20 = 0 THEN 'cart' ELSE 'view' END AS behaviour, NULL::DOUBLE AS value,
                   make_timestamptz(1767225600000000 + (n - late) * 1000000) AS event_time
            FROM drawn
            """
        ).to_arrow_table()
    constant = {"source": "bench", "delivery_id": delivery}
    columns = {name: rows[name] for name in rows.column_names}
    columns |= {name: pa.repeat(value, len(rows)) for name, value in constant.items()}
    columns["received_time"] = rows["event_time"]
    table = pa.table([columns.get(field.name, pa.nulls(len(rows), field.type)) for field in EVENTS], names=EVENTS.names)
    version = lake.append("events", table.cast(EVENTS), transaction=delivery)
    receipt = {
        "delivery_id": delivery,
        "digest": delivery,
        "kind": "events",
        "source": "bench",
        "uri": "",
        "received_time": pa.scalar(0, TIME).as_py(),
        "delivered": len(rows),
        "accepted": len(rows),
        "quarantined": 0,
        "duplicate": 0,
        "late": 0,
        "table_versions": [("events", version)],
        "state": "committed",
    }
    lake.append("deliveries", pa.Table.from_pylist([receipt], schema=DELIVERIES), transaction=delivery)


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=6_000_000)
    parser.add_argument("--users", type=int, default=600_000)
    given = parser.parse_args()
    for row in measure_sequences(events=given.events, users=given.users):
        print(json.dumps(row))


if __name__ == "__main__":
    main()
