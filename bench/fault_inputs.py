"""Inputs that are broken, hostile, empty or changed: each gets a clear result, and nothing else is touched."""

import gzip
import json
import math
import os
import time
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa

from bench.fault_drift import COLUMNS, FORMATS, MUTATIONS, OURS, apply, expected, feed
from bench.fault_homes import NOW, Record, Workers, make_home, record, unaccounted, write, write_table
from bench.rows import Row, at_least, at_most
from relations.errors import DataRejected, RatchetError
from relations.evolution import Policy
from stores.delivery import EMPTY, Receipt
from stores.home import Home
from stores.lake import Lake
from stores.readers.opening import open_delivery
from stores.settings import Settings, SourceSettings, ValidationSettings
from tasks.ingesting import deliver_file, ingest_landing

BOMB_BYTES = 10_000_000_000
_MEMBER = 10_000_000
_LINES = {"rows": b"1,2\n", "json": b'{"b":1}\n', "one line": b"x"}


def measure_drift(folder: Path) -> list[Row]:
    """30 mutations of a feed × 3 policies × 3 formats, at the door, each beside the feed as it was."""
    right = tried = unnamed = wrong = 0
    for suffix in FORMATS:
        for policy in get_args(Policy):
            home = make_home(folder / f"drift-{suffix}-{policy}")
            source = SourceSettings(columns=COLUMNS, schema_policy=policy)
            settings = Settings(sources={"shop": source}, validation=ValidationSettings(evidence_rows=1))
            path = write(folder / f"feed.{suffix}", feed())
            first = deliver_file(path, home=home, settings=settings, source="shop", now=NOW)
            wrong += abs(first.accepted - first.delivered)
            for mutation in MUTATIONS:
                write(path, apply(mutation))
                receipt = deliver_file(path, home=home, settings=settings, source="shop", now=NOW, dry_run=True)
                verdict, said = _verdict(receipt)
                tried += 1
                right += verdict == expected(mutation, policy=policy, suffix=suffix)
                named = f"column {mutation.column} " in said or f" {OURS.get(mutation.column)}\n" in said
                unnamed += verdict != "unremarked" and not named
                wrong += abs(receipt.delivered - receipt.accepted - receipt.quarantined - receipt.duplicate)
    return [
        at_least(
            f"schema drift, {len(MUTATIONS)} mutations × 3 policies × 3 formats: as the policy says",
            round(100 * right / tried, 2),
            100,
        ),
        at_most("schema drift: messages that do not name the column", unnamed, 0, unit="messages"),
        at_most("schema drift: rows not accounted for", wrong, 0, unit="rows"),
    ]


def _verdict(receipt: Receipt) -> tuple[str, str]:
    """(what became of the batch, all that was said of it, a broken expectation and its column on a line)."""
    held = receipt.state == "quarantined_whole"
    reasons = "".join(f"{label}\n" for label, _ in receipt.reasons)
    return (
        "held" if held else "warned" if receipt.warnings else "unremarked",
        f"{receipt.message} {' '.join(receipt.warnings)} {reasons}",
    )


def measure_bad_values(folder: Path) -> list[Row]:
    """1,000 good rows with bad ones between them, in each format; and hostile names of files and ids."""
    place = folder / "bad"
    place.mkdir()
    crashes, missed = 0, 0
    for suffix in ("csv", "jsonl", "parquet"):
        home = make_home(place / f"home-{suffix}")
        path = place / f"bad.{suffix}"
        bad = _write_bad(path, good=[record(number) for number in range(1_000)])
        before = _outside(folder, home)
        try:
            receipt = deliver_file(path, home=home, settings=Settings(), now=NOW)
            held = set(Lake(home.lake).read("quarantine", columns=["row"]).column(0).to_pylist())
            missed += len(held ^ bad) + abs(receipt.accepted - 1_000) + unaccounted(home)
        except RatchetError:
            crashes += 1
        missed += len(_outside(folder, home) ^ before)
    home = make_home(place / "home-names")
    before, names = _outside(folder, home), _hostile_names(home)
    try:
        receipts = ingest_landing(home=home, settings=Settings(), now=NOW)
        crashes += sum(receipt.state != "committed" for receipt in receipts) + abs(len(receipts) - names)
    except (RatchetError, OSError, ValueError):
        crashes += 1
    written = len(_outside(folder, home) ^ before)
    return [
        at_most("bad values: crashes", crashes, 0, unit="files"),
        at_most("bad values: bad rows taken, good rows held", missed + unaccounted(home), 0, unit="rows"),
        at_most("bad values and names: files written outside the home", written, 0, unit="files"),
    ]


def _write_bad(path: Path, *, good: list[Record]) -> set[int]:
    """Write the good rows with bad ones between them; returns the bad ones' row numbers."""
    first = good[0]
    bad: list[Any] = [
        {**first, "event_time": "soon"},
        {**first, "item_id": "x" * 10_000_000},
        {**first, "user_id": " "},
        {**first, "event_time": "2300-01-01"},
        {**first, "behaviour": "hover"},
        {**first, "value": math.nan},
        {**first, "value": math.inf},
        {**first, "value": -math.inf},
    ]
    # Odd, and fine: ids are any text.
    odd = [
        "=cmd|' /C calc'!A0",
        "../../etc/passwd",
        "a\u2028b",
        "e\u0301",
        "🦉",
        "..\\..\\x",
        "/etc/passwd",
        "%2e%2e%2f",
    ]
    rows = [
        {**row, "item_id": odd[n % len(odd)] if n % 9 == 0 else row["item_id"], "value": 1.5}
        for n, row in enumerate(good)
    ]
    places = set()
    for number, row in enumerate(bad):
        rows.insert(7 + 100 * number, {"value": 1.5, **row, "event_id": f"bad{number}"})
        places.add(7 + 100 * number)
    write(path, rows)
    if path.suffix == ".parquet":
        return places
    broken = {"csv": b"u,\xff,view,2026-02-28,1,x\n", "jsonl": b'{"user_id": "\xff"}\n{"user_id": "u"\n[1]\n'}[
        path.suffix[1:]
    ]
    with path.open("ab") as file:
        file.write(broken)
    return places | set(range(len(rows), len(rows) + broken.count(b"\n")))


def _hostile_names(home: Home) -> int:
    names = (b"\xff\xfe.csv", b"n" * 251 + b".csv", b"a\nb.csv", b"=cmd|' .csv", b"%2e%2e%2fx.csv", b"-rf.csv")
    for number, name in enumerate(names):
        path = write(home.landing / "events" / "x.csv", [record(number)])
        path.rename(os.fsdecode(os.fsencode(path.parent) + b"/" + name))
    return len(names)


def _outside(folder: Path, home: Home) -> set[Path]:
    """All files of the folder that are not the home's."""
    return {path for path in folder.rglob("*") if path.is_file() and home.root not in path.parents}


def refuse_bomb(path: str, root: str, answer: str) -> None:
    """A worker's whole work: seconds and MiB until the bomb is refused, by the reader and by the door."""
    found: dict[str, float] = {}
    home = Home.open(Path(root))
    # What every delivery loads and keeps is paid for by one before.
    deliver_file(write(Path(root) / "small.csv", [record(1)]), home=home, settings=Settings(), now=NOW)
    for way in ("reader", "door"):
        before, began = _peak(reset=True), time.monotonic()
        try:
            if way == "reader":
                opened = open_delivery(Path(path), uri="bomb.csv.gz", kind="events")
                found["opened"] = sum(chunk.rows for chunk in opened.chunks)
            else:
                receipt = deliver_file(path, home=home, settings=Settings(), now=NOW)
                found["opened"] = float(receipt.state != "unreadable")
        except DataRejected:
            found.setdefault("opened", 0)
        found[f"{way} seconds"] = time.monotonic() - began
        found[f"{way} MiB"] = _peak() - before
    Path(answer).write_text(json.dumps(found))


def measure_bomb(folder: Path, *, workers: Workers, size: int = BOMB_BYTES) -> list[Row]:
    """`size` bytes in a thousandth of that, made here; of rows, of objects and of one endless line."""
    seconds, memory, opened = 0.0, 0.0, 0.0
    for name, line in _LINES.items():
        member = gzip.compress(b"a,b\n" + line * (_MEMBER // len(line)), 9)
        path = folder / f"bomb {name}.csv.gz"
        with path.open("wb") as file:
            for _ in range(size // _MEMBER):
                file.write(member)
        home, answer = make_home(folder / f"bomb-{name}"), folder / "answer.json"
        answer.unlink(missing_ok=True)
        workers.run(refuse_bomb, str(path), str(home.root), str(answer))
        found = json.loads(answer.read_text())
        seconds = max(seconds, found["reader seconds"], found["door seconds"])
        memory = max(memory, found["reader MiB"], found["door MiB"])
        opened += found["opened"] + unaccounted(home)
        path.unlink()
    said = f"gzip bomb of {size / 1e9:g} GB"
    return [
        at_most(f"{said}: not refused", opened, 0, unit="bombs"),
        at_most(f"{said}: until refused", round(seconds, 2), 2, unit="s"),
        at_most(f"{said}: memory above that of before", round(memory, 1), 64, unit="MiB"),
    ]


def _peak(*, reset: bool = False) -> float:
    """Most memory that this process held since the last reset, MiB."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measure_empty(folder: Path) -> list[Row]:
    """Nothing, a header and no row, and one row, in each format."""
    wrong = versions = nans = 0
    header = pa.Table.from_pylist([record(1)])
    for suffix in ("csv", "jsonl", "parquet", "arrow"):
        home, path = make_home(folder / f"empty-{suffix}"), folder / f"empty.{suffix}"
        write(path, [record(1)])
        one = path.read_bytes()
        if suffix in ("parquet", "arrow"):
            write_table(path, header.slice(0, 0))
        nothing = (
            one.partition(b"\n")[0] + b"\n" if suffix == "csv" else b"" if suffix == "jsonl" else path.read_bytes()
        )
        for content, state, rows in ((b"", EMPTY, 0), (nothing, EMPTY, 0), (one, "committed", 1)):
            path.write_bytes(content)
            receipt = deliver_file(path, home=home, settings=Settings(), now=NOW)
            wrong += (receipt.state, receipt.delivered, receipt.accepted) != (state, rows, rows)
            versions += not rows and Lake(home.lake).version("events") >= 0
            nans += sum(not math.isfinite(value) for value in receipt.profile.values())
        wrong += unaccounted(home)
    return [
        at_most("empty batches, 4 formats × nothing, a header, one row: wrong results", wrong, 0, unit="deliveries"),
        at_most("empty batches: versions of the table made", versions, 0, unit="versions"),
        at_most("empty batches: figures that are no number", nans, 0, unit="figures"),
    ]
