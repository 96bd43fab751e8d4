"""A user's behaviour as one ordered sequence, as an Ibis expression: DuckDB here, Spark or a warehouse elsewhere."""

from collections.abc import Sequence
from datetime import UTC, datetime

import ibis

COLUMNS = ("user", "item_id", "behaviour", "event_time", "value")


def user_histories(events: ibis.Table, *, before: datetime | None = None, also: Sequence[str] = ()) -> ibis.Table:
    """Events on items in the order of learning: by user, then (event_time, event_id). Columns: COLUMNS and `also`.

    `before` keeps events strictly earlier; it must carry a time zone, because a naive time would silently be read
    in the backend's own zone. Raises ValueError for a naive `before`.
    """
    if before is not None:
        events = events.filter(events.event_time < moment(before, name="before"))
    events = events.filter(events.item_id.notnull())  # a search has none
    ordered = events.order_by([events.user, events.event_time, events.event_id])
    return ordered.select(*COLUMNS, *also)


def moment(time: datetime, *, name: str) -> ibis.Scalar:
    """`time` as a literal of the tables' own time type. Raises ValueError, with `name`, for a naive time."""
    if time.tzinfo is None:
        raise ValueError(f"{name} = {time.isoformat()} has no time zone; pass a UTC datetime")
    return ibis.literal(time.astimezone(UTC), type="timestamp('UTC', 6)")
