"""What serving learns from an ingest: the users' newest events, and what is popular."""

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from relations.errors import DependencyFailed
from stores.delivery import ingest_lock
from stores.home import Home
from stores.lake import Lake
from stores.popularity import publish
from stores.settings import Settings
from stores.user_state import UserState

POPULARITY_DAYS = 7.0
KEPT = 200
"""Events of a user that serving looks back on."""
_BATCH = 65_536


def refresh_serving(home: Home, settings: Settings, deliveries: Sequence[str] = ()) -> int:
    """Bring serving's user state and popularity list up to the events table; returns the rows absorbed.

    Works from a mark of the last events version absorbed, so that a refresh lost to a kill is made up by the next;
    `deliveries` are absorbed whatever the mark says. Idempotent, by event id. Popularity counts the
    `POPULARITY_DAYS` before the newest event. Under the ingest lock: between reading the events and absorbing them no
    user may be forgotten.
    """
    with ingest_lock(home):
        return _refresh(home, settings, deliveries)


def _refresh(home: Home, settings: Settings, deliveries: Sequence[str]) -> int:
    from relations.arrivals import since
    from relations.newest import newest_events

    lake = Lake.of(home, settings.lake)
    mark = home.serving / "absorbed.json"
    version = lake.version("events")
    absorbed = _absorbed(mark) if home.user_state.exists() else -1
    if version < 0 or (version == absorbed and not deliveries and home.popularity.exists()):
        return 0
    events = lake.relation("events")
    new = since(events, lake.relation("deliveries"), version=absorbed, also=deliveries) if absorbed >= 0 else events
    fresh = newest_events(new, per_user=KEPT)
    state = UserState(home.user_state, keep=KEPT)
    rows = 0
    try:
        for batch in fresh.to_pyarrow_batches(chunk_size=_BATCH):
            times = batch.column("event_time").cast(pa.int64())
            names = ("user", "event_id", "item_id", "behaviour")
            state.absorb(zip(*(batch.column(name).to_pylist() for name in names), times.to_pylist(), strict=True))
            rows += batch.num_rows
    finally:
        state.close()
    publish(home.popularity, _popular(lake))
    temporary = mark.with_suffix(".part")
    try:
        temporary.write_text(json.dumps({"events": version}))
        temporary.replace(mark)
    except OSError as error:
        raise DependencyFailed(f"{mark}: cannot be written: {error.strerror}; make space, then repeat") from error
    return rows


def _absorbed(mark: Path) -> int:
    try:
        return int(json.loads(mark.read_text())["events"])
    except (OSError, ValueError, KeyError, TypeError):
        return -1  # absorbing again changes nothing


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
