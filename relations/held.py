"""What rows were held back for: the expectations that they broke, counted, with a delivery to look at."""

from datetime import datetime

import ibis


def broken_since(quarantine: ibis.Table, *, since: datetime, most: int) -> ibis.Table:
    """The `most` expectations that most rows received after `since` broke: expectation, column, rows, delivery_id.

    A row counts once for an expectation and column, whatever became of it. `delivery_id`: the newest that broke it.
    """
    late = quarantine.filter(quarantine.received_time > ibis.literal(since, type="timestamp('UTC', 6)"))
    flat = late.select("delivery_id", "row", "received_time", why=late.reasons.unnest())
    each = flat.select(
        "delivery_id", "row", "received_time", expectation=flat.why["expectation"], column=flat.why["column"]
    ).distinct()
    counted = each.group_by("expectation", "column").aggregate(
        rows=each.count(), delivery_id=each.delivery_id.argmax(each.received_time)
    )
    return counted.order_by(ibis.desc("rows"), "expectation", "column").limit(most)
