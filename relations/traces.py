"""What a lake knows of some users, as Ibis expressions."""

import ibis

from relations.arrivals import arrivals


def rows_of(rows: ibis.Table, users: ibis.Table) -> ibis.Table:
    """The rows of `rows` that are of one of `users` (one column, `user`)."""
    return rows.semi_join(users, "user")


def sightings(events: ibis.Table, deliveries: ibis.Table, users: ibis.Table) -> ibis.Table:
    """When events of `users` came in: `arrived` (a version of the events table) and `first`, the oldest event's time.

    A model of events version v and cutoff t was trained on one of them exactly if a row has arrived ≤ v and first < t.
    """
    seen = arrivals(rows_of(events, users), deliveries)
    return seen.group_by("arrived").agg(first=seen.event_time.min()).order_by("arrived")
