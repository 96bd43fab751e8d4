"""The verdict on one delivery: read, typed and held against the suite chunk by chunk, then as a whole.

A second reading, only when needed, fetches the rows that broke nothing by themselves and are held all the same:
those of a batch held whole, and those that contradict another row with their key.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from expectations.masks import RowContract
from expectations.verdicts import Reason, validate
from relations.evolution import Drift, compare, merge, observed_type
from relations.schemas import KEYS
from stores.binding import Binding, Missing, absent, bind, expected
from stores.delivery import BATCH, COLUMNS, COMMITTED, EMPTY, WHOLE, Intent
from stores.failpoints import reach
from stores.lake import Lake
from stores.pseudonyms import Keys
from stores.readers.chunks import Chunk, Delivered
from stores.readers.opening import open_delivery
from tasks.deduplicating import find_newly_held, find_standings
from tasks.judging_batches import BatchJudgement, judge_batch
from tasks.staging_rows import Stage, Staged, Stamps, failed_rows
from tasks.typing_rows import Typed, Users, typed

# A backfill may be of any age; what lies beyond this is an epoch in the wrong unit.
FAR_FUTURE = datetime(2200, 1, 1, tzinfo=UTC)
_TEXT_FORMATS = ("csv",)
_NONE: np.ndarray[Any, Any] = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Verdict:
    """Where each delivered row goes. `staged` is None where none goes anywhere (all rows are duplicates, or none)."""

    state: str
    delivered: int
    accepted: int = 0
    quarantined: int = 0
    duplicate: int = 0
    late: int = 0
    message: str = ""
    warnings: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    profile: Mapping[str, float] = field(default_factory=dict)
    reasons: tuple[tuple[str, int], ...] = ()
    examples: Mapping[str, str] = field(default_factory=dict)
    broken: Mapping[str, int] = field(default_factory=dict)
    """Expectation and column → rows that broke it, the batch's duplicates included."""
    evidence: tuple[Any, ...] = ()
    """Great Expectations' validation results: of the rows (small deliveries), of the batch."""
    staged: Staged | None = None


@dataclass
class _Reading:
    """What the first reading found, added up over the chunks."""

    rows: int = 0
    unreadable: int = 0
    missing: dict[str, Missing] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    types: dict[str, str] = field(default_factory=dict)
    used: dict[str, str] = field(default_factory=dict)
    warnings: Counter[Reason] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    sample: list[tuple[pa.Table, Mapping[int, str], Mapping[int, Sequence[tuple[str, str]]]]] = field(
        default_factory=list
    )


class _Door:
    """One delivery's readings; they see the same chunks in the same way."""

    def __init__(self, intent: Intent, keys: Keys) -> None:
        self.intent = intent
        self.users = Users(keys)
        self.format = ""

    @property
    def text_source(self) -> bool:
        """Whether the format has no types but what its texts say."""
        return self.format in _TEXT_FORMATS

    def chunks(self) -> Iterator[tuple[Chunk, Binding]]:
        request, reading = self.intent.request, self.intent.reading
        delivered: Delivered = open_delivery(
            self.intent.input,
            uri=request.uri,
            kind=request.kind,
            format=request.format,
            max_expansion=reading.lake.max_expansion,
        )
        self.format = delivered.format
        for chunk in delivered.chunks:
            yield (
                chunk,
                bind(
                    chunk.names,
                    kind=request.kind,
                    source=request.source,
                    settings=reading.source,
                    pseudonymous=request.pseudonymous,
                    replayed=request.replays is not None,
                ),
            )

    def typed(self, chunk: Chunk, binding: Binding) -> Typed:
        request = self.intent.request
        return typed(
            chunk,
            binding,
            kind=request.kind,
            source=request.source,
            settings=self.intent.reading.source,
            users=self.users,
        )


def judge_delivery(intent: Intent, *, lake: Lake, keys: Keys) -> Verdict:
    """Judge and stage; every delivered row is in exactly one of its four places. Raises DataRejected: unreadable."""
    door = _Door(intent, keys)
    if intent.repeats:
        rows = sum(chunk.rows for chunk, _ in door.chunks())
        return Verdict(COMMITTED, rows, duplicate=rows)
    folder, request = intent.input.parent, intent.request
    with Stage.passed(folder, request.kind) as passed, Stage.failed(folder, "failed") as failed:
        found = _first_reading(door, passed, failed, keys)
    if not found.rows:
        return Verdict(EMPTY, 0, message="no rows")

    streamed_events = request.streamed and request.kind == "events"
    tables = [request.kind, "late"] if streamed_events else [request.kind]
    standing = find_standings(passed, kind=request.kind, tables=tables, base=intent.base, lake=lake)
    drift = _drift(found, intent, lake, text_source=door.text_source)
    batch = judge_batch(passed, intent=intent, lake=lake)
    held = _held_whole(found, failed.rows, drift, batch, intent)

    leaving = np.union1d(standing.duplicates, standing.conflicts)
    conflict = _conflict(request.kind)
    whole = tuple(Reason(*each) for each in held)
    with Stage.failed(folder, "held") as second:
        if whole or len(standing.conflicts):
            _second_reading(
                door, passed, second, keep=standing.duplicates, conflicts=standing.conflicts, why=(conflict, whole)
            )
    if whole:
        leaving = np.arange(found.rows)
    kept = _NONE  # rows of a replay are held already, and stay as they are
    if request.replays is None:
        version = intent.base.get("quarantine", -1)
        kept = find_newly_held((failed, second), kind=request.kind, source=request.source, version=version, lake=lake)
    watermark = lake.watermark("events", version=intent.base.get("events", -1)) if streamed_events else None
    bound = None if watermark is None else watermark - timedelta(hours=intent.reading.lake.allowed_lateness_hours)
    stamps = Stamps(intent.received_time, request.source, intent.delivery_id)
    staged = Staged(request.kind, passed, (failed, second), leaving, kept, bound, watermark, stamps)

    reasons, examples = _reasons(staged, replayed=request.replays is not None)
    late = 0 if whole else staged.late_rows()
    going = 0 if whole else passed.rows - len(leaving)
    known = failed.rows + second.rows - len(kept)
    return Verdict(
        WHOLE if whole else COMMITTED,
        delivered=found.rows,
        accepted=going - late,
        quarantined=len(kept),
        duplicate=len(standing.duplicates) + known,
        late=late,
        message="; ".join(why.message for why in whole),
        warnings=(
            *drift.warnings,
            *_absent(found, drift, intent),
            *batch.warnings,
            *_overruled(batch, intent),
            *_caught(found),
        ),
        columns=drift.next,
        profile=batch.profile if request.replays is None else {},  # of what is left of a batch, no day's measure
        reasons=reasons,
        examples=examples,
        broken=dict(found.broken.most_common()),
        evidence=(*_evidence(found, intent), *batch.results),
        staged=staged,
    )


def _first_reading(door: _Door, passed: Stage, failed: Stage, keys: Keys) -> _Reading:
    intent, kind = door.intent, door.intent.request.kind
    found = _Reading()
    with RowContract(kind, latest=_latest(intent)) as contract:
        for chunk, binding in door.chunks():
            typed_chunk = door.typed(chunk, binding)
            lacking = [missing.column.replace("user_id", "user") for missing in binding.missing]
            verdict = contract.judge(
                typed_chunk.rows, unreadable=chunk.unreadable, untyped=typed_chunk.untyped, skipped=lacking
            )
            failing = dict(verdict.failing)
            if lacking and len(chunk.unreadable) < chunk.rows:
                reasons = tuple(Reason(COLUMNS, missing.column, missing.message) for missing in binding.missing)
                failing = {row: (*failing.get(row, ()), *reasons) for row in range(chunk.rows)}
            passing = _complement(chunk.rows, failing)
            passed.add(_identified(typed_chunk, passing, chunk.first, keys))
            if failing:
                users = typed_chunk.rows.column("user") if "user" in typed_chunk.rows.column_names else None
                failed.add(
                    failed_rows(chunk, failing, binding=binding, users=_or_null(users, chunk.rows), format=door.format)
                )
            _add_up(found, chunk, binding, typed_chunk, verdict, door)
    reach("ingest.read")
    return found


def _add_up(found: _Reading, chunk: Chunk, binding: Binding, typed_chunk: Typed, verdict: Any, door: _Door) -> None:
    found.missing = {
        missing.column: missing for missing in binding.missing if not found.rows or missing.column in found.missing
    }
    found.rows += chunk.rows
    found.unreadable += len(chunk.unreadable)
    found.warnings.update(verdict.warnings)
    found.broken.update(verdict.counts)
    found.used |= binding.used
    for name in chunk.names:
        seen = observed_type(chunk.column(name), text_source=door.text_source)
        found.types[name] = merge(found.types[name], seen) if name in found.types else seen
    if found.rows <= door.intent.reading.validation.evidence_rows:
        found.sample.append((typed_chunk.rows, chunk.unreadable, typed_chunk.untyped))
    else:
        found.sample.clear()


def _second_reading(
    door: _Door,
    passed: Stage,
    second: Stage,
    *,
    keep: np.ndarray[Any, Any],
    conflicts: np.ndarray[Any, Any],
    why: tuple[Reason, tuple[Reason, ...]],
) -> None:
    """Stage the conflicting rows and, of a batch held whole, every passed row that is not in `keep`."""
    conflict, whole = why
    rows = conflicts
    if whole:
        rows = np.setdiff1d(passed.numbers(), keep)
    contradicts = set(conflicts.tolist())
    for chunk, binding in door.chunks():
        mine = rows[np.searchsorted(rows, chunk.first) : np.searchsorted(rows, chunk.first + chunk.rows)]
        if len(mine):
            reasons = {int(row) - chunk.first: ((conflict,) if int(row) in contradicts else ()) + whole for row in mine}
            users = door.typed(chunk, binding).rows
            column = users.column("user") if "user" in users.column_names else None
            second.add(
                failed_rows(chunk, reasons, binding=binding, users=_or_null(column, chunk.rows), format=door.format)
            )


def _latest(intent: Intent) -> datetime:
    if not intent.request.streamed:
        return FAR_FUTURE
    return intent.received_time + timedelta(minutes=intent.reading.lake.max_skew_minutes)


def _complement(rows: int, failing: Mapping[int, object]) -> pa.Array | None:
    """The rows that did not fail; None for all of them."""
    if not failing:
        return None
    passing = np.ones(rows, dtype=bool)
    passing[np.fromiter(failing, int, len(failing))] = False
    return pa.array(np.flatnonzero(passing))


def _identified(typed_chunk: Typed, passing: pa.Array | None, first: int, keys: Keys) -> pa.Table:
    """The passing rows with their numbers, and with derived ids where the source gives none."""
    rows, roots = typed_chunk.rows, typed_chunk.roots
    numbers = pa.array(np.arange(first, first + rows.num_rows))
    if passing is not None:
        rows, roots, numbers = rows.take(passing), roots.take(passing), numbers.take(passing)
    if "event_id" in rows.column_names and rows.column("event_id").null_count:
        place = rows.column_names.index("event_id")
        rows = rows.set_column(place, "event_id", _event_ids(rows, roots, keys))
    return rows.add_column(0, "row", numbers)


def _event_ids(rows: pa.Table, roots: pa.Array, keys: Keys) -> pa.Array:
    stated = rows.column("event_id")
    lacking = pc.indices_nonzero(pc.is_null(stated))
    bare = rows.take(lacking)
    derived = keys.event_ids(
        user_roots=roots.take(lacking).to_pylist(),
        item_ids=bare.column("item_id").to_pylist(),
        behaviours=bare.column("behaviour").to_pylist(),
        event_times_us=bare.column("event_time").cast(pa.int64()).to_pylist(),
        values=bare.column("value").to_pylist(),
        queries=bare.column("query").to_pylist(),
    )
    if len(lacking) == len(stated):
        return pa.chunked_array([pa.array(derived, pa.string())])
    return pc.replace_with_mask(stated.combine_chunks(), pc.is_null(stated).combine_chunks(), pa.array(derived))


def _or_null(users: pa.ChunkedArray | None, rows: int) -> pa.ChunkedArray:
    return pa.chunked_array([pa.nulls(rows, pa.string())]) if users is None else users


def _drift(found: _Reading, intent: Intent, lake: Lake, *, text_source: bool) -> Drift:
    """The source's columns against those of its newest committed delivery of this kind."""
    request = intent.request
    if request.replays is not None or found.missing:
        # The quarantine's own writing of rows, no statement of the source's; or a batch that sets no precedent.
        return Drift((), (), {})
    receipts = lake.read(
        "deliveries",
        version=intent.base.get("deliveries", -1),
        columns=["received_time", "delivery_id", "kind", "source", "state", "columns"],
    )
    mine = receipts.filter(
        (pc.field("kind") == request.kind) & (pc.field("source") == request.source) & (pc.field("state") == COMMITTED)
    ).sort_by([("received_time", "ascending"), ("delivery_id", "ascending")])
    stated = [dict(columns) for columns in mine.column("columns").to_pylist() if columns]
    return compare(
        stated[-1] if stated else {},
        found.types,
        bound=expected(request.kind, intent.reading.source) | found.used,
        policy=intent.reading.source.schema_policy,
        source=request.source,
        text_source=text_source,
    )


def _held_whole(
    found: _Reading, failed: int, drift: Drift, batch: BatchJudgement, intent: Intent
) -> list[tuple[str, str, str]]:
    """Why the batch is quarantined whole (expectation, column, message); empty if it is not."""
    if found.missing and found.unreadable < found.rows:
        return [(COLUMNS, column, missing.message) for column, missing in found.missing.items()]
    if drift.held:
        return [(COLUMNS, column, message) for column, message in drift.held]
    if intent.request.released:
        return []
    limits = intent.reading.validation
    share = failed / found.rows
    if failed == found.rows or (found.rows >= limits.min_rows_for_share and share > limits.max_failing_share):
        message = (
            f"{failed} of {found.rows} rows failed, a share of {share:.3f}; the batch is held back whole above "
            f"[validation] max_failing_share = {limits.max_failing_share:g}"
        )
        return [(BATCH, "", message)]
    return [(why.expectation, why.column, why.message) for why in batch.critical]


def _overruled(batch: BatchJudgement, intent: Intent) -> list[str]:
    """What spoke against a batch that a person let in."""
    return [f"let in by name: {why.message}" for why in batch.critical] if intent.request.released else []


def _conflict(kind: str) -> Reason:
    remedy = "; give the change its own valid_from" if kind in ("items", "users") else "; give each event its own id"
    key = ", ".join(KEYS[kind])
    return Reason("conflict", KEYS[kind][0], f"another row with the same {key} says something else{remedy}")


def _absent(found: _Reading, drift: Drift, intent: Intent) -> list[str]:
    """Columns that the settings name and the source has never had; of one that has gone, the drift tells."""
    request = intent.request
    if request.replays is not None:
        return []
    known = {*found.types, *drift.next}
    return absent(known, kind=request.kind, source=request.source, settings=intent.reading.source)


def _caught(found: _Reading) -> list[str]:
    """Rows that warning-level expectations caught."""
    caught = sorted(found.warnings.items(), key=lambda pair: (pair[0].column, pair[0].message))
    return [f"{rows} rows: {why.message}" for why, rows in caught]


def _reasons(staged: Staged, *, replayed: bool) -> tuple[tuple[tuple[str, int], ...], dict[str, str]]:
    """(expectation and column, newly quarantined rows that broke it), most first, and a message of each.

    `replayed`: rows of the quarantine; those that failed again, then.
    """
    counts: Counter[str] = Counter()
    messages: dict[str, str] = {}
    failed = (batch for stage in staged.failed for batch in stage.batches())
    for batch in failed if replayed else staged.quarantined():
        reasons = batch.column("reasons")
        why = pc.list_flatten(reasons)
        labels = pc.utf8_rtrim_whitespace(
            pc.binary_join_element_wise(pc.struct_field(why, "expectation"), pc.struct_field(why, "column"), " ")
        )
        broken = {"row": pc.list_parent_indices(reasons), "label": labels, "message": pc.struct_field(why, "message")}
        # A row that broke one expectation twice on a column counts once.
        once = pa.table(broken).group_by(["row", "label"]).aggregate([("message", "min")])
        for each in once.group_by("label").aggregate([("row", "count"), ("message_min", "min")]).to_pylist():
            counts[each["label"]] += each["row_count"]
            messages.setdefault(each["label"], each["message_min_min"])
    return tuple(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))), messages


def _evidence(found: _Reading, intent: Intent) -> list[Any]:
    """Great Expectations on the rows themselves, where they are few enough."""
    if not found.sample:
        return []
    unreadable: dict[int, str] = {}
    untyped: dict[int, Sequence[tuple[str, str]]] = {}
    first = 0
    for rows, broken, faults in found.sample:
        unreadable |= {first + row: why for row, why in broken.items()}
        untyped |= {first + row: why for row, why in faults.items()}
        first += rows.num_rows
    whole = pa.concat_tables([rows for rows, _, _ in found.sample])
    result = validate(whole, kind=intent.request.kind, unreadable=unreadable, untyped=untyped, latest=_latest(intent))
    return [] if result is None else [result]
