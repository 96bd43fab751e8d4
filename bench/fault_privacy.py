"""Personal data: raw user ids never come to lie anywhere, and a forgotten user leaves nothing."""

import contextlib
import gzip
import io
import logging
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from bench.fault_homes import NOW, make_home, record, write
from bench.rows import Row, at_least, at_most
from stores.home import Home
from stores.lake import Lake
from stores.pseudonyms import Keys
from stores.quarantine import explain, listing
from stores.sequences.store import SequenceStore
from stores.settings import Settings
from tasks.forgetting import forget_users
from tasks.ingesting import deliver_file
from tasks.jobs import Mode, TrainingJob, plan_training
from tasks.refreshing import refresh_serving
from tasks.training import fit_model

CANARY = "canary-4711"
TINY = Settings.model_validate(
    {"model": {"width": 8, "blocks": 1, "heads": 1}, "train": {"epochs": 1, "threads": 1}, "privacy": {"k": 5}}
)
VERSIONS = 12


def measure_leak(folder: Path, *, users: int, train: bool) -> list[Row]:
    """Ids that are found nowhere else, through the door in each format, into what serving and training make of them."""
    home = make_home(folder / "leak")
    canaries = [f"canary-{number:06d}@example.org" for number in range(users)]
    rows = [record(n, user_id=canaries[n % users], behaviour="view") for n in range(3 * users)]
    broken = [{**row, "event_id": f"b{n}", "behaviour": canaries[0][:6]} for n, row in enumerate(rows[: users // 5])]
    with _told() as said:
        for number, suffix in enumerate(("csv", "jsonl", "parquet")):
            path = write(folder / f"leak.{suffix}", [*rows[number::3], *broken[number::3]])
            deliver_file(path, home=home, settings=TINY, now=NOW)
            path.unlink()
        people = [{"user_id": user, "valid_from": "2026-02-01", "opt_out": "false", "age": "40"} for user in canaries]
        deliver_file(write(folder / "leak-users.csv", people), home=home, settings=TINY, kind="users", now=NOW)
        (folder / "leak-users.csv").unlink()
        refresh_serving(home, TINY)
        lake = Lake(home.lake)
        logging.getLogger("bench").info("%s %s", listing(lake), explain(lake))
        if train:
            job = plan_training(home, TINY, mode=Mode.FULL)
            assert isinstance(job, TrainingJob)
            fit_model.fn(home, TINY, job)
    accepted = Lake(home.lake).totals()["accepted"]
    texts = [b"canary-0", *(user.encode() for user in canaries)]
    files = hits(home.root, *texts)
    leaked = len(files) + sum(text in said.getvalue().encode() for text in texts)
    trained = ", and a training" if train else ""
    return [
        at_least(f"{users:,} canary ids through the door{trained}: rows taken in", accepted, 4 * users, unit="rows"),
        at_most(f"{users:,} canary ids: hits in logs, tables, Delta's logs, reports, models", leaked, 0, unit="hits"),
    ]


def measure_forgetting(folder: Path) -> list[Row]:
    """A user in 12 versions of the events, in quarantine, in serving's state and in the sequences."""
    home = make_home(folder / "forget")
    names = Keys.load(home.keys).users([CANARY, "robin-42"])
    for version in range(VERSIONS):
        rows = [
            record(100 * version + n, user_id=(CANARY, "robin-42")[n % 2], behaviour="hover" if n > 27 else "view")
            for n in range(30)
        ]
        rows.append({**rows[0], "event_id": f"gone{version}"})
        path = write(folder / f"forget-{version}.jsonl", rows)
        deliver_file(path, home=home, settings=TINY, now=NOW + timedelta(seconds=version))
        refresh_serving(home, TINY)
        SequenceStore(home.sequences).update(Lake(home.lake))
    before = len(hits(home.root, CANARY.encode(), names[0].encode()))
    others = _rows_of(home, names[1])
    began = time.monotonic()
    forget_users(home, TINY, [CANARY], actor="bench", reason="a benchmark", now=NOW)
    refresh_serving(home, TINY)
    seconds = time.monotonic() - began
    SequenceStore(home.sequences).update(Lake(home.lake))
    left = len(hits(home.root, CANARY.encode(), names[0].encode()))
    return [
        at_least(
            f"forget a user, in {VERSIONS} table versions: files that named one before", before, VERSIONS, unit="files"
        ),
        at_most("forget a user: hits afterwards, raw and decoded", left, 0, unit="hits"),
        at_most("forget a user: rows of another user gone", others - _rows_of(home, names[1]), 0, unit="rows"),
        at_most("forget a user: seconds until cold", round(seconds, 2), 60, unit="s"),
    ]


def hits(root: Path, *texts: bytes) -> list[str]:
    """Files below `root`, keys apart, that hold one of `texts`: as bytes, decoded from Parquet or NumPy, unzipped."""
    found = []
    for path in sorted(path for path in root.rglob("*") if path.is_file() and path.parent.name != "keys"):
        data = path.read_bytes()
        if data.startswith(b"PAR1"):
            data += str(pq.read_table(path).to_pylist()).encode()
        elif data.startswith(b"\x93NUMPY"):
            data += str(np.load(path).tolist()).encode()
        elif data.startswith(b"\x1f\x8b"):
            data += gzip.decompress(data)
        if any(text in data for text in texts):
            found.append(str(path.relative_to(root)))
    return found


def _rows_of(home: Home, user: str) -> int:
    lake = Lake(home.lake)
    return sum(
        lake.read(table, columns=["user"]).column(0).to_pylist().count(user) for table in ("events", "quarantine")
    )


@contextlib.contextmanager
def _told() -> Iterator[io.StringIO]:
    """All that is logged, of any level, and printed."""
    said = io.StringIO()
    handler, logger = logging.StreamHandler(said), logging.getLogger()
    level, handlers = logger.level, logger.handlers
    logger.handlers = [handler]  # these alone: at this level libraries talk
    logger.setLevel(logging.DEBUG)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield said
    finally:
        logger.handlers = handlers
        logger.setLevel(level)
