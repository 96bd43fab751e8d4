"""The verdict on one delivery: its rows one by one, its keys against the tables, and the batch as a whole."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from expectations.verdicts import Reason, validate
from relations.evolution import Drift, compare
from relations.schemas import KEYS
from stores.binding import absent, expected
from stores.delivery import BATCH, COLUMNS, COMMITTED, EMPTY, WHOLE, Intent
from stores.lake import Lake
from stores.pseudonyms import Keys
from stores.readers.opening import NAMED
from tasks.deduplicating import find_newly_held, find_standings
from tasks.judging_batches import BatchJudgement, judge_batch
from tasks.reading_rows import Reading, Readings, latest_time, read_held_rows, read_rows
from tasks.staging_rows import Stage, Staged, Stamps

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


def judge_delivery(intent: Intent, *, lake: Lake, keys: Keys) -> Verdict:
    """Judge and stage; every delivered row is in exactly one of its four places. Raises DataRejected: unreadable."""
    readings = Readings(intent, keys)
    if intent.repeats:
        rows = sum(chunk.rows for chunk, _ in readings.chunks())
        return Verdict(COMMITTED, rows, duplicate=rows)
    folder, request = intent.input.parent, intent.request
    with Stage.passed(folder, request.kind) as passed, Stage.failed(folder, "failed") as failed:
        found = read_rows(readings, passed, failed, keys=keys)
    if not found.rows:
        return Verdict(EMPTY, 0, message="no rows")

    streamed_events = request.streamed and request.kind == "events"
    tables = [request.kind, "late"] if streamed_events else [request.kind]
    standing = find_standings(passed, kind=request.kind, tables=tables, base=intent.base, lake=lake)
    drift = _drift(found, readings, lake)
    batch = judge_batch(passed, intent=intent, lake=lake)
    held = _held_whole(found, failed.rows, drift, batch, intent)

    leaving = np.union1d(standing.duplicates, standing.conflicts)
    conflict = _conflict(request.kind)
    whole = tuple(Reason(*each) for each in held)
    with Stage.failed(folder, "held") as second:
        if whole or len(standing.conflicts):
            read_held_rows(
                readings, passed, second, keep=standing.duplicates, conflicts=standing.conflicts, why=(conflict, whole)
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


def _drift(found: Reading, readings: Readings, lake: Lake) -> Drift:
    """The source's columns against those of its newest committed delivery of this kind."""
    intent, request = readings.intent, readings.intent.request
    if request.replays is not None or found.missing or readings.format in NAMED:
        # The quarantine's own writing of rows, no statement of the source's; a batch that sets no precedent; or a data
        # set whose columns its reader names.
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
        text_source=readings.text_source,
    )


def _held_whole(
    found: Reading, failed: int, drift: Drift, batch: BatchJudgement, intent: Intent
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


def _absent(found: Reading, drift: Drift, intent: Intent) -> list[str]:
    """Columns that the settings name and the source has never had; of one that has gone, the drift tells."""
    request = intent.request
    if request.replays is not None:
        return []
    known = {*found.types, *drift.next}
    return absent(known, kind=request.kind, source=request.source, settings=intent.reading.source)


def _caught(found: Reading) -> list[str]:
    """Rows that warning-level expectations caught."""
    caught = sorted((column, note, rows) for (_, column, note), rows in found.warnings.items())
    return [f"{rows} rows: {note}" for _, note, rows in caught]


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


def _evidence(found: Reading, intent: Intent) -> list[Any]:
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
    result = validate(
        whole, kind=intent.request.kind, unreadable=unreadable, untyped=untyped, latest=latest_time(intent)
    )
    return [] if result is None else [result]
