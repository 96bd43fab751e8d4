"""Deduplication: how each row of a batch stands against the rows that share its key.

`new`: no other row has this key, or of equal rows this is the first. `duplicate`: says what the kept row says.
`conflict`: has the kept row's key and says something else, so one of the two is wrong.

The kept row is the one the table already has, else the one of the batch whose content digest is smallest: never the
first in file order, so that a shuffled batch keeps the same rows.
"""

from collections.abc import Sequence

import ibis

NEW, DUPLICATE, CONFLICT = "new", "duplicate", "conflict"


def keyed(rows: ibis.Table, key: Sequence[str], *also: str) -> ibis.Table:
    """(key, *also): the columns `key` as one text that differs where they differ. A single column stays as it is."""
    if len(key) == 1:
        return rows.select(rows[key[0]].name("key"), *also)
    parts = [_escaped(_text(rows[name])) for name in key]
    return rows.select(ibis.literal("\x1f").join(parts).name("key"), *also)


def contested(rows: ibis.Table, known: ibis.Table) -> ibis.Table:
    """Of `rows` (key, row), those whose key another row has, in the batch or in `known` (key).

    Keys are compared by a 64-bit hash: memory is 16 bytes a row whatever the ids look like, and a collision only
    brings a row in whose standing is then found to be `new`.
    """
    rows = rows.mutate(mark=rows.key.hash())
    repeated = rows.group_by("mark").having(rows.count() > 1).agg(n=rows.count()).select("mark")
    seen = rows.semi_join(known.select(mark=known.key.hash()), "mark").select("mark").distinct()
    return rows.semi_join(ibis.union(repeated, seen), "mark").select("key", "row")


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


def newly_held(failed: ibis.Table, held: ibis.Table) -> ibis.Table:
    """Rows (row) of `failed` (row, user, raw) that the quarantine `held` (user, raw) does not hold yet.

    A row that a batch has k times is held k times, ever: of equal ones the first are held already.
    """
    failed, held = (each.mutate(user=ibis.coalesce(each.user, "")) for each in (failed, held))
    before = held.group_by(["user", "raw"]).agg(before=held.count())
    nth = ibis.row_number().over(ibis.window(group_by=[failed.user, failed.raw], order_by=failed.row))
    counted = failed.mutate(nth=nth).left_join(before, ["user", "raw"]).select("row", "nth", "before")
    return counted.filter(counted.nth >= ibis.coalesce(counted.before, 0)).select("row").order_by("row")


def item_counts(events: ibis.Table, *, since: ibis.Value, without: str = "dislike") -> ibis.Table:
    """Events an item since `since` → (item_id, count), most first, ties by item_id; `without` does not recommend."""
    recent = events.filter((events.event_time >= since) & (events.behaviour != without) & events.item_id.notnull())
    return recent.group_by("item_id").agg(count=recent.count()).order_by([ibis.desc("count"), "item_id"])


def _text(value: ibis.Value) -> ibis.Value:
    """A time as text without its zone, which DuckDB writes and Spark does not; both stand at UTC."""
    return (value.cast("timestamp") if value.type().is_timestamp() else value).cast("string")


def _escaped(text: ibis.Value) -> ibis.Value:
    return text.replace("\x1d", "\x1d1d").replace("\x1f", "\x1d1f")
