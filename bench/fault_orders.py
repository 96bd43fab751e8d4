"""Deliveries that come twice, late, in any order, or from a clock that is wrong."""

import random
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np

from bench.fault_homes import NOW, Record, make_home, record, unaccounted, write
from bench.rows import Row, at_least, at_most
from model.windows import Corpus, tile
from stores.home import Home
from stores.lake import Lake
from stores.sequences.store import SequenceStore
from stores.settings import Settings, ValidationSettings
from tasks.ingesting import ingest_file, ingest_landing
from tasks.jobs import Mode, TrainingJob
from tasks.material import load_material

TABLES = ("events", "late", "quarantine")
SEED = 12
# What a delivery looks like beside the others is another row of the fault table: poisoned batches.
STREAM = Settings(validation=ValidationSettings(anomalies="off"))


def digests(home: Home, tables: Sequence[str] = TABLES) -> tuple[str, ...]:
    lake = Lake(home.lake)
    return tuple(lake.content_digest(table) for table in tables)


def measure_duplicates(folder: Path, *, events: int) -> list[Row]:
    """The same events three times, the second and third time shuffled."""
    home, draw = make_home(folder / "duplicates"), random.Random(SEED)
    rows, seen, twice = [record(number) for number in range(events)], set(), 0
    for delivery in range(3):
        path = write(folder / f"duplicates-{delivery}.csv", rows)
        receipt = ingest_file(path, home=home, settings=Settings(), now=NOW)
        twice += abs(receipt.accepted - (0 if delivery else events)) + abs(
            receipt.duplicate - (events * (delivery > 0))
        )
        seen.add(digests(home))
        draw.shuffle(rows)
    return [
        at_most(f"{events:,} events three times, shuffled: table digests", len(seen), 1, unit="digests"),
        at_most("duplicates: rows accepted twice or not at all", twice + unaccounted(home), 0, unit="rows"),
    ]


def measure_order(folder: Path, *, permutations: int) -> list[Row]:
    """Files of 0 to 7 days' lateness in the landing folder, in every order that is drawn; 72 h are allowed."""
    hours = (0, 1, 24, 48, 71, 73, 96, 120, 144, 168)
    files = [
        [record(200 * n + m, at=NOW - timedelta(hours=h, seconds=m)) for m in range(50)] for n, h in enumerate(hours)
    ]
    within = [number for number, hour in enumerate(hours) if hour < 72]
    draw, found, misplaced, late, beyond, wrong = random.Random(SEED), set(), 0, 0, 0, 0
    late_tables = set()
    for number in range(permutations):
        home = make_home(folder / f"order-{number}")
        order = draw.sample(within, len(within))  # the watermark's own file among them
        _land(home, [files[each] for each in order])
        found.add(digests(home, ("events",)))
        order = draw.sample(range(len(files)), len(files))  # now everything, with what is there already
        _land(home, [files[each] for each in order])
        found.add(digests(home, ("events",)))
        late_tables.add(digests(home, ("late",)))
        misplaced += _misplaced(home)
        late += Lake(home.lake).read("late").num_rows
        beyond += 50 * (len(files) - len(within))
        wrong += unaccounted(home)
    return [
        at_most("permuted within the watermark's lateness: digests of events", len(found), 1, unit="digests"),
        at_most("permuted beyond it: digests of the late table", len(late_tables), 1, unit="digests"),
        at_least("beyond it: rows counted late", round(100 * late / beyond, 3), 100),
        at_most("out of order and late: rows not accounted for", wrong, 0, unit="rows"),
        at_most("sequences not in the order of (event time, event id)", misplaced, 0, unit="events"),
    ]


def measure_skew(folder: Path) -> list[Row]:
    """A source whose clock is off by hours or days, or runs backwards."""
    home = make_home(folder / "skew")
    _land(home, [[record(0, at=NOW)]])
    minutes = {"+1 h": 60, "+1 d": 1440, "+11 min": 11, "+9 min": 9, "-1 h": -60, "-1 d": -1440, "-4 d": -4 * 1440}
    counts, number = dict.fromkeys(("accepted", "quarantined", "late"), 0), 1
    wrong = beyond = elsewhere = 0
    for skew in minutes.values():
        # Backwards: each row claims to be a second earlier than the one before it.
        rows = [record(number + n, at=NOW + timedelta(minutes=skew, seconds=-n)) for n in range(50)]
        number += 50
        (receipt,) = _land(home, [rows])
        counts = {count: getattr(receipt, count) for count in counts}
        wanted = "quarantined" if skew > 10 else "late" if skew < -72 * 60 else "accepted"
        wrong += sum(rows for count, rows in counts.items() if count != wanted)
        if wanted != "accepted":
            beyond += 50
            elsewhere += counts[wanted]
    return [
        at_least("clock skew beyond the bound: in quarantine or late", round(100 * elsewhere / beyond, 3), 100),
        at_most("clock skew: rows in a wrong place", wrong + unaccounted(home), 0, unit="rows"),
        at_most("clock skew: events out of (event time, event id)", _misplaced(home), 0, unit="events"),
    ]


def measure_future(folder: Path, *, streams: int) -> list[Row]:
    """Events in any order of arrival, down to a full fit's windows: what a target is shown that is not before it."""
    draw, leaks, targets = random.Random(SEED), 0, 0
    for stream in range(streams):
        home = make_home(folder / f"future-{stream}")
        # Every event has an item of its own, so that what a network is shown tells which event it is.
        rows = [
            record(n, at=NOW - timedelta(seconds=draw.randrange(600)), user_id=f"u{draw.randrange(4)}", item_id=f"i{n}")
            for n in range(80)
        ]
        for part in range(2):
            path = write(folder / f"future-{stream}-{part}.jsonl", draw.sample(rows[part::2], 40))
            ingest_file(path, home=home, settings=Settings(), now=NOW)
        found = _leaks(home, rows, length=draw.randint(2, 20), seed=stream)
        leaks, targets = leaks + found[0], targets + found[1]
    return [
        at_least("future leakage: training targets looked at", targets, streams, unit="targets"),
        at_most("future leakage: targets shown something not before them", leaks, 0, unit="targets"),
    ]


def _land(home: Home, files: Sequence[Sequence[Record]]) -> list[object]:
    for number, rows in enumerate(files):
        write(home.landing / "events" / f"{number:03d}.jsonl", rows)
    return list(ingest_landing(home=home, settings=STREAM, now=NOW))


def _misplaced(home: Home) -> int:
    """Events of the store of sequences that do not stand where (event time, event id) puts them."""
    lake = Lake(home.lake)
    events = lake.read("events", columns=["user", "event_time", "event_id", "item_id"])
    order = [("user", "ascending"), ("event_time", "ascending"), ("event_id", "ascending")]
    wanted = events.sort_by(order).column("item_id").to_pylist()
    found = SequenceStore(home.sequences).read(lake)
    items = np.array(found.items.to_pylist(), dtype=object)[found.item_N].tolist()
    return sum(one != other for one, other in zip(wanted, items, strict=True))


def _leaks(home: Home, rows: Sequence[Record], *, length: int, seed: int) -> tuple[int, int]:
    """(targets that are shown an event not before them or a stranger's, or that lie in the test slice; targets)."""
    said = {row["item_id"]: row for row in rows}
    job = TrainingJob(Mode.FULL, Lake(home.lake).version("events"), -1, None, None, None, "checkpoints/fault")
    material = load_material(home, Settings(), job)
    items_N = material.new.items[material.new.item_N].tolist()
    corpus = Corpus.of(material.new, np.arange(1, len(material.new.items) + 1))
    windows = tile(corpus, length=length, rng=np.random.default_rng(seed))
    cutoff = material.cutoff_us / 1e6
    leaks = targets = 0
    for start, train, end in zip(windows.start_W, windows.train_W, windows.end_W, strict=True):
        for position in range(train, end):
            if corpus.next_N[position]:
                target, shown = said[items_N[position + 1]], [said[item] for item in items_N[start : position + 1]]
                fine = all(row["user_id"] == target["user_id"] and _place(row) < _place(target) for row in shown)
                leaks += not fine or NOW.fromisoformat(target["event_time"]).timestamp() >= cutoff
                targets += 1
    return leaks, targets


def _place(row: Record) -> tuple[str, str]:
    return row["event_time"], row["event_id"]
