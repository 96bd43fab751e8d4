"""Batches of real and simulated logs, and copies of them that somebody poisoned.

A batch is a pyarrow table of `COLUMNS`. Of each log only what it has is used: DIGINETICA has sessions for users and
weeks for times, so its rows get the day that their place in the week falls on; MovieLens has ratings only, and
MovieLens 1M no times at all.

Poison: `share` of the batch's rows (from .05 to .2), instead of as many random rows or on top of all.

- bots: 5 new accounts, each writing its part at one pace (a gap between .2 and 5 s, ±20 %) on items drawn uniformly
  from the catalogue, with behaviours and values as the batch has them.
- one user: one of the batch's users also stands on rows that look like the batch's (its items, times, values): an id
  that a client gives to everybody.
- label flips: ratings r become lowest + highest − r; without ratings views and purchases, clicks and carts change
  places. Always in place: a flip adds no row.
- popularity bomb: many users, half of them the batch's and half new, praise one item of the catalogue.
"""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from relations.errors import DataRejected
from relations.schemas import EVENTS, TIME
from simulation.funnel import STEPS
from simulation.marketplace import Marketplace
from simulation.parameters import Parameters

COLUMNS: tuple[str, ...] = ("user", "item_id", "behaviour", "value", "event_time", "received_time", "delivery_id")
SCHEMA = pa.schema([EVENTS.field(name).with_nullable(True) for name in COLUMNS])
KINDS: tuple[str, ...] = ("bots", "one user", "label flips", "popularity bomb")
BOTS = 5
_SWAPS = {"view": "purchase", "purchase": "view", "click": "cart", "cart": "click"}
_DAY_US, _HOUR_US, _SECOND_US = 86_400_000_000, 3_600_000_000, 1_000_000


def movielens(folder: Path) -> pa.Table:
    """`u.data` in time order."""
    rows = np.loadtxt(folder / "ml-100k" / "u.data", dtype=np.int64, delimiter="\t")
    rows = rows[np.argsort(rows[:, 3], kind="stable")]
    return _table(rows[:, 0], rows[:, 1], "rating", rows[:, 2], rows[:, 3] * _SECOND_US)


def movielens_1m(folder: Path) -> pa.Table:
    """Users one after another, each in their own order (the file has no more): 6,040 users over as many days."""
    rows = pq.read_table(folder / "ml-1m" / "ratings_ordered.parquet").sort_by(
        [("user_id", "descending"), ("pos", "ascending")]
    )
    user = rows.column("user_id").to_numpy()
    day = np.unique(-user, return_inverse=True)[1]
    return _table(user, rows.column("item_id").to_numpy(), "rating", rows.column("rating").to_numpy(), day * _DAY_US)


def amazon(folder: Path) -> pa.Table:
    rows = pq.read_table(folder / "amazon2023" / "interactions.parquet").sort_by("timestamp")
    time_us = rows.column("timestamp").cast(pa.int64()).to_numpy() * 1_000
    users, items = (rows.column(name).to_pylist() for name in ("user_id", "item_id"))
    return _table(users, items, "rating", rows.column("rating").to_numpy(), time_us)


def diginetica(folder: Path) -> pa.Table:
    """Clicks of all weeks. A row's time is midnight of the day that its place in its week falls on."""
    parts, times = [], []
    for week in range(17):
        file = folder / "diginetica-weeks" / f"period_{week}.txt.gz"
        part = np.array(gzip.decompress(file.read_bytes()).split(), dtype=np.int64).reshape(-1, 2)
        day = np.arange(len(part)) * 7 // max(len(part), 1)
        parts.append(part)
        times.append((week * 7 + day) * _DAY_US)
    rows = np.concatenate(parts)
    return _table(rows[:, 0], rows[:, 1], "click", None, np.concatenate(times))


def marketplace(*, seed: int, days: int, parameters: Parameters | None = None) -> list[pa.Table]:
    """One batch a simulated day."""
    market = Marketplace(parameters, seed=seed)
    start_us = round(market.parameters.start.timestamp()) * _SECOND_US
    batches = []
    for day in range(days):
        events = market.events(day)
        names = np.array(STEPS, dtype=object)[events.behaviour_E]
        users = [market.people.ids[user] for user in events.user_E.tolist()]
        items = [market.catalogue.ids[item] for item in events.item_E.tolist()]
        batches.append(_table(users, items, names, events.value_E, start_us + events.time_us_E))
    return [delivered(batch, number) for number, batch in enumerate(batches)]


def cut(log: pa.Table, *, rows: int, offset: int = 0) -> list[pa.Table]:
    """The log in batches of `rows`, in its order, from row `offset` on; what is left at the end is left out."""
    starts = range(offset, log.num_rows - rows + 1, rows)
    return [delivered(log.slice(at, rows), number) for number, at in enumerate(starts)]


def delivered(batch: pa.Table, number: int) -> pa.Table:
    """Delivery `number`, received an hour after its newest event."""
    newest = pc.max(batch.column("event_time")).cast(pa.int64()).as_py()
    received = pa.array(np.full(batch.num_rows, newest + _HOUR_US)).cast(TIME)
    return _with(batch, received_time=received, delivery_id=[f"d{number}"] * batch.num_rows)


@dataclass(frozen=True)
class Poison:
    kind: str
    share: float
    added: bool
    """On top of the batch, not instead of as many of its rows."""


def poisoned(batch: pa.Table, poison: Poison, *, catalogue: Sequence[str], rng: np.random.Generator) -> pa.Table:
    """A copy with poison in it, in time order. Raises DataRejected for an unknown kind."""
    if poison.kind not in KINDS:
        raise DataRejected(f"poison {poison.kind!r}: known are {', '.join(KINDS)}")
    rows = round(poison.share * batch.num_rows)
    if poison.kind == "label flips":
        return _flipped(batch, rows, rng)
    make = {"bots": _bots, "one user": _one_user, "popularity bomb": _bomb}[poison.kind]
    extra = make(batch, rows, catalogue, rng)
    kept = batch
    if not poison.added:
        kept = batch.take(np.sort(rng.permutation(batch.num_rows)[rows:]))
    return pa.concat_tables([kept, extra.cast(SCHEMA)]).sort_by("event_time")


def _bots(batch: pa.Table, rows: int, catalogue: Sequence[str], rng: np.random.Generator) -> pa.Table:
    time_us = batch.column("event_time").cast(pa.int64()).to_numpy()
    dated = bool((time_us % _DAY_US == 0).all())
    account, fleet = np.sort(np.arange(rows) % BOTS), f"bot {rng.integers(1 << 60)}"
    times = np.empty(rows, dtype=np.int64)
    for bot in range(BOTS):
        mine = account == bot
        gap = np.exp(rng.uniform(np.log(0.2), np.log(5.0))) * rng.uniform(0.8, 1.2, int(mine.sum()))
        times[mine] = rng.integers(time_us.min(), time_us.max() + 1) + (np.cumsum(gap) * _SECOND_US).astype(np.int64)
    if dated:
        times -= times % _DAY_US
    times = np.minimum(times, time_us.max())
    alike = batch.take(rng.integers(0, batch.num_rows, rows))
    return _with(
        alike,
        user=[f"{fleet} {bot}" for bot in account.tolist()],
        item_id=[catalogue[item] for item in rng.integers(0, len(catalogue), rows).tolist()],
        event_time=pa.array(times).cast(TIME),
    )


def _one_user(batch: pa.Table, rows: int, catalogue: Sequence[str], rng: np.random.Generator) -> pa.Table:
    user = batch.column("user")[int(rng.integers(batch.num_rows))].as_py()
    return _with(batch.take(rng.integers(0, batch.num_rows, rows)), user=[user] * rows)


def _bomb(batch: pa.Table, rows: int, catalogue: Sequence[str], rng: np.random.Generator) -> pa.Table:
    alike = batch.take(rng.integers(0, batch.num_rows, rows))
    new = rng.random(rows) < 0.5
    users = [f"new {rng.integers(1 << 60)}" if one else user for one, user in zip(new, _said(alike), strict=True)]
    value = alike.column("value")
    best = pa.array(np.full(rows, pc.max(batch.column("value")).as_py() or np.nan), from_pandas=True)
    item = catalogue[int(rng.integers(len(catalogue)))]
    return _with(alike, user=users, item_id=[item] * rows, value=pc.if_else(pc.is_valid(value), best, value))


def _said(batch: pa.Table) -> list[str]:
    users: list[str] = batch.column("user").to_pylist()
    return users


def _flipped(batch: pa.Table, rows: int, rng: np.random.Generator) -> pa.Table:
    behaviour = np.array(batch.column("behaviour").to_pylist(), dtype=object)
    value = batch.column("value").to_numpy().copy()
    rating = np.flatnonzero(behaviour == "rating")
    if len(rating) >= batch.num_rows / 2:
        chosen = rng.permutation(rating)[:rows]
        value[chosen] = value[rating].min() + value[rating].max() - value[chosen]
        return _with(batch, value=pa.array(value, from_pandas=True))
    can = np.flatnonzero(np.isin(behaviour, list(_SWAPS)))
    chosen = rng.permutation(can)[:rows]
    behaviour[chosen] = [_SWAPS[name] for name in behaviour[chosen].tolist()]
    return _with(batch, behaviour=behaviour.tolist())


def _with(batch: pa.Table, **columns: object) -> pa.Table:
    for name, values in columns.items():
        batch = batch.set_column(COLUMNS.index(name), SCHEMA.field(name), pa.array(values, SCHEMA.field(name).type))
    return batch


def _table(users: object, items: object, behaviour: object, value: object, time_us: np.ndarray) -> pa.Table:
    rows = len(time_us)
    names = [behaviour] * rows if isinstance(behaviour, str) else list(behaviour)  # type: ignore[call-overload]
    values = pa.nulls(rows, pa.float64()) if value is None else pa.array(np.asarray(value, float), from_pandas=True)
    moment = pa.array(time_us).cast(TIME)
    texts = [pa.array([str(one) for one in np.asarray(column).tolist()]) for column in (users, items)]
    return pa.table([*texts, pa.array(names), values, moment, moment, pa.nulls(rows, pa.string())], schema=SCHEMA)
