"""The newest state of each item, from the items table."""

from collections.abc import Collection
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from relations.errors import DataRejected
from stores.lake import Lake


def newest_items(lake: Lake, version: int, columns: Collection[str], *, as_of: datetime | None = None) -> pa.Table:
    """These columns of the items table at `version` (below 0: now), one row an item: its newest state, by id.

    `as_of`: the newest that had begun by then, that moment included. `item_id` and `valid_from` are among the columns.
    Raises DataRejected for an empty table.
    """
    wanted = sorted({"item_id", "valid_from", *columns})
    rows = lake.read("items", version=None if version < 0 else version, columns=wanted)
    if not len(rows):
        raise DataRejected(
            "items: none are described yet, but [modalities] want it; `ratchet ingest --kind items FILE`"
        )
    return last_states(rows if as_of is None else rows.filter(begun(rows, as_of=as_of)))


def begun(rows: pa.Table, *, as_of: datetime) -> pa.ChunkedArray:
    """Which of the states had begun by then."""
    return pc.less_equal(rows["valid_from"], pa.scalar(as_of, rows["valid_from"].type))


def last_states(rows: pa.Table) -> pa.Table:
    """Of each item the row with the latest `valid_from`, by id."""
    rows = rows.sort_by([("item_id", "ascending"), ("valid_from", "ascending")])
    if not len(rows):
        return rows
    ids = rows["item_id"].combine_chunks()
    last = pc.not_equal(ids[:-1], ids[1:]).to_pylist()
    return rows.filter(pa.array([*last, True]))
