"""What serving learns from an ingest: the users' newest events, what is popular, and facts for those who watch it."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from relations.errors import DataRejected, DependencyFailed, RatchetError
from relations.held import broken_since
from stores import facts
from stores.clock import home_now
from stores.delivery import ingest_lock
from stores.facts import FATES, Arrival, Broken, Facts, Hold
from stores.home import Home
from stores.lake import Lake
from stores.ledger import Ledger
from stores.popularity import publish
from stores.settings import Settings
from stores.user_states import KEPT, UserState, open_user_state
from tasks.publishing import publish_catalogue

POPULARITY_DAYS = 7.0
MOST_ARRIVALS, MOST_BROKEN = 50, 10
_BATCH = 65_536
_LOG = logging.getLogger(__name__)


def refresh_serving(home: Home, settings: Settings, deliveries: Sequence[str] = ()) -> int:
    """Bring serving's catalogue, user state and popularity list up to the tables; returns the events absorbed.

    Works from a mark of the last events version absorbed, so that a refresh lost to a kill is made up by the next;
    `deliveries` are absorbed whatever the mark says. Idempotent, by event id. Popularity counts the
    `POPULARITY_DAYS` before the newest event. Under the ingest lock: between reading the events and absorbing them no
    user may be forgotten. A Redis that is down is told by the next refresh.
    """
    with ingest_lock(home):
        publish_catalogue(home, settings, now=home_now(home, settings))
        rows = _refresh(home, settings, deliveries)
    publish_facts(home, settings)
    return rows


def publish_facts(home: Home, settings: Settings) -> Facts:
    """Write `facts.json` as of the home's clock: the state of the data, since when the open trial is held, and the
    states of trials.

    With the ledger's database down what was told of trials before stands: an ingest needs no ledger.
    """
    now, lake, former = home_now(home, settings), Lake.of(home, settings.lake), _former_facts(home)
    version = lake.version("events")
    if former is not None and former.events_version == version:
        watermark = former.watermark  # finding it reads every time there is
    else:
        watermark = lake.watermark("events")
    try:
        ledger = Ledger.of(home, settings)
        hold, states = held_since(ledger), trial_states(ledger)
    except RatchetError:
        hold, states = (former.hold, dict(former.trial_states)) if former else (None, {})
    receipts = _receipts(lake)
    rows = _rows_of_a_day(receipts, now)
    told = Facts(now, version, watermark, rows, hold, states, _arrivals(receipts), _broken(lake, receipts, now, rows))
    facts.publish(home.facts, told)
    return told


def held_since(ledger: Ledger) -> Hold | None:
    """The open trial whose newest look was a HOLD, and the time of the first look of that unbroken row."""
    for trial in ledger.trials():
        since = ledger.held_since(trial.id) if trial.is_open else None
        if since is not None:
            return Hold(trial.id, since)
    return None


def trial_states(ledger: Ledger) -> dict[str, datetime]:
    """State → when the newest of the trials in it changed last."""
    found: dict[str, datetime] = {}
    for trial in ledger.trials():
        found[trial.state] = max(trial.changed, found.get(trial.state, trial.changed))
    return found


def _refresh(home: Home, settings: Settings, deliveries: Sequence[str]) -> int:
    lake = Lake.of(home, settings.lake)
    version = lake.version("events")
    if version < 0:
        return 0
    with closing(open_user_state(home, settings)) as state:
        rows, told = 0, False
        try:
            absorbed = state.absorbed()
            if version == absorbed and not deliveries and home.popularity.exists():
                return 0
            rows, told = _absorb(lake, state, absorbed=absorbed, deliveries=deliveries), True
        except DependencyFailed as error:
            if not state.shared:
                raise
            # Serving answers without it, and so must looks at trials go on.
            _LOG.warning("%s; the next ingest makes up for it", error)
        publish(home.popularity, _popular(lake))
        if told:
            state.mark_absorbed(version)
    return rows


def _absorb(lake: Lake, state: UserState, *, absorbed: int, deliveries: Sequence[str]) -> int:
    from relations.arrivals import since
    from relations.newest import newest_events

    events = lake.relation("events")
    new = since(events, lake.relation("deliveries"), version=absorbed, also=deliveries) if absorbed >= 0 else events
    rows = 0
    for batch in newest_events(new, per_user=KEPT).to_pyarrow_batches(chunk_size=_BATCH):
        times = batch.column("event_time").cast(pa.int64())
        names = ("user", "event_id", "item_id", "behaviour")
        state.absorb(zip(*(batch.column(name).to_pylist() for name in names), times.to_pylist(), strict=True))
        rows += batch.num_rows
    return rows


def _former_facts(home: Home) -> Facts | None:
    try:
        return facts.read(home.facts)
    except DataRejected:
        return None  # written anew now


def _receipts(lake: Lake) -> pa.Table:
    """Of all deliveries, newest first."""
    names = ("delivery_id", "source", "kind", "received_time", "state", "validation_result")
    return lake.read("deliveries", columns=[*names, *FATES]).sort_by([("received_time", "descending")])


def _rows_of_a_day(receipts: pa.Table, now: datetime) -> dict[str, int]:
    received = receipts.column("received_time")
    day = receipts.filter(pc.greater(received, pa.scalar(now - timedelta(days=1), received.type)))
    return {fate: pc.sum(day.column(fate)).as_py() or 0 for fate in FATES}


def _arrivals(receipts: pa.Table) -> tuple[Arrival, ...]:
    """The newest receipt of each source and kind; of very many sources those that delivered last."""
    numbered = receipts.append_column("place", pa.array(range(receipts.num_rows), pa.int64()))
    first = numbered.group_by(["source", "kind"]).aggregate([("place", "min")]).column("place_min")
    newest = receipts.take(first.take(pc.sort_indices(first)).slice(0, MOST_ARRIVALS))
    return tuple(
        Arrival(
            source=each["source"],
            kind=each["kind"],
            delivery_id=each["delivery_id"],
            received=each["received_time"],
            state=each["state"],
            rows={fate: each[fate] for fate in FATES},
            page=each["validation_result"] or "",
        )
        for each in newest.to_pylist()
    )


def _broken(lake: Lake, receipts: pa.Table, now: datetime, rows: Mapping[str, int]) -> tuple[Broken, ...]:
    """What most of a day's quarantined rows broke."""
    if not rows["quarantined"]:
        return ()
    found = broken_since(lake.relation("quarantine"), since=now - timedelta(days=1), most=MOST_BROKEN).to_pyarrow()
    named = receipts.filter(pc.is_in(receipts.column("delivery_id"), found.column("delivery_id")))
    pages = dict(zip(*(named.column(name).to_pylist() for name in ("delivery_id", "validation_result")), strict=True))
    return tuple(
        Broken(
            expectation=each["expectation"],
            column=each["column"] or "",
            rows=each["rows"],
            delivery_id=each["delivery_id"],
            page=pages.get(each["delivery_id"]) or "",
        )
        for each in found.to_pylist()
    )


def _popular(lake: Lake) -> Sequence[tuple[str, int]]:
    import ibis

    from relations.newest import withdrawn
    from relations.standing import item_counts

    watermark = lake.watermark("events")
    if watermark is None:
        return []
    since = ibis.literal(watermark - timedelta(days=POPULARITY_DAYS))
    offered = lake.relation("events").anti_join(withdrawn(lake.relation("items")), "item_id")
    counts: pa.Table = item_counts(offered, since=since).to_pyarrow()
    pairs: list[Any] = list(zip(counts.column("item_id").to_pylist(), counts.column("count").to_pylist(), strict=True))
    return pairs
