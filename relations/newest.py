"""The newest of each user and item, as Ibis expressions: what serving goes by."""

from datetime import datetime

import ibis

from relations.sequences import moment

COLUMNS = ("user", "event_id", "item_id", "behaviour", "event_time")


def newest_events(events: ibis.Table, *, per_user: int) -> ibis.Table:
    """At most `per_user` events on items a user, those last in (event_time, event_id). Columns: COLUMNS."""
    events = events.filter(events.item_id.notnull()).select(*COLUMNS)  # a search has no item
    newest_first = ibis.window(group_by=events.user, order_by=[events.event_time.desc(), events.event_id.desc()])
    ranked = events.mutate(rank=ibis.row_number().over(newest_first))
    return ranked.filter(ranked["rank"] < per_user).select(*COLUMNS)


def withdrawn(items: ibis.Table) -> ibis.Table:
    """The items (one column, `item_id`) that their newest state, by `valid_from`, calls not available."""
    newest = items.group_by("item_id").agg(available=items.available.argmax(items.valid_from))
    return newest.filter(~newest.available).select("item_id")


def states_now(items: ibis.Table, *, as_of: datetime) -> ibis.Table:
    """Each item's state at `as_of`: its row with the latest `valid_from` until then, that instant included.

    One row an item, ordered by `item_id`: item_id, available, price, categories. Raises ValueError for a naive `as_of`.
    """
    begun = items.filter(items.valid_from <= moment(as_of, name="as_of"))
    newest_first = ibis.window(group_by=begun.item_id, order_by=begun.valid_from.desc())
    ranked = begun.mutate(rank=ibis.row_number().over(newest_first))
    states = ranked.filter(ranked["rank"] == 0).select("item_id", "available", "price", "categories")
    return states.order_by("item_id")


def next_state(items: ibis.Table, *, after: datetime) -> ibis.Scalar:
    """When the first state of an item begins that has not begun at `after`; null where all have."""
    return items.filter(items.valid_from > moment(after, name="after")).valid_from.min()
