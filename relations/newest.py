"""The newest of each user and item, as Ibis expressions: what serving goes by."""

import ibis

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
