"""What the fault benchmarks share: homes with known keys, rows whose counts are known in advance, warm workers."""

import csv
import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stores.home import Home
from stores.lake import Lake
from stores.pseudonyms import Keys

NOW = datetime(2026, 3, 1, tzinfo=UTC)
USER = "p1_" + "0" * 32
"""A pseudonym, for rows that come from serving."""
PLACES = {"accepted": "events", "quarantined": "quarantine", "late": "late"}
LONGEST = 1_200.0
"""Seconds after which a worker is taken to hang; on a busy machine a small training may need many minutes."""
_HEAVY = (
    "great_expectations",
    "pandas",
    "ibis",
    "tasks.ingesting",
    "pyarrow.dataset",
    "pyarrow.json",
    "pyarrow.csv",
)
Record = dict[str, Any]


def make_home(root: Path) -> Home:
    """A new home with keys from a seed, so that pseudonyms and derived ids repeat."""
    home = Home.create(root, simulation=True)
    Keys.write_derived(home.keys, seed=7)
    return home


def record(number: int, *, at: datetime | None = None, **more: Any) -> Record:
    """Event `number`: of one of 97 users, on one of 53 items, at a second of its own."""
    stated = {"user_id": f"u{number % 97}", "item_id": f"i{number % 53}", "behaviour": "view"}
    moment = at or NOW - timedelta(seconds=number)
    return {"event_id": f"e{number}", **stated, "event_time": moment.isoformat(), **more}


def write(path: Path, rows: Sequence[Record]) -> Path:
    """The rows as the suffix says: csv, jsonl, parquet or arrow."""
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            out = csv.DictWriter(file, list(rows[0]))
            out.writeheader()
            out.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        write_table(path, pa.Table.from_pylist(list(rows)))
    return path


def write_table(path: Path, table: pa.Table) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    return path


def unaccounted(home: Home) -> int:
    """Rows by which the receipts differ from each other's sum and from the tables; 0 is the identity."""
    lake = Lake(home.lake)
    totals = lake.totals()
    off: int = abs(
        totals["delivered"] - sum(totals[count] for count in ("accepted", "quarantined", "duplicate", "late"))
    )
    for count, table in PLACES.items():
        off += abs(totals[count] - lake.read(table).num_rows)
    return off


@dataclass(frozen=True)
class Ended:
    """How a worker ended. `seconds`: from its first line to its last; imports are done before."""

    exit: int | None
    seconds: float


class Workers:
    """Processes that fork from a server which has imported what is heavy, once."""

    def __init__(self, *, also: Sequence[str] = ()) -> None:
        """`also`: modules that the main program imports, and each worker would again."""
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([*_HEAVY, *also])

    def run(
        self,
        work: Callable[..., None],
        *given: object,
        kill_after: float | None = None,
        kill_when: Callable[[], bool] | None = None,
    ) -> Ended:
        """Run `work(*given)` in a process.

        `kill_after`: SIGKILL it so many seconds after it begins; `kill_when`: as soon as that holds.
        """
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_begin, args=(theirs, work, given))
        process.start()
        theirs.close()
        try:
            ours.recv_bytes()
            began = time.monotonic()
            if kill_after is not None:
                process.join(timeout=kill_after)
                process.kill()
            if kill_when is not None:
                while process.is_alive() and not kill_when():
                    time.sleep(0.005)
                process.kill()
            process.join(timeout=LONGEST)
            if process.exitcode is None:
                process.kill()
                process.join()
            return Ended(process.exitcode, time.monotonic() - began)
        finally:
            ours.close()


def _begin(begun: Connection, work: Callable[..., None], given: Sequence[object]) -> None:
    begun.send_bytes(b".")
    work(*given)
