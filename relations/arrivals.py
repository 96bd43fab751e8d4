"""What had arrived when: the rows of a table at one of its versions, told by the deliveries' receipts.

A receipt names the version of each table at which its delivery's rows are in. So the rows of version v are those
whose delivery's receipt says at most v. Delta's own time travel cannot be asked: maintenance and `forget` delete the
files of old versions. A delivery without a receipt is not finished, and its rows are not there yet.

A model's lineage names a version of the events table and a cutoff: it was trained on the rows of that version strictly
before the cutoff. All other rows are new to it: those held out then, those that came later, and late ones.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import ibis

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NEVER = -1


def newest_version(deliveries: ibis.Table, *, table: str = "events") -> ibis.Scalar:
    """The newest version of `table` that a receipt names; -1 without one."""
    return _version(deliveries, table).max().fill_null(NEVER)


def arrivals(rows: ibis.Table, deliveries: ibis.Table, *, table: str = "events") -> ibis.Table:
    """`rows` of `table` with `arrived`: the table's version (int64) at which each row was there."""
    receipts = deliveries.select("delivery_id", arrived=_version(deliveries, table))
    return rows.inner_join(receipts, "delivery_id")


def visible(rows: ibis.Table, deliveries: ibis.Table, *, version: int, table: str = "events") -> ibis.Table:
    """The rows of `table` at `version`, less those that have been deleted since."""
    return rows.semi_join(deliveries.filter(_version(deliveries, table) <= version), "delivery_id")


def since(
    rows: ibis.Table, deliveries: ibis.Table, *, version: int, also: Sequence[str] = (), table: str = "events"
) -> ibis.Table:
    """The rows of `table` that came after `version`, and those of the deliveries in `also` whenever they came."""
    later = _version(deliveries, table) > version
    return rows.semi_join(deliveries.filter(later | deliveries.delivery_id.isin(list(also))), "delivery_id")


def trained_on(events: ibis.Table, deliveries: ibis.Table, *, version: int, cutoff_us: int) -> ibis.Table:
    """The events that a model of this lineage was trained on (cutoff: microseconds since the epoch, UTC)."""
    cutoff = ibis.literal(EPOCH + timedelta(microseconds=cutoff_us), type="timestamp('UTC', 6)")
    return visible(events, deliveries, version=version).filter(events.event_time < cutoff)


def _version(deliveries: ibis.Table, table: str) -> ibis.Value:
    return deliveries.table_versions.get(table, ibis.literal(NEVER, type="int64"))
