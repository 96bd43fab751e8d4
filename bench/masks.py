"""Row verdicts: the suite compiled to DuckDB masks beside Great Expectations on pandas, over the same rows, in one run.

`python -m bench.masks --rows 1000000` prints one row a figure. The rows are synthetic events, one in a hundred broken
in one of the ways that the suite knows; the masks take them in chunks as the door does, and the median of three runs
counts. Both must name the same rows.
"""

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from expectations.masks import RowContract
from expectations.verdicts import Reason, judge
from relations.schemas import ITEM_BEHAVIOURS, SCHEMAS, TIME

CHUNK = 262_144
LATEST = datetime(2026, 3, 1, tzinfo=UTC)
SEED = 20_260_301
BAR_SECONDS = 2.0  # a million rows
RUNS = 3


def measure_masks(rows: int = 1_000_000) -> list[dict[str, Any]]:
    """Seconds for `rows` event rows by masks (bar: 2 s a million) and by Great Expectations, and where they differ."""
    table = events(rows)
    with RowContract("events", latest=LATEST) as contract:
        _judged(contract, table.slice(0, 1_000))  # compiled once a process, as the door does
        seconds = []
        for _ in range(RUNS):
            began = time.perf_counter()
            failing, counts = _judged(contract, table)
            seconds.append(time.perf_counter() - began)
    masks = statistics.median(seconds)
    began = time.perf_counter()
    evidence = judge(table, kind="events", unreadable={}, untyped={}, latest=LATEST)
    great = time.perf_counter() - began
    differing = len({row for row, _ in set(failing.items()) ^ set(evidence.failing.items())})
    differing += sum(((counts - evidence.counts) + (evidence.counts - counts)).values())
    bar = BAR_SECONDS * rows / 1e6
    said = f"row verdicts, {rows:,} events"
    return [
        _row(f"{said}: masks", round(masks, 3), "s", f"≤ {bar:g}", masks <= bar),
        _row(f"{said}: Great Expectations on pandas", round(great, 3), "s", "beside", True),
        _row(f"{said}: masks are faster by", round(great / masks, 1), "×", "≥ 1", great >= masks),
        _row(f"{said}: rows that the two judge differently", differing, "rows", "≤ 0", differing == 0),
    ]


def events(rows: int) -> pa.Table:
    """`rows` typed event rows: a tenth searches, a third with a context, one in a hundred broken."""
    rng = np.random.default_rng(SEED)
    users = np.array([f"p1_{number:032x}" for number in range(max(1, rows // 50))])
    user = rng.choice(users, rows).astype(object)
    item = np.char.add("item-", rng.integers(0, 50_000, rows).astype(str)).astype(object)
    behaviour = rng.choice(np.array(ITEM_BEHAVIOURS), rows).astype(object)
    value = np.full(rows, np.nan)
    rated = behaviour == "rating"
    value[rated] = rng.integers(1, 6, rated.sum())
    dwelt = behaviour == "dwell"
    value[dwelt] = rng.exponential(30, dwelt.sum())
    query = np.full(rows, None, dtype=object)
    searches = rng.random(rows) < 0.1
    behaviour[searches], item[searches], value[searches] = "search", None, np.nan
    query[searches] = "späte Bücher"
    exposure = np.full(rows, None, dtype=object)
    clicked = behaviour == "click"
    exposure[clicked] = np.char.add("req-", rng.integers(0, 10**9, clicked.sum()).astype(str) + np.array(":3"))
    stated = rng.random(rows) < 1 / 3
    offsets = np.concatenate([[0], np.cumsum(2 * stated)])
    context = pa.MapArray.from_arrays(
        pa.array(offsets, pa.int32()),
        pa.array(["device", "hour"] * int(stated.sum())),
        pa.array(["phone", "17"] * int(stated.sum())),
    )
    times = np.datetime64("2026-01-01", "us").astype(np.int64) + rng.integers(0, 50 * 86_400_000_000, rows)
    for place, row in enumerate(np.flatnonzero(rng.random(rows) < 0.01)):
        match place % 8:
            case 0:
                behaviour[row] = "hover"
            case 1:
                user[row] = "alice"
            case 2:
                behaviour[row], value[row] = "rating", 11.0
            case 3:
                behaviour[row], item[row] = "view", None
            case 4:
                item[row] = " \u200b"
            case 5:
                times[row] = 10**16
            case 6:
                exposure[row] = "no position"
            case _:
                behaviour[row], query[row] = "search", None
    columns = {
        "event_id": pa.nulls(rows, pa.string()),
        "user": pa.array(user, pa.string()),
        "item_id": pa.array(item, pa.string()),
        "behaviour": pa.array(behaviour, pa.string()),
        "value": pa.array(value, pa.float64(), from_pandas=True),
        "query": pa.array(query, pa.string()),
        "context": context,
        "event_time": pa.array(times).cast(TIME),
        "exposure_id": pa.array(exposure, pa.string()),
    }
    return pa.table({name: columns[name] for name in SCHEMAS["events"].names if name in columns})


def _judged(contract: RowContract, table: pa.Table) -> tuple[dict[int, tuple[Reason, ...]], Counter[str]]:
    failing: dict[int, tuple[Reason, ...]] = {}
    counts: Counter[str] = Counter()
    for first in range(0, table.num_rows, CHUNK):
        verdict = contract.judge(table.slice(first, CHUNK), unreadable={}, untyped={})
        failing |= {first + row: reasons for row, reasons in verdict.failing.items()}
        counts.update(verdict.counts)
    return failing, counts


def _row(name: str, measured: float, unit: str, bar: str, holds: bool) -> dict[str, Any]:
    return {"name": name, "measured": measured, "unit": unit, "bar": bar, "holds": bool(holds)}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.masks", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="events to judge (default: 1,000,000)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    chosen = parser.parse_args(arguments)
    if chosen.rows < 1:
        parser.error(f"--rows {chosen.rows}: at least 1")
    rows = measure_masks(chosen.rows)
    if chosen.json:
        print(json.dumps({"rows": rows}, ensure_ascii=False))
    else:
        for row in rows:
            verdict = "holds" if row["holds"] else "FAILS"
            print(f"{row['name']:<70} {row['measured']:>10,} {row['unit']:<6} {row['bar']:>9}  {verdict}")
    return 0 if all(row["holds"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
