"""What was known at a time: attributes, histories and labels as of each event, as Ibis expressions.

Only operations that DuckDB and Spark both have: validity intervals in place of an as-of join, positions in place of
range frames, and arrays of structs that are sorted after they are collected in place of an ordered collection.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import ibis

from relations.sequences import moment

_OPEN_END = datetime(9999, 1, 1, tzinfo=UTC)
ITEM_COLUMNS = ("title", "categories", "price", "attributes", "available")
USER_COLUMNS = ("attributes",)


def with_state(
    events: ibis.Table, states: ibis.Table, *, key: str, columns: Sequence[str], prefix: str, time: str = "event_time"
) -> ibis.Table:
    """`events` with what `states` said of their `key` at their `time`, as columns `<prefix><column>`.

    A state holds from its `valid_from`, that instant included, until the next state of the same key. Null before the
    first one. One row an event, in no order; states are unique by (key, valid_from).
    """
    until = states.valid_from.lead().over(ibis.window(group_by=states[key], order_by=states.valid_from))
    # An open end as a value keeps the join's conditions comparisons, which hash joins know how to check.
    spans = states.mutate(_until=until.fill_null(moment(_OPEN_END, name="end"))).select(
        _key=states[key],
        _from=states.valid_from,
        _until=ibis._["_until"],
        **{f"{prefix}{name}": states[name] for name in columns},
    )
    found = events.left_join(
        spans, [events[key] == spans["_key"], spans["_from"] <= events[time], events[time] < spans["_until"]]
    )
    return found.drop("_key", "_from", "_until")


def with_attributes(events: ibis.Table, items: ibis.Table, users: ibis.Table) -> ibis.Table:
    """`events` with the attributes of item (`item_…`) and user (`user_attributes`) as of each event's own time."""
    described = with_state(events, items, key="item_id", columns=ITEM_COLUMNS, prefix="item_")
    return with_state(described, users, key="user", columns=USER_COLUMNS, prefix="user_")


def training_rows(
    events: ibis.Table,
    items: ibis.Table,
    users: ibis.Table,
    *,
    as_of: datetime,
    length: int = 50,
    without: str = "dislike",
) -> ibis.Table:
    """One row a target, with nothing in it that was not known when the target happened.

    A target is an event on an item strictly before `as_of`, whatever its behaviour but `without`. Its `history` holds
    the user's newest `length` events on items strictly earlier than the target's own time, events of the same instant
    left out as serving would not have seen them, oldest first by (event_time, event_id), dislikes included; null where
    there is none. Attributes are those of `with_attributes`. Raises ValueError for a naive `as_of`.

    Columns: event_id, user, item_id, behaviour, value, event_time, history (array of structs: place, the event's
    position among all of its user's, item_id, behaviour, event_time, value), item_…, user_attributes.
    """
    past = events.filter((events.event_time < moment(as_of, name="as_of")) & events.item_id.notnull())
    placed = past.mutate(
        place=ibis.row_number().over(ibis.window(group_by="user", order_by=[past.event_time, past.event_id])),
        # rank: how many of the user's events are strictly earlier, the same for all events of one instant
        earlier=ibis.rank().over(ibis.window(group_by="user", order_by=past.event_time)),
    )
    targets = placed.filter(placed.behaviour != without)
    shown = placed.select(
        _user=placed.user,
        _place=placed.place,
        _step=ibis.struct({name: placed[name] for name in ("place", "item_id", "behaviour", "event_time", "value")}),
    )
    wanted = targets.select("event_id", "user", "earlier")
    pairs = wanted.inner_join(
        shown,
        [wanted.user == shown["_user"], shown["_place"] < wanted.earlier, shown["_place"] >= wanted.earlier - length],
    )
    histories = pairs.group_by("event_id").agg(history=pairs["_step"].collect().sort())
    rows = targets.select("event_id", "user", "item_id", "behaviour", "value", "event_time")
    rows = rows.left_join(histories, "event_id").drop("event_id_right")
    return with_attributes(rows, items, users)
