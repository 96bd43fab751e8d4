"""What the door costs: a log of events taken in whole, beside what this machine can do with the same file at best.

`python -m bench.ingest` draws a tenth of the rows and all of them, as CSV and as Parquet, and takes each in three ways,
each in a process of its own on the same two files:

- the door: `tasks.ingesting.ingest_file` into a new home, which copies, hashes, validates, deduplicates and commits;
- bare DuckDB: read, the same conditions as one WHERE, write Parquet. No pseudonyms, no duplicates, no receipt;
- Great Expectations on pandas: read, the same suite, write what passes (the smaller log alone: it holds a log whole).

Seconds are those of the work; what a new process spends on importing libraries is a figure of its own, because it is
spent once a process and not once a row. Peak memory is the most that the process and its children had resident, mapped
files and libraries included.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

from bench.ingest_data import COLUMNS, FORMATS, LATEST, PASSES, Log, write_log
from bench.rows import Row, at_most

FULL = 10_000_000
RATIO, PEAK_MB, GROWTH = 3.0, 2_000.0, 1.25
"""Bars: the door's seconds over bare DuckDB's; the door's memory; its memory at all rows over that at a tenth."""
GREAT_ROWS = 1_000_000
"""More rows than this are not put to Great Expectations on pandas: 5M take 2.3 GB and more."""
_SAMPLE_SECONDS = 0.02
Done: TypeAlias = tuple[float, float, int]
"""Seconds of importing, seconds of work, misplaced rows."""


@dataclass(frozen=True)
class Work:
    """What one process is to do, and with which file."""

    way: str
    file: str
    format: str
    rows: int
    folder: str


@dataclass(frozen=True)
class Cost:
    """What it took. `misplaced`: rows whose fate is another than how they were drawn."""

    importing: float
    seconds: float
    peak_mb: float
    misplaced: int


def run(rows: int = FULL) -> list[Row]:
    """All rows of the benchmark; at 10M events some ten minutes on two cores and 8 GB of disk below the temp folder.

    The ratio has its bar at 10M rows or more, verdicts and sequences are measured from 1M on: below, fixed costs of
    some seconds are what is seen. Raises ValueError for fewer than 2,000 rows.
    """
    if rows < 2_000:
        raise ValueError(f"rows = {rows}: at least 2,000, since a tenth of them must hold broken and repeated ones")
    found: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="ratchet-bench-") as folder:
        few, many = (write_log(count, folder=Path(folder)) for count in (rows // 10, rows))
        for format in FORMATS:
            small = _beside(few, format, folder=Path(folder), rows=found)
            large = _beside(many, format, folder=Path(folder), rows=found)
            growth = round(large.peak_mb / small.peak_mb, 3)
            found.append(at_most(f"{format}: memory at {rows:,} over that at {rows // 10:,}", growth, GROWTH, unit="×"))
    if rows >= 1_000_000:
        from bench.masks import measure_masks
        from bench.sequences import measure_sequences

        found += measure_masks(1_000_000)
        found += measure_sequences()
    return found


def _beside(log: Log, format: str, *, folder: Path, rows: list[Row]) -> Cost:
    """Take the log in by every way and add the rows; the door's cost."""

    def cost(way: str) -> Cost:
        with tempfile.TemporaryDirectory(prefix=f"{way}-", dir=folder) as own:
            return _measured(Work(way, str(log.files[format]), format, log.rows, own))

    said = f"{format}, {log.rows:,} events"
    bare, door = cost("bare"), cost("door")
    ratio = round(door.seconds / bare.seconds, 2)
    rows += [
        _told(f"{said}: bare DuckDB", bare.seconds, "s"),
        _told(f"{said}: bare DuckDB, peak memory", bare.peak_mb, "MB"),
        _told(f"{said}: the door", door.seconds, "s"),
        _told(f"{said}: the door", round(log.rows / door.seconds), "rows/s"),
        _told(f"{said}: the door, imports of a new process", door.importing, "s"),
        at_most(f"{said}: door over bare DuckDB", ratio, RATIO, unit="×")
        if log.rows >= FULL
        else _told(f"{said}: door over bare DuckDB", ratio, "×"),
        at_most(f"{said}: the door, peak memory", door.peak_mb, PEAK_MB, unit="MB"),
        at_most(f"{said}: rows with another fate than drawn", door.misplaced + bare.misplaced, 0, unit="rows"),
    ]
    if log.rows <= GREAT_ROWS:
        great = cost("great")
        rows += [
            _told(f"{said}: Great Expectations on pandas", great.seconds, "s"),
            _told(f"{said}: Great Expectations on pandas, peak memory", great.peak_mb, "MB"),
            at_most(f"{said}: rows that Great Expectations places elsewhere", great.misplaced, 0, unit="rows"),
        ]
    return door


def _told(name: str, measured: float, unit: str) -> Row:
    """A figure without a bar: what the ones with a bar are compared with."""
    return {"name": name, "measured": measured, "unit": unit, "bar": "none", "holds": True}


def _measured(work: Work) -> Cost:
    """Do the work in a new process and watch its memory. Raises RuntimeError with its last words if it fails."""
    command = [sys.executable, "-m", "bench.ingest", "--work", json.dumps(asdict(work))]
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=words, text=True)
        sampled = 0
        while process.poll() is None:
            sampled = max(sampled, _resident(process.pid))
            time.sleep(_SAMPLE_SECONDS)
        assert process.stdout is not None
        answer = process.stdout.read()
        process.stdout.close()
        words.seek(0)
        if process.returncode:
            last = words.read().decode(errors="replace")[-2_000:]
            raise RuntimeError(f"{work.way} on {work.file}: exit code {process.returncode}: {last}")
    said = json.loads(answer.splitlines()[-1])
    peak = max(said.pop("peak_bytes"), sampled)
    return Cost(**said, peak_mb=round(peak / 1e6, 1))


def _resident(pid: int) -> int:
    """Bytes that a process and its children have resident now; 0 once it is gone."""
    try:
        own = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (OSError, IndexError):
        return 0
    return own + sum(_resident(child) for child in children)


def _peak() -> int:
    """The most that this process itself has had resident, bytes. `getrusage` would include the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _work(work: Work) -> dict[str, Any]:
    importing, seconds, misplaced = _WAYS[work.way](work)
    return {
        "importing": round(importing, 3),
        "seconds": round(seconds, 3),
        "misplaced": misplaced,
        "peak_bytes": _peak(),
    }


def _door(work: Work) -> Done:
    began = time.perf_counter()
    import stores.duck  # noqa: F401 -- the lake imports its engine when it needs one
    from expectations.engine import great_expectations
    from stores.home import Home
    from stores.pseudonyms import Keys
    from stores.settings import Settings
    from tasks.ingesting import ingest_file

    great_expectations()
    home = Home.create(Path(work.folder) / "home")
    Keys.load(home.keys)
    ready = time.perf_counter()
    receipt = ingest_file(work.file, home=home, settings=Settings(), now=datetime.fromisoformat(LATEST))
    seconds = time.perf_counter() - ready
    misplaced = sum(abs(getattr(receipt, name) - count) for name, count in _fates(work.rows).items())
    return ready - began, seconds, misplaced


def _fates(rows: int) -> dict[str, int]:
    broken, repeated = Log.counts(rows)
    return {
        "delivered": rows,
        "accepted": rows - broken - repeated,
        "quarantined": broken,
        "duplicate": repeated,
        "late": 0,
    }


def _read_sql(work: Work) -> str:
    if work.format == "parquet":
        return f"read_parquet('{work.file}')"
    return f"read_csv('{work.file}', header = true, columns = {COLUMNS})"


def _bare(work: Work) -> Done:
    began = time.perf_counter()
    import duckdb

    ready = time.perf_counter()
    with duckdb.connect() as connection:
        connection.execute(
            f"SET TimeZone = 'UTC'; SET enable_progress_bar = false; SET temp_directory = '{work.folder}/spill'"
        )
        query = f"COPY (SELECT * FROM {_read_sql(work)} WHERE {PASSES}) TO '{work.folder}/kept.parquet'"
        (kept,) = connection.execute(query).fetchone() or (0,)
    seconds = time.perf_counter() - ready
    return ready - began, seconds, abs(kept - (work.rows - _fates(work.rows)["quarantined"]))


def _great(work: Work) -> Done:
    """The frame whole, as pandas reads it. Pseudonyms are a stand-in: the suite wants their form."""
    began = time.perf_counter()
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    from expectations.engine import great_expectations
    from expectations.verdicts import judge
    from relations.schemas import SCHEMAS

    great_expectations()
    ready = time.perf_counter()
    frame = pd.read_parquet(work.file) if work.format == "parquet" else pd.read_csv(work.file)
    hashed = pd.util.hash_array(frame["user_id"].to_numpy(dtype=object, na_value=""), categorize=True)
    users = np.char.add("p1_", np.char.zfill(hashed.astype(str), 32)).astype(object)
    users[frame.pop("user_id").isna().to_numpy()] = None
    frame["user"] = users
    frame["event_time"] = pd.to_datetime(frame["event_time"], utc=True)
    wanted = [field for field in SCHEMAS["events"] if field.name not in ("received_time", "source", "delivery_id")]
    columns = [
        pa.array(frame[field.name], field.type, from_pandas=True)
        if field.name in frame
        else pa.nulls(len(frame), field.type)
        for field in wanted
    ]
    table = pa.Table.from_arrays(columns, names=[field.name for field in wanted])
    verdict = judge(table, kind="events", unreadable={}, untyped={}, latest=datetime.fromisoformat(LATEST))
    frame.drop(index=list(verdict.failing)).to_parquet(f"{work.folder}/kept.parquet")
    seconds = time.perf_counter() - ready
    return ready - began, seconds, abs(len(verdict.failing) - _fates(work.rows)["quarantined"])


_WAYS: dict[str, Callable[[Work], Done]] = {"door": _door, "bare": _bare, "great": _great}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.ingest", description=__doc__)
    parser.add_argument("--rows", type=int, default=FULL, help=f"events of the larger log (default: {FULL:,})")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.work:
        print(json.dumps(_work(Work(**json.loads(chosen.work)))))
        return 0
    try:
        rows = run(chosen.rows)
    except ValueError as error:
        parser.error(str(error))
    if chosen.json:
        print(json.dumps({"rows": rows}, ensure_ascii=False))
    else:
        for row in rows:
            verdict = "holds" if row["holds"] else "FAILS"
            print(f"{row['name']:<70} {row['measured']:>12,} {row['unit']:<6} {row['bar']:>9}  {verdict}")
    return 0 if all(row["holds"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
