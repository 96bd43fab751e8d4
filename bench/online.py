"""What learning online brings: a real stream replayed in steps of some hours, each tested before it is learnt.

`ratchet bench online [--data FOLDER]` on MovieLens 100k: a small model of the first 24 weeks, then the next days, step
by step. The same model is left as it is, goes on online in several ways, or by an increment a day or a week, and all
answer the same events: NDCG@10 and HR@10 of a ranking of all items, CPU-seconds of training for a thousand events,
and how much of the base a delta at the end of the stream holds. Differences from the stale model come with 95 %
bootstrap intervals over users.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.continual_data import Stream, read
from bench.rows import Row

if TYPE_CHECKING:
    from model.continual.online import OnlineOptions
    from model.fitted import Fitted
    from model.options import TrainOptions
    from model.sequences import Histories

DATA = Path("../shared/data/ml-100k")
HOUR_US = 3_600_000_000
STEP_HOURS = 6
DAYS = 21
REPLAY_USERS = 60


@dataclass(frozen=True)
class Lived:
    """What one way of learning answered, and cost."""

    ndcg_R: np.ndarray
    hit_R: np.ndarray
    user_R: np.ndarray
    seconds: float
    """CPU, of training alone."""
    rows: int
    bytes: int
    """Of a delta on the base at the end; 0: it is no delta."""


def run(data: Path | None = None, days: int = DAYS, epochs: int = 6, seed: int = 0) -> list[Row]:
    """Rows for each way of learning; the bar is on the default: not below the stale model beyond chance."""
    from model.continual.online import OnlineOptions
    from model.fit import fit_full
    from model.metrics.intervals import difference_interval
    from model.options import Device, NetworkOptions, Precision, TrainOptions

    stream = read(DATA if data is None else data)
    training = TrainOptions(epochs=epochs, seed=seed, threads=1, device=Device.CPU, precision=Precision.FLOAT32)
    before = stream.before(stream.base)
    base = fit_full(before, network=NetworkOptions(width=32, blocks=1, heads=2), training=training)
    steps = _steps(stream, days=days)
    ways = {
        "online, row-wise Adagrad (default)": OnlineOptions(),
        "online, row-wise Adagrad, no replay": OnlineOptions(replay_share=0.0),
        "online, row-wise Adagrad, body by SGD": OnlineOptions(body_learning_rate=0.01),
        "online, FTRL": OnlineOptions(optimizer="ftrl", learning_rate=0.1),  # type: ignore[arg-type]
        "online, row-wise FTRL": OnlineOptions(optimizer="rowwise_ftrl", learning_rate=0.1),  # type: ignore[arg-type]
    }
    lived = {name: learn_online(base, before, steps, options=way, training=training) for name, way in ways.items()}
    for name, every in (("an increment a day", 24 // STEP_HOURS), ("an increment a week", 7 * 24 // STEP_HOURS)):
        lived[name] = learn_by_increments(base, before, steps, every=every, training=training)
    stale = learn_by_increments(base, before, steps, every=len(steps) + 1, training=training)
    events = sum(len(step) for step in steps)
    rows = _told("stale", stale, events)
    for name, one in lived.items():
        found = difference_interval(one.ndcg_R, stale.ndcg_R, user_R=stale.user_R)
        rows += _told(name, one, events)
        for part in ("difference", "low", "high"):
            is_bar = (name, part) == ("online, row-wise Adagrad (default)", "high")
            value = float(getattr(found, part))
            bar = "≥ 0" if is_bar else None
            label = f"{name}: NDCG@10 − stale" + ("" if part == "difference" else f", {part}")
            rows.append(
                {"name": label, "measured": value, "unit": "", "bar": bar, "holds": value >= 0 if is_bar else None}
            )
    return rows


def learn_online(
    base: "Fitted",
    past: "Histories",
    steps: "list[Histories]",
    *,
    options: "OnlineOptions",
    training: "TrainOptions",
) -> Lived:
    """A step of online learning for each of `steps`."""
    from model.continual.online import begin, changed_rows, compare_on, online_step, weights_of
    from model.sequences import merge

    now, tested, seconds = begin(base), [], 0.0
    for number, new in enumerate(steps):
        drawn_U = np.random.default_rng(number).permutation(len(past.users))[:REPLAY_USERS]
        near_U = np.isin(past.users, new.users)
        near_U[drawn_U] = True
        near = past.keep(near_U[past.user_N()])
        tested.append(compare_on(now, now, *merge(near, new), k=10, users=len(new.users), seed=0))
        began = time.process_time()
        step = online_step(now, base=now, new=new, past=near, options=options, training=training, test_users=0)
        seconds += time.process_time() - began
        now, past = step.fitted, merge(past, new)[0]
    rows = changed_rows(now, base=base)
    before, after = weights_of(base).body, weights_of(now).body
    body = sum(array.nbytes for name, array in after.items() if not np.array_equal(array, before[name]))
    return Lived(
        np.concatenate([one.ndcg_R for one in tested]),
        np.concatenate([one.hit_R for one in tested]),
        np.concatenate([one.user_R for one in tested]),
        seconds,
        len(rows),
        len(rows) * (8 + 4 * (base.ranker.config.width + 1)) + body,
    )


def learn_by_increments(
    base: "Fitted", past: "Histories", steps: "list[Histories]", *, every: int, training: "TrainOptions"
) -> Lived:
    """An increment with the usual options after each `every` steps; never, where there are fewer."""
    from model.continual.increment import fit_increment
    from model.continual.online import Prequential, compare_on
    from model.continual.options import IncrementOptions
    from model.sequences import merge

    now, seconds, fresh = base, 0.0, past.keep(np.zeros(len(past), dtype=bool))
    tested: list[Prequential] = []
    seen = past
    for number, new in enumerate(steps, start=1):
        near = seen.keep(np.isin(seen.users, new.users)[seen.user_N()])
        tested.append(compare_on(now, now, *merge(near, new), k=10, users=len(new.users), seed=0))
        fresh, seen = merge(fresh, new)[0], merge(seen, new)[0]
        if number % every == 0:
            began = time.process_time()
            now = fit_increment(now, new=fresh, past=past, training=training, increment=IncrementOptions())
            seconds += time.process_time() - began
            past, fresh = seen, fresh.keep(np.zeros(len(fresh), dtype=bool))
    return Lived(
        np.concatenate([one.ndcg_R for one in tested]),
        np.concatenate([one.hit_R for one in tested]),
        np.concatenate([one.user_R for one in tested]),
        seconds,
        0,
        0,
    )


def _steps(stream: Stream, *, days: int) -> "list[Histories]":
    """The stream after its base, in pieces of `STEP_HOURS`; hours without an event have none."""
    after = stream.histories.since(stream.starts[stream.base])
    piece_N = (after.time_N - stream.starts[stream.base]) // (STEP_HOURS * HOUR_US)
    pieces = np.unique(piece_N[piece_N < days * 24 // STEP_HOURS])
    return [after.keep(piece_N == piece) for piece in pieces]


def _told(name: str, one: Lived, events: int) -> list[Row]:
    """Its figures, without bars."""
    figures = [
        ("NDCG@10", float(one.ndcg_R.mean()), ""),
        ("HR@10", float(one.hit_R.mean()), ""),
        ("training, 1,000 events", one.seconds / events * 1e3, "CPU-s"),
    ]
    if one.rows:
        figures += [("changed rows", float(one.rows), "rows"), ("delta", one.bytes / 1e3, "kB")]
    return [
        {"name": f"{name}: {figure}", "measured": value, "unit": unit, "bar": None, "holds": None}
        for figure, value, unit in figures
    ]
