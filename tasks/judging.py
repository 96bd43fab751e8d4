"""From a batch to its verdict: which rows are accepted, held back, known already or too late.

Reads the lake at the versions that the intent names and writes nothing, so that a retry comes to the same verdict
even after some of its own tables are committed.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from expectations.suites import ID_LENGTH
from expectations.verdicts import Reason, judge
from relations.digest import row_digests
from relations.parsing import parse
from relations.schemas import KEYS, LATE, OUTSIDE_DIGEST, QUARANTINE, SCHEMAS
from stores.delivery import BATCH, COLUMNS, COMMITTED, EMPTY, WHOLE, Intent
from stores.lake import Lake
from stores.pseudonyms import Keys
from stores.readers.batches import Batch
from stores.sources import Binding, bind, fields

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A backfill may be of any age; what lies beyond this is an epoch in the wrong unit.
FAR_FUTURE = datetime(2200, 1, 1, tzinfo=UTC)
MAX_ATTRIBUTES = 64


@dataclass(frozen=True)
class Verdict:
    """Where each delivered row goes. `duplicate` is a count; the tables hold the rows to append."""

    state: str
    accepted: pa.Table
    late: pa.Table
    quarantined: pa.Table
    duplicate: int
    message: str
    result: Any
    """Great Expectations' validation result; None where nothing was judged."""


@dataclass(frozen=True)
class _Typed:
    rows: pa.Table
    untyped: dict[int, list[tuple[str, str]]]


def judge_batch(batch: Batch, intent: Intent, *, lake: Lake, keys: Keys) -> Verdict:
    """The verdict on one delivery; every delivered row is in exactly one of its four places."""
    request, reading = intent.request, intent.reading
    empty = Verdict(
        EMPTY, SCHEMAS[request.kind].empty_table(), LATE.empty_table(), QUARANTINE.empty_table(), 0, "", None
    )
    if batch.rows == 0:
        return empty
    if intent.repeats:
        return Verdict(COMMITTED, empty.accepted, empty.late, empty.quarantined, batch.rows, "", None)

    binding = bind(
        batch,
        kind=request.kind,
        source=request.source,
        settings=reading.source,
        pseudonymous=request.pseudonymous,
    )
    typed = _typed(batch, binding, intent, keys)
    judgement = judge(
        typed.rows,
        kind=request.kind,
        unreadable=batch.unreadable,
        untyped=typed.untyped,
        latest=_latest(intent),
        skipped=[missing.column.replace("user_id", "user") for missing in binding.missing],
    )
    failures = dict(judgement.failures)
    message = _held_whole(batch, binding, failures, intent)

    passing = [row for row in range(batch.rows) if row not in failures]
    rows = _stamped(typed.rows.take(pa.array(passing, pa.int64())), intent, keys)
    standing = _standings(rows, intent, lake)
    new = [place for place, found in enumerate(standing) if found == "new"]
    for place, found in enumerate(standing):
        if found == "conflict":
            failures[passing[place]] = (_conflict(request.kind),)
    duplicate = standing.count("duplicate")
    accepted, late = rows.take(pa.array([] if message else new, pa.int64())), empty.late
    if message:
        for place in new:
            failures[passing[place]] = (Reason(BATCH, "", message),)
    elif request.streamed and request.kind == "events":
        accepted, late = _split_late(accepted, intent, lake)
    quarantined, known = _quarantine(batch, failures, intent, lake)
    return Verdict(
        WHOLE if message else COMMITTED, accepted, late, quarantined, duplicate + known, message, judgement.result
    )


def _latest(intent: Intent) -> datetime:
    if not intent.request.streamed:
        return FAR_FUTURE
    return intent.received_time + timedelta(minutes=intent.reading.lake.max_skew_minutes)


def _typed(batch: Batch, binding: Binding, intent: Intent, keys: Keys) -> _Typed:
    """Every column of the kind as its type; null where absent, and named in `untyped` where it could not be read."""
    request, source = intent.request, intent.reading.source
    unit = "s" if batch.format == "movielens" else source.time_unit
    columns: dict[str, pa.Array] = {}
    untyped: dict[int, list[tuple[str, str]]] = {}
    kept = fields(request.kind)
    for field in kept:
        stated = binding.columns.get(field.name)
        if stated is None:
            columns[field.name] = pa.nulls(batch.rows, field.type)
            continue
        said = batch.column(stated)
        if field.name == "behaviour" and source.behaviours:
            known = said.to_pylist() if isinstance(said, pa.ChunkedArray) else said
            said = [source.behaviours.get(value, value) if isinstance(value, str) else value for value in known]
        parsed = parse(said, field.type, time_unit=unit)
        values, unread = parsed.values, parsed.unread
        if field.name == "user":
            unread = dict.fromkeys(unread, f"{stated} is not a text or whole number")
            if not request.pseudonymous:
                values, refused = _pseudonyms(values, stated, keys)
                unread |= refused
        columns[field.name] = values
        for row, why in unread.items():
            untyped.setdefault(row, []).append((field.name, why))
    if "attributes" in columns and "attributes" not in binding.columns and binding.extra:
        columns["attributes"] = _attributes(batch, binding.extra[:MAX_ATTRIBUTES])
    _fill(columns, untyped)
    schema = pa.schema([field.with_nullable(True) for field in kept])
    return _Typed(pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema), untyped)


def _pseudonyms(raw: pa.Array, column: str, keys: Keys) -> tuple[pa.Array, dict[int, str]]:
    """Raw ids leave here. A blank or endless one would hash to a fine pseudonym, so it is refused first."""
    known: dict[str, str | None] = {}
    users: list[str | None] = []
    refused: dict[int, str] = {}
    for row, value in enumerate(raw.to_pylist()):
        if value is not None and value not in known:
            fine = value.strip() and len(value) <= ID_LENGTH
            known[value] = keys.user(value) if fine else None
        users.append(None if value is None else known[value])
        if value is not None and known[value] is None:
            refused[row] = f"{column} is blank or longer than {ID_LENGTH} characters"
    return pa.array(users, pa.string()), refused


def _attributes(batch: Batch, names: Sequence[str]) -> pa.Array:
    """Columns that are none of ours describe an item or a user; they are kept as texts."""
    kind = pa.map_(pa.string(), pa.string())
    columns = []
    for name in names:
        said = batch.column(name)
        columns.append(said.to_pylist() if isinstance(said, pa.ChunkedArray) else said)
    rows = [
        {name: value for name, value in zip(names, row, strict=True) if value is not None}
        for row in zip(*columns, strict=True)
    ]
    parsed = parse(rows, kind)
    return parsed.values


def _fill(columns: dict[str, pa.Array], untyped: dict[int, list[tuple[str, str]]]) -> None:
    """Defaults for what a source leaves out; never for what it states and we cannot read."""
    defaults = {"valid_from": EPOCH, "available": True, "categories": []}
    for name, default in defaults.items():
        if name in columns and columns[name].null_count:
            kind = columns[name].type
            unread = {row for row, faults in untyped.items() if any(column == name for column, _ in faults)}
            values = columns[name].to_pylist()
            filled = [default if value is None and row not in unread else value for row, value in enumerate(values)]
            columns[name] = pa.array(filled, kind)


def _held_whole(batch: Batch, binding: Binding, failures: dict[int, tuple[Reason, ...]], intent: Intent) -> str:
    """Why the batch is quarantined whole, empty if it is not; a missing column becomes every row's reason."""
    if binding.missing and len(batch.unreadable) < batch.rows:
        reasons = tuple(Reason(COLUMNS, missing.column, missing.message) for missing in binding.missing)
        for row in range(batch.rows):
            failures[row] = (*failures.get(row, ()), *reasons)
        return "; ".join(missing.message for missing in binding.missing)
    limits = intent.reading.validation
    failing, share = len(failures), len(failures) / batch.rows
    if failing == batch.rows or (batch.rows >= limits.min_rows_for_share and share > limits.max_failing_share):
        return (
            f"{failing} of {batch.rows} rows failed, a share of {share:.3f}; the batch is held back whole above "
            f"[validation] max_failing_share = {limits.max_failing_share:g}"
        )
    return ""


def _stamped(rows: pa.Table, intent: Intent, keys: Keys) -> pa.Table:
    """Rows that passed, in the table's schema: derived ids, and how they arrived."""
    schema = SCHEMAS[intent.request.kind]
    columns = {name: rows.column(name) for name in rows.schema.names}
    if "event_id" in columns and columns["event_id"].null_count:
        columns["event_id"] = _event_ids(rows, keys)
    stamps = {"received_time": intent.received_time, "source": intent.request.source, "delivery_id": intent.delivery_id}
    for name, value in stamps.items():
        columns[name] = pa.repeat(pa.scalar(value, schema.field(name).type), rows.num_rows)
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def _event_ids(rows: pa.Table, keys: Keys) -> pa.Array:
    names = ("event_id", "user", "item_id", "behaviour", "value")
    times = rows.column("event_time").cast(pa.int64()).to_pylist()
    ids = [
        stated
        if stated is not None
        else keys.event_id(user_root=user, item_id=item, behaviour=behaviour, event_time_us=time, value=value)
        for stated, user, item, behaviour, value, time in zip(
            *(rows.column(name).to_pylist() for name in names), times, strict=True
        )
    ]
    return pa.array(ids, pa.string())


def _standings(rows: pa.Table, intent: Intent, lake: Lake) -> list[str]:
    """new, duplicate or conflict, a row; see `relations.standing`. Only contested keys are compared by content."""
    kind = intent.request.kind
    if not rows.num_rows:
        return []
    tables = [kind, "late"] if kind == "events" and intent.request.streamed else [kind]
    outside = ("source", *OUTSIDE_DIGEST[kind])
    said = [name for name in SCHEMAS[kind].names if name not in outside]
    keys = pa.array(_keys(rows, kind))
    known_keys = {table: pa.array(_keys(_at(lake, intent, table, KEYS[kind]), kind), keys.type) for table in tables}
    counts = pc.value_counts(keys)
    repeated = pc.filter(counts.field("values"), pc.greater(counts.field("counts"), 1))
    contested = pa.concat_arrays([repeated, *(values.filter(pc.is_in(values, keys)) for values in known_keys.values())])
    if not len(contested):
        return ["new"] * rows.num_rows

    import ibis

    from relations.standing import standings

    places = pc.indices_nonzero(pc.is_in(keys, contested))
    ours = _contents(rows.take(places), keys.take(places), said).append_column("row", places.cast(pa.int64()))
    theirs = [ours.schema.empty_table().drop_columns(["row"])]
    for table, values in known_keys.items():
        hits = pc.indices_nonzero(pc.is_in(values, keys))
        theirs.append(_contents(_at(lake, intent, table, said).take(hits), values.take(hits), said))
    # A connection of its own: Ibis's default one would live until the interpreter is torn down.
    connection = ibis.duckdb.connect()
    judged = connection.to_pyarrow(standings(ibis.memtable(ours), ibis.memtable(pa.concat_tables(theirs))))
    connection.disconnect()
    found = ["new"] * rows.num_rows
    for row, standing in zip(judged.column("row").to_pylist(), judged.column("standing").to_pylist(), strict=True):
        found[row] = standing
    return found


def _at(lake: Lake, intent: Intent, table: str, columns: Sequence[str]) -> pa.Table:
    return lake.read(table, version=intent.base.get(table, -1), columns=columns)


def _keys(rows: pa.Table, kind: str) -> list[Any]:
    names = KEYS[kind]
    if len(names) == 1:
        ids: list[Any] = rows.column(names[0]).to_pylist()
        return ids
    return [digest.hex() for digest in row_digests(rows, columns=names)]


def _contents(rows: pa.Table, keys: pa.Array, columns: Sequence[str]) -> pa.Table:
    contents = [digest.hex() for digest in row_digests(rows, columns=columns)]
    return pa.table({"key": keys.cast(pa.string()), "content": pa.array(contents, pa.string())})


def _conflict(kind: str) -> Reason:
    remedy = "; give the change its own valid_from" if kind in ("items", "users") else "; give each event its own id"
    key = ", ".join(KEYS[kind])
    return Reason("conflict", KEYS[kind][0], f"another row with the same {key} says something else{remedy}")


def _split_late(rows: pa.Table, intent: Intent, lake: Lake) -> tuple[pa.Table, pa.Table]:
    """(in time, late): late is older than the watermark before this delivery by more than the allowed lateness."""
    watermark = lake.watermark("events", version=intent.base.get("events", -1))
    if watermark is None:
        return rows, LATE.empty_table()
    bound = watermark - timedelta(hours=intent.reading.lake.allowed_lateness_hours)
    is_late = pc.less(rows.column("event_time"), pa.scalar(bound, rows.column("event_time").type))
    late = rows.filter(is_late)
    micros = pc.subtract(pa.scalar(watermark, LATE.field("event_time").type), late.column("event_time"))
    lateness = pc.divide(micros.cast(pa.int64()).cast(pa.float64()), 1e6)
    late = pa.Table.from_arrays([*late.columns, lateness], schema=LATE)
    return rows.filter(pc.invert(is_late)), late


def _quarantine(
    batch: Batch, failures: dict[int, tuple[Reason, ...]], intent: Intent, lake: Lake
) -> tuple[pa.Table, int]:
    """(rows to hold back, rows that are held already). A row that a batch has k times is held k times, ever."""
    if not failures:
        return QUARANTINE.empty_table(), 0
    held = _at(lake, intent, "quarantine", ["kind", "source", "raw"])
    mine = held.filter((pc.field("kind") == intent.request.kind) & (pc.field("source") == intent.request.source))
    left = Counter(hashlib.sha256(raw).digest() for raw in mine.column("raw").to_pylist())
    rows = []
    for row in sorted(failures):
        raw = batch.raw(row)
        mark = hashlib.sha256(raw).digest()
        if left[mark] > 0:
            left[mark] -= 1
            continue
        rows.append(
            {
                "delivery_id": intent.delivery_id,
                "row": row,
                "kind": intent.request.kind,
                "format": batch.format,
                "raw": raw,
                "reasons": [
                    {"expectation": why.expectation, "column": why.column, "message": why.message}
                    for why in failures[row]
                ],
                "source": intent.request.source,
                "received_time": intent.received_time,
                "state": "open",
            }
        )
    return pa.Table.from_pylist(rows, schema=QUARANTINE), len(failures) - len(rows)
