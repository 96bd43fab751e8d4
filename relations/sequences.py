"""A user's behaviour as one ordered sequence, as an Ibis expression: DuckDB here, Spark or a warehouse elsewhere."""

from datetime import UTC, datetime

import ibis

COLUMNS = ("user", "item_id", "behaviour", "event_time", "value")


def user_histories(events: ibis.Table, *, before: datetime | None = None) -> ibis.Table:
    """Events on items in the order of learning: by user, then (event_time, event_id).

    `before` keeps events strictly earlier; it must carry a time zone, because a naive time would silently be read
    in the backend's own zone. Raises ValueError for a naive `before`.
    """
    if before is not None:
        if before.tzinfo is None:
            raise ValueError(f"before = {before.isoformat()} has no time zone; pass a UTC datetime")
        events = events.filter(events.event_time < ibis.literal(before.astimezone(UTC), type="timestamp('UTC', 6)"))
    events = events.filter(events.item_id.notnull())  # a search has none
    ordered = events.order_by([events.user, events.event_time, events.event_id])
    return ordered.select(*COLUMNS)
