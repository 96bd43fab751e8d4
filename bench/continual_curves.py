"""What an increment's CPU-seconds grow with: linearly with what is new, and not with the history.

`ratchet bench continual-cost`, in homes of drawn events, on the way that the flow takes: the sequence store absorbs a
delivery, `load_material` reads it and what is replayed beside it, `fit_increment` goes on from a model of the default
size. The users with new events, their new events and all their past are the same in every home; the homes differ in how
many other users there are, or in how far back each user's history goes.

Each figure is the least of the repetitions. These go round all homes in turn, so that other work slows all alike.
"""

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench.rows import Row, at_least, at_most
from model.continual.increment import fit_increment
from model.fit import fit_full
from model.fitted import Fitted, save_fitted
from relations.schemas import DELIVERIES, EVENTS, TIME
from stores.home import Home
from stores.lake import COUNTS, Lake
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.sequences.store import SequenceStore
from stores.settings import Settings
from tasks.jobs import Mode, TrainingJob
from tasks.material import load_material
from tasks.options import options_of
from tasks.replaying import keep_replay

REPETITIONS = 3
DOUBLINGS = (1, 2, 4, 8)
FLAT_AT = 4
"""New events against which the history is varied, in units of the fewest."""
BEND, FLAT = (0.85, 1.15), 1.15
"""Bars: an event's seconds in the upper half of the sizes over those in the lower; ten histories' over one's."""
NEW_EVENTS = 5
"""Of each user who has any."""
BEGINS = datetime(2026, 1, 1, tzinfo=UTC)
"""Of the new events."""
BEGINS_US = int(BEGINS.timestamp()) * 1_000_000
SPACING_S = 3_600
"""Between two events of a user."""
BEFORE = "sequences-before"
"""Folder of a home: its sequence store as it was before the new events."""


@dataclass(frozen=True)
class Sizes:
    """`new_users` is of the fewest new events; eight times as many must be among `users`."""

    users: int = 5_000
    history: int = 40
    """Past events of each user, two windows of the network."""
    growth: int = 10
    new_users: int = 400
    items: int = 500
    replay_events: int = 40_000
    parent_users: int = 500
    """Whom the parent was trained on; it needs weights, not knowledge."""

    @property
    def settings(self) -> Settings:
        return Settings.model_validate(
            {
                "model": {"max_history": self.history // 2},
                "train": {"epochs": 1, "threads": 1, "small_events": 0, "device": "cpu"},
                "increment": {"replay_events": self.replay_events},
            }
        )


@dataclass(frozen=True)
class Spent:
    """CPU-seconds."""

    absorb: float
    load: float
    fit: float

    @property
    def total(self) -> float:
        return self.absorb + self.load + self.fit

    @staticmethod
    def least(each: Sequence["Spent"]) -> "Spent":
        return Spent(*(min(getattr(spent, part) for spent in each) for part in PARTS))


PARTS = ("absorb", "load", "fit")


def run(repetitions: int = REPETITIONS, sizes: Sizes | None = None) -> list[Row]:
    """One row a figure; at the default sizes some 5 minutes of one core and 1 GB of disk below the temp folder."""
    sizes = Sizes() if sizes is None else sizes
    with tempfile.TemporaryDirectory(prefix="ratchet-bench-") as folder:
        return rows_of(measure(sizes, folder=Path(folder), repetitions=repetitions), sizes=sizes)


def rows_of(found: dict[str, Spent], *, sizes: Sizes) -> list[Row]:
    """`found`: by the names of `measure`."""
    events = {times: times * sizes.new_users * NEW_EVENTS for times in DOUBLINGS}
    rows = [
        _told(f"increment, {count:,} new events: CPU", found[f"new {times}"].total, "s")
        for times, count in events.items()
    ]
    seconds = [found[f"new {times}"].total for times in DOUBLINGS]
    bend = round(_bend(list(events.values()), seconds), 3)
    said = f"a new event's cost, from {events[4]:,} to {events[8]:,} over up to {events[4]:,}"
    rows += [
        at_least(said, bend, BEND[0], unit="×"),
        at_most(said, bend, BEND[1], unit="×"),
        _told("log-log slope of the cost in new events, the fixed part in", _slope(list(events.values()), seconds)),
    ]
    base = found[f"new {FLAT_AT}"]
    for name, who in (("users", "other users"), ("length", "events a user")):
        grown = found[name]
        said = f"history of {sizes.growth}× the {who}, {events[FLAT_AT]:,} new events"
        rows.append(at_most(f"{said}: cost over that of 1×", round(grown.total / base.total, 3), FLAT, unit="×"))
        for part in PARTS:
            now, before = getattr(grown, part), getattr(base, part)
            rows.append(_told(f"{said}: {part}, after {before:.3f} s at 1×", now, "s"))
    return rows


def _bend(events: Sequence[int], seconds: Sequence[float]) -> float:
    """Seconds an event between the last two sizes over those between the first and the last but one.

    Differences, so that a fixed part is in neither: 1 for a + b·n, 2.4 for n² at 1, 2, 4 and 8, above 1 for n·log n.
    """
    upper = (seconds[-1] - seconds[-2]) / (events[-1] - events[-2])
    return upper / ((seconds[-2] - seconds[0]) / (events[-2] - events[0]))


def _slope(events: Sequence[int], seconds: Sequence[float]) -> float:
    slope, _ = np.polyfit(np.log(events), np.log(seconds), 1)
    return float(slope)


def _told(name: str, measured: float, unit: str = "") -> Row:
    return {"name": name, "measured": round(measured, 4), "unit": unit, "bar": None, "holds": None}


def measure(sizes: Sizes, *, folder: Path, repetitions: int) -> dict[str, Spent]:
    """`new 1` … `new 8`: so many times the fewest new events, in a home of one history; `users` and `length`: as
    `new 4`, in a home of ten."""
    one = _home(folder / "one", sizes, users=sizes.users, history=sizes.history)
    many = _home(folder / "many", sizes, users=sizes.growth * sizes.users, history=sizes.history)
    long = _home(folder / "long", sizes, users=sizes.users, history=sizes.growth * sizes.history)
    parent = _parent(one, sizes)
    for home in (one, many, long):
        save_fitted(parent, home.checkpoints / "1")
        keep_replay.fn(home, sizes.settings, version=1)
    homes: dict[str, tuple[Home, int]] = {}
    for times in DOUBLINGS:
        shutil.copytree(one.root, folder / f"new-{times}")
        homes[f"new {times}"] = Home.open(folder / f"new-{times}"), times
    homes |= {"users": (many, FLAT_AT), "length": (long, FLAT_AT)}
    for home, times in homes.values():
        _deliver(Lake(home.lake), "new", users=times * sizes.new_users, first=0, count=NEW_EVENTS, items=sizes.items)
        shutil.copytree(home.sequences, home.root / BEFORE)
    found: dict[str, list[Spent]] = {name: [] for name in homes}
    for _ in range(repetitions):
        for name, (home, _times) in homes.items():
            found[name].append(_increment(home, sizes, parent))
    return {name: Spent.least(each) for name, each in found.items()}


def _increment(home: Home, sizes: Sizes, parent: Fitted) -> Spent:
    """One, which leaves the home as it was."""
    lake = Lake(home.lake)
    shutil.rmtree(home.sequences)
    shutil.copytree(home.root / BEFORE, home.sequences)
    job = TrainingJob(Mode.INCREMENTAL, lake.version("events"), -1, 1, None, None, "checkpoints/none")
    _, training, increment = options_of(sizes.settings)
    clock = [time.process_time()]
    SequenceStore(home.sequences).update(lake)
    clock.append(time.process_time())
    material = load_material(home, sizes.settings, job)
    clock.append(time.process_time())
    fit_increment(
        parent,
        new=material.new,
        past=material.past,
        replayed_N=material.replayed_N,
        training=training,
        increment=increment,
    )
    clock.append(time.process_time())
    return Spent(*np.diff(clock).tolist())


def _home(root: Path, sizes: Sizes, *, users: int, history: int) -> Home:
    """With a past, and version 1 that has seen it."""
    home = Home.create(root)
    lake = Lake(home.lake)
    _deliver(lake, "past", users=users, first=-history, count=history, items=sizes.items)
    SequenceStore(home.sequences).update(lake)
    record = VersionRecord(
        version=1,
        digest="1" * 64,
        mode="full",
        parent=None,
        events_version=lake.version("events"),
        items_version=-1,
        cutoff_us=BEGINS_US,
        offline_passed=True,
        metrics={},
        run_id="",
        created=BEGINS,
        checkpoint="checkpoints/1",
    )
    Ledger.of(home, sizes.settings).record_version(record)
    return home


def _parent(home: Home, sizes: Sizes) -> Fitted:
    sequences = SequenceStore(home.sequences).read(Lake(home.lake))
    some = sequences.histories(sequences.of_users(np.arange(len(sequences.user_U)) < sizes.parent_users))
    network, training, _ = options_of(sizes.settings)
    return fit_full(some, network=network, training=training)


def _deliver(lake: Lake, name: str, *, users: int, first: int, count: int, items: int) -> None:
    """As the door does: the `first`-th event (0: the first new one) and those after it, `count` in all, of each user.

    An event follows from its user and number alone, so that it is the same in every home.
    """
    user_N, number_N = np.repeat(np.arange(users), count), np.tile(np.arange(first, first + count), users)
    drawn_N = _mixed(_mixed(user_N.astype(np.uint64)) + number_N.astype(np.uint64))
    item_N = (items * (drawn_N / 2.0**64) ** 2).astype(np.int64)  # some are met more often than others
    name_U = np.array([f"p1_{_mixed(np.uint64(user)):020d}" for user in range(users)], dtype=object)
    time_N = BEGINS_US + 1_000_000 * (SPACING_S * number_N + user_N % SPACING_S)
    rows = len(user_N)
    columns = {
        "event_id": pa.array([f"{name}{row}" for row in range(rows)]),
        "user": pa.array(name_U[user_N]),
        "item_id": pa.array([f"i{item}" for item in range(items)]).take(pa.array(item_N)),
        "behaviour": pa.repeat("view", rows),
        "event_time": pa.array(time_N).cast(TIME),
        "received_time": pa.repeat(BEGINS, rows).cast(TIME),
        "source": pa.repeat("drawn", rows),
        "delivery_id": pa.repeat(name, rows),
    }
    absent = {field.name: pa.nulls(rows, field.type) for field in EVENTS if field.name not in columns}
    lake.append("events", pa.table(columns | absent).select(EVENTS.names).cast(EVENTS), transaction=name)
    receipt = {
        **dict.fromkeys(COUNTS, 0),
        "delivery_id": name,
        "digest": name,
        "kind": "events",
        "source": "drawn",
        "uri": name,
        "received_time": BEGINS,
        "table_versions": sorted(lake.versions().items()),
        "state": "committed",
    }
    lake.append("deliveries", pa.Table.from_pylist([receipt], schema=DELIVERIES), transaction=name)


def _mixed(value: Any) -> Any:
    """The finaliser of SplitMix64 (Steele et al., OOPSLA 2014), of uint64."""
    with np.errstate(over="ignore"):
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))
