"""Deduplication: how each row of a batch stands against the rows that share its key.

`new`: no other row has this key, or of equal rows this is the first. `duplicate`: says what the kept row says.
`conflict`: has the kept row's key and says something else, so one of the two is wrong.

The kept row is the one the table already has, else the one of the batch whose content digest is smallest: never the
first in file order, so that a shuffled batch keeps the same rows.
"""

import ibis

NEW, DUPLICATE, CONFLICT = "new", "duplicate", "conflict"


def standings(rows: ibis.Table, known: ibis.Table) -> ibis.Table:
    """`rows` (row, key, content) against `known` (key, content) → (row, standing), in row order."""
    kept = known.group_by("key").agg(kept=known.content.min())
    joined = rows.left_join(kept, "key")
    joined = joined.select("row", "key", "content", "kept")
    same_key = ibis.window(group_by=joined.key)
    first = ibis.row_number().over(ibis.window(group_by=joined.key, order_by=[joined.content, joined.row]))
    judged = joined.mutate(
        first=first,
        winner=ibis.coalesce(joined.kept, joined.content.min().over(same_key)),
    )
    standing = ibis.cases(
        (judged.kept.isnull() & (judged.first == 0), NEW),
        (judged.content == judged.winner, DUPLICATE),
        else_=CONFLICT,
    )
    return judged.select(row=judged.row, standing=standing).order_by("row")


def item_counts(events: ibis.Table, *, since: ibis.Value, without: str = "dislike") -> ibis.Table:
    """Events an item since `since` → (item_id, count), most first, ties by item_id; `without` does not recommend."""
    recent = events.filter((events.event_time >= since) & (events.behaviour != without) & events.item_id.notnull())
    return recent.group_by("item_id").agg(count=recent.count()).order_by([ibis.desc("count"), "item_id"])
