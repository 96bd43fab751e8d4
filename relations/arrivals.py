"""What has arrived since a model was trained, as Ibis expressions.

A model's lineage names the version of the events table and a cutoff: it was trained on the rows of that version
strictly before the cutoff. All other rows are new to it: those held out then, those that came later, and late ones.
"""

from datetime import UTC, datetime, timedelta

import ibis

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def trained_on(events_then: ibis.Table, *, cutoff_us: int) -> ibis.Table:
    """Rows of the model's own version before its cutoff (microseconds since the epoch, UTC)."""
    cutoff = ibis.literal(EPOCH + timedelta(microseconds=cutoff_us), type="timestamp('UTC', 6)")
    return events_then.filter(events_then.event_time < cutoff)


def unseen(events_now: ibis.Table, events_then: ibis.Table, *, cutoff_us: int) -> ibis.Table:
    """Rows of `events_now` that the model was not trained on, by `event_id`."""
    return events_now.anti_join(trained_on(events_then, cutoff_us=cutoff_us), "event_id")
