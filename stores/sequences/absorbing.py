"""From the lake's rows to sequences: what is new, in codes, merged where it belongs in time.

Shapes: N events, U users.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from model.sequences import BEHAVIOUR_NAMES
from relations.arrivals import arrivals, newest_version
from relations.errors import DataRejected
from relations.schemas import ITEM_BEHAVIOURS
from relations.sequences import user_histories
from stores.lake import Lake
from stores.sequences.segments import COLUMNS, TEXT, Rows, flat

if TYPE_CHECKING:
    import ibis

NO_TABLE = ""
# Operations that leave every row as it was. Any other one, and one that is not known here, means a rebuild.
_HARMLESS = ("CREATE TABLE", "OPTIMIZE", "VACUUM START", "VACUUM END", "SET TBLPROPERTIES", "ADD COLUMN")


@dataclass(frozen=True)
class Source:
    """The lake at one moment. `version`: the events table's own, with `rows`; `newest`: that of its last finished
    delivery."""

    arrived: "ibis.Table"
    table: str
    version: int
    rows: int
    newest: int
    _delta: DeltaTable | None

    @staticmethod
    def of(lake: Lake) -> "Source":
        path = str(lake.root / "events")
        delta = DeltaTable(path) if lake.version("events") >= 0 else None
        deliveries = lake.relation("deliveries")  # before the events, which then hold all of each delivery in it
        newest = int(newest_version(deliveries).to_pyarrow().as_py())
        return Source(
            arrived=arrivals(lake.relation("events"), deliveries),
            table=NO_TABLE if delta is None else str(delta.metadata().id),
            version=-1 if delta is None else int(delta.version()),
            rows=0 if delta is None else _rows(delta),
            newest=newest,
            _delta=delta,
        )

    def rewritten(self, *, table: str, since: int) -> bool:
        """Whether anything but appends can have happened to the events table after its version `since`.

        True also where the table's log does not reach back that far, or is another table's.
        """
        if self.table != table or self.version < since:
            return True
        if self._delta is None or self.version == since:
            return False
        entries = self._delta.history(limit=self.version - since)
        return len(entries) < self.version - since or not all(_grows(entry) for entry in entries)

    def since(self, absorbed: int) -> pa.Table:
        """Events on items of the deliveries after the events version `absorbed`, in the order of sequences."""
        return self._ordered(self.arrived.filter(self.arrived.arrived > absorbed)).to_pyarrow()

    def batches(self, rows: int) -> Iterator[pa.RecordBatch]:
        """All of them, in runs of about `rows`, so that a large log is never in memory whole."""
        yield from self._ordered(self.arrived).to_pyarrow_batches(chunk_size=rows)

    def _ordered(self, events: "ibis.Table") -> "ibis.Table":
        return user_histories(events.filter(events.arrived <= self.newest), also=("event_id", "arrived"))


class Codes:
    """The list of items, to which what is not in it yet is appended: a code once given stays."""

    def __init__(self, known: pa.Array) -> None:
        self.items = known
        self._before = len(known)

    @property
    def added(self) -> pa.Array:
        return self.items.slice(self._before)

    def of(self, column: pa.ChunkedArray) -> np.ndarray:
        """The code of each row's item (int32)."""
        encoded = flat(column).cast(TEXT).dictionary_encode()
        code = pc.index_in(encoded.dictionary, value_set=self.items)
        new = encoded.dictionary.filter(code.is_null())
        code_D = np.array(pc.fill_null(code, -1))
        code_D[code_D < 0] = len(self.items) + np.arange(len(new))
        self.items = pa.concat_arrays([self.items, new])
        return np.asarray(code_D[np.asarray(encoded.indices)], dtype=np.int32)


def rows_of(events: pa.Table, codes: Codes) -> Rows:
    """Ordered events as rows. Raises DataRejected for a behaviour that `relations.schemas` does not know."""
    users = flat(events["user"]).dictionary_encode()  # sorted, so that the dictionary is in the order of the rows
    behaviours = flat(events["behaviour"]).dictionary_encode()
    names = behaviours.dictionary.to_pylist()
    unknown = sorted(set(names) - set(ITEM_BEHAVIOURS))
    if unknown:
        raise DataRejected(f"events: behaviour {unknown[0]!r} is not one of {', '.join(ITEM_BEHAVIOURS)}")
    behaviour_D = np.array([BEHAVIOUR_NAMES.index(name) for name in names], dtype=np.int8)
    found = {
        "item": codes.of(events["item_id"]),
        "behaviour": behaviour_D[np.asarray(behaviours.indices)] if len(events) else behaviour_D,
        "time": np.asarray(flat(events["event_time"]).cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())),
        "value": flat(events["value"]).to_numpy(zero_copy_only=False),
        "arrived": np.asarray(flat(events["arrived"])),
    }
    return Rows(
        np.array([user.encode() for user in users.dictionary.to_pylist()], dtype="S"),
        np.bincount(np.asarray(users.indices), minlength=len(users.dictionary)),
        {name: values.astype(COLUMNS[name], copy=False) for name, values in found.items()},
        flat(events["event_id"]).cast(TEXT),
        np.arange(len(events)),
    )


def merged(old: Rows, new: Rows) -> Rows:
    """The sequences of `new`'s users with what `old` has of them; `old` has no other users.

    In the order of (event time, event id), so that a late event stands where it would have stood in time.
    """
    place_U = np.searchsorted(new.user_U, old.user_U)
    user_N = np.concatenate([np.repeat(place_U, old.count_U), np.repeat(np.arange(len(new.user_U)), new.count_U)])
    time_N = np.concatenate([old.columns["time"], new.columns["time"]])
    ids, id_N = pa.concat_arrays([old.ids, new.ids]), np.concatenate([old.id_N, len(old.ids) + new.id_N])
    order_N = np.lexsort([time_N, user_N])
    tied_N = (np.diff(user_N[order_N]) == 0) & (np.diff(time_N[order_N]) == 0)
    if tied_N.any():  # both parts are in order already, so only an instant that both have events of needs the ids
        part = np.flatnonzero(np.append(tied_N, False) | np.insert(tied_N, 0, False))
        chosen = order_N[part]
        rank = np.empty(len(chosen), dtype=np.int64)
        rank[np.asarray(pc.array_sort_indices(ids.take(pa.array(id_N[chosen]))))] = np.arange(len(chosen))
        order_N[part] = chosen[np.lexsort([rank, time_N[chosen], user_N[chosen]])]
    columns = {name: np.concatenate([old.columns[name], new.columns[name]])[order_N] for name in COLUMNS}
    return Rows(new.user_U, np.bincount(user_N, minlength=len(new.user_U)), columns, ids, id_N[order_N])


def _grows(entry: dict[str, object]) -> bool:
    said = entry.get("operationParameters")
    mode = said.get("mode") if isinstance(said, dict) else None
    return entry.get("operation") in _HARMLESS or (entry.get("operation") == "WRITE" and mode == "Append")


def _rows(table: DeltaTable) -> int:
    """As the log counts them: no file is opened. A file of which it does not say counts none."""
    return sum(count or 0 for count in pa.table(table.get_add_actions()).column("num_records").to_pylist())
