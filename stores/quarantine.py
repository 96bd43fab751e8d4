"""The quarantine: what was held back and why, which of it can be delivered again, and what became of it.

A row is `open` until a later delivery takes it in (`replayed`) or a person decides against it (`dropped`); it is never
deleted, and `settled_by` says which delivery or who. The legible rows are JSON objects of what their source stated,
with a pseudonym beside them where one could be made; the others are bytes as delivered.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from relations.errors import UsageError
from stores.lake import Lake

OPEN, REPLAYED, DROPPED = "open", "replayed", "dropped"
LEGIBLE = "json"
EXAMPLES = 3
PSEUDONYM = "user"
"""The key of a replayed row's pseudonym; the door takes it for one in a replay."""
_CHUNK = 262_144
_MARKS = ["delivery_id", "row", "kind", "source", "format", "received_time", "state", "settled_by"]


@dataclass(frozen=True)
class Held:
    """One delivery's rows of one fate. `reasons`: (expectation and column, rows), most first."""

    delivery_id: str
    kind: str
    source: str
    rows: int
    reasons: tuple[tuple[str, int], ...]
    state: str = OPEN
    settled_by: str | None = None


@dataclass(frozen=True)
class Explanation:
    """One broken expectation. `message`: of the first row that broke it; `examples`: the first raw rows."""

    expectation: str
    column: str
    rows: int
    message: str
    examples: tuple[bytes, ...]


@dataclass(frozen=True)
class Open:
    """One delivery's open rows: those that can be replayed, and those that cannot, being illegible.

    `named`: how many of the legible ones have a pseudonym.
    """

    delivery_id: str
    kind: str
    source: str
    legible: int
    illegible: int
    named: int


def listing(lake: Lake, *, settled: bool = False) -> list[Held]:
    """Open rows (`settled`: all) by delivery and fate, in the order of arrival."""
    rows = _rows(lake, [*_MARKS, "reasons"], None, settled=settled)
    fate = ["received_time", "delivery_id", "kind", "source", "state", "settled_by"]
    fates = rows.group_by(fate, use_threads=False).aggregate([("row", "count"), ("row", "min")])
    fates = fates.sort_by([(name, "ascending") for name in ("received_time", "delivery_id", "row_min")])
    counted = _broken(rows, fate).group_by([*fate, "expectation", "column"], use_threads=False)
    reasons: dict[tuple[Any, ...], list[tuple[str, int]]] = {}
    for why in counted.aggregate([("place", "count")]).to_pylist():
        place = f"{why['expectation']} {why['column']}".strip()
        reasons.setdefault(tuple(why[name] for name in fate), []).append((place, why["place_count"]))
    return [
        Held(
            delivery_id=found["delivery_id"],
            kind=found["kind"],
            source=found["source"],
            rows=found["row_count"],
            reasons=_most_first(reasons.get(tuple(found[name] for name in fate), [])),
            state=found["state"],
            settled_by=found["settled_by"],
        )
        for found in fates.to_pylist()
    ]


def explain(lake: Lake, delivery_id: str | None = None) -> list[Explanation]:
    """Every broken expectation of a delivery's open rows (None: of all), most rows first."""
    rows = _rows(lake, [*_MARKS, "raw", "reasons"], delivery_id)
    place = ["expectation", "column"]
    wanted = [("place", "count"), ("message", "first"), ("place", "list")]
    counted = _broken(rows, []).group_by(place, use_threads=False).aggregate(wanted).to_pylist()
    return [
        Explanation(
            expectation=why["expectation"],
            column=why["column"],
            rows=why["place_count"],
            message=why["message_first"],
            examples=tuple(rows.column("raw").take(why["place_list"][:EXAMPLES]).to_pylist()),
        )
        for why in sorted(counted, key=lambda why: (-why["place_count"], why["expectation"], why["column"]))
    ]


def show(lake: Lake, delivery_id: str, *, rows: Sequence[int] = (), limit: int) -> tuple[pa.Table, int]:
    """(at most `limit` rows of a delivery, whatever became of them, in order; how many there are)."""
    found = _rows(lake, [*_MARKS, "user", "raw", "reasons"], delivery_id, settled=True)
    if rows:
        found = found.filter(pc.is_in(found.column("row"), pa.array(rows, pa.int64())))
        absent = sorted({*rows} - {*found.column("row").to_pylist()})
        if absent:
            raise UsageError(f"{delivery_id}: row {absent[0]} is not in quarantine; see: ratchet quarantine list --all")
    return found.slice(0, limit), found.num_rows


def find(lake: Lake, stated: str) -> str:
    """The delivery whose id is, or alone begins with, `stated`. Raises UsageError."""
    known = pc.unique(lake.read("quarantine", columns=["delivery_id"]).column(0)).to_pylist()
    near = sorted(each for each in known if each.startswith(stated))
    if stated in known:
        return stated
    if len(near) == 1:
        return str(near[0])
    hint = f"begins {len(near)} ids: {', '.join(near[:3])}" if near else "names no delivery with quarantined rows"
    raise UsageError(f"{stated!r} {hint}; see: ratchet quarantine list --all")


def open_deliveries(lake: Lake, delivery_id: str | None = None, *, kind: str | None = None) -> list[Open]:
    """Deliveries with open rows, in the order of arrival."""
    rows = _rows(lake, [*_MARKS, "user"], delivery_id)
    if kind is not None:
        rows = rows.filter(pc.equal(rows.column("kind"), kind))
    rows = rows.append_column("legible", pc.equal(rows.column("format"), LEGIBLE).cast(pa.int64()))
    which = ["received_time", "delivery_id", "kind", "source"]
    counts = [("row", "count"), ("legible", "sum"), ("user", "count")]
    found = rows.group_by(which, use_threads=False).aggregate(counts)
    return [
        Open(
            delivery_id=each["delivery_id"],
            kind=each["kind"],
            source=each["source"],
            legible=each["legible_sum"],
            illegible=each["row_count"] - each["legible_sum"],
            named=each["user_count"],
        )
        for each in found.sort_by([("received_time", "ascending"), ("delivery_id", "ascending")]).to_pylist()
    ]


def replay_lines(lake: Lake, delivery_id: str) -> Iterator[bytes]:
    """JSON lines of a delivery's open, legible rows in order, pseudonyms under `PSEUDONYM`; runs of many lines."""
    held = lake.relation("quarantine")
    held = held.filter(held.delivery_id == delivery_id, held.state == OPEN, held.format == LEGIBLE)
    last = held.row.max().to_pyarrow().as_py()
    for first in range(0, -1 if last is None else last + 1, _CHUNK):
        part = held.filter(held.row >= first, held.row < first + _CHUNK).order_by("row").select("user", "raw")
        rows = part.to_pyarrow().combine_chunks()
        for batch in rows.to_batches():
            yield b"".join(_lines(batch.column("raw"), batch.column("user")).to_pylist())


def settle(lake: Lake, delivery_id: str, *, by: str, rows: Sequence[int]) -> int:
    """Mark what delivery `by` took in of the open rows of `delivery_id`; returns how many were marked now.

    `rows`: line numbers among `replay_lines`. Safe to repeat: lines are counted as they were before the first time.
    """
    held = _rows(lake, _MARKS, delivery_id, settled=True)
    mine = pc.or_kleene(
        pc.equal(held.column("state"), OPEN), pc.fill_null(pc.equal(held.column("settled_by"), by), False)
    )
    lines = held.filter(pc.and_(mine, pc.equal(held.column("format"), LEGIBLE)))
    taken = lines.take(pa.array(rows, pa.int64()))
    return _mark(lake, taken, state=REPLAYED, settled_by=by)


def taken_in(lake: Lake, delivery_id: str, *, by: str) -> int:
    """How many rows of `delivery_id` the delivery `by` has settled."""
    held = _rows(lake, ["delivery_id", "row", "state", "settled_by"], delivery_id, settled=True)
    return int(held.filter(pc.equal(held.column("settled_by"), by)).num_rows)


def drop(lake: Lake, delivery_id: str, *, by: str, reason: str, rows: Sequence[int] = ()) -> int:
    """Decide against a delivery's open rows (of `rows` alone, where given); returns how many that were.

    Raises UsageError where a row of `rows` is not there, and without a reason.
    """
    if not reason.strip():
        raise UsageError("--reason: say why these rows are not wanted; the history keeps it")
    held = _rows(lake, _MARKS, delivery_id, settled=True)
    if rows:
        held = held.filter(pc.is_in(held.column("row"), pa.array(rows, pa.int64())))
        absent = sorted({*rows} - {*held.column("row").to_pylist()})
        if absent:
            raise UsageError(f"{delivery_id}: row {absent[0]} is not in quarantine; see: ratchet quarantine list --all")
    return _mark(lake, held, state=DROPPED, settled_by=f"{by}: {reason.strip()}")


def reason_counts(rows: pa.Table) -> tuple[tuple[str, int], ...]:
    """(expectation and column, rows that broke it) of quarantined rows, most first."""
    counted = _broken(rows, []).group_by(["expectation", "column"], use_threads=False).aggregate([("place", "count")])
    return _most_first(
        [(f"{why['expectation']} {why['column']}".strip(), why["place_count"]) for why in counted.to_pylist()]
    )


def _most_first(counts: list[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(counts, key=lambda pair: (-pair[1], pair[0])))


def _rows(lake: Lake, columns: Sequence[str], delivery_id: str | None, *, settled: bool = False) -> pa.Table:
    """Quarantined rows in the order of delivery and row."""
    found = lake.read("quarantine", columns=columns)
    if not settled:
        found = found.filter(pc.equal(found.column("state"), OPEN))
    if delivery_id is not None:
        found = found.filter(pc.equal(found.column("delivery_id"), delivery_id))
    return found.sort_by([("delivery_id", "ascending"), ("row", "ascending")])


def _broken(rows: pa.Table, columns: Sequence[str]) -> pa.Table:
    """(place, expectation, column, message) of each expectation that each row broke, once, and the row's `columns`."""
    reasons = rows.column("reasons")
    flat = pc.list_flatten(reasons)
    places = pc.list_parent_indices(reasons.combine_chunks()) if rows.num_rows else pa.array([], pa.int64())
    table = pa.table(
        {"place": places, **{name: pc.struct_field(flat, name) for name in ("expectation", "column", "message")}}
    )
    broken = table.group_by(["place", "expectation", "column"], use_threads=False).aggregate([("message", "first")])
    broken = broken.rename_columns({"message_first": "message"}).sort_by("place")
    for name in columns:
        broken = broken.append_column(name, rows.column(name).take(broken.column("place")))
    return broken


def _lines(raw: pa.Array, users: pa.Array) -> pa.Array:
    """`{…}` and a pseudonym → `{"user": "…", …}`, each with its line's end. Both are JSON as the door wrote it."""
    named = pc.is_valid(users)
    clashes = pc.and_(named, pc.match_substring(raw, f'"{PSEUDONYM}"'))
    if pc.any(clashes).as_py():  # a source's own column of this name, beside that of its user ids
        pairs = zip(raw.to_pylist(), clashes.to_pylist(), strict=True)
        raw = pa.array([_without_user(each) if clash else each for each, clash in pairs], pa.binary())
    rest = pc.binary_replace_slice(raw, start=0, stop=1, replacement=b"")
    comma = pc.if_else(pc.equal(rest, b"}"), pa.scalar(b'"'), pa.scalar(b'", '))
    head = pa.scalar(f'{{"{PSEUDONYM}": "'.encode())
    with_user = pc.binary_join_element_wise(head, users.cast(pa.binary()), comma, rest, b"")
    return pc.binary_join_element_wise(pc.if_else(named, with_user, raw), b"\n", b"")


def _without_user(raw: bytes) -> bytes:
    said = json.loads(raw)
    said.pop(PSEUDONYM, None)
    return json.dumps(said).encode()


def _mark(lake: Lake, rows: pa.Table, *, state: str, settled_by: str) -> int:
    still = rows.filter(pc.equal(rows.column("state"), OPEN)).select(["delivery_id", "row"])
    if still.num_rows:
        values = {"state": state, "settled_by": settled_by}
        for name, value in values.items():
            still = still.append_column(name, pa.repeat(pa.scalar(value, pa.string()), still.num_rows))
        lake.update("quarantine", still)
    return int(still.num_rows)
