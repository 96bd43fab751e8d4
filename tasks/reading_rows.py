"""The readings of one delivery: every chunk typed and held against the suite, rows that pass and rows that fail staged.

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
from expectations.verdicts import Reason, RowVerdict
from relations.evolution import merge, observed_type
from stores.binding import Binding, Missing, bind
from stores.delivery import COLUMNS, Intent
from stores.failpoints import reach
from stores.pseudonyms import Keys
from stores.readers.chunks import Chunk, Delivered
from stores.readers.opening import open_delivery
from tasks.lanes import ahead
from tasks.pseudonymising import Users
from tasks.staging_rows import Stage, failed_rows
from tasks.typing_rows import Typed, typed

# A backfill may be of any age, and a catalogue may know what is to come. An event of the future would move the
# watermark and make everything after it late; a day is room for clocks without a zone.
FAR_FUTURE = datetime(2200, 1, 1, tzinfo=UTC)
ZONES = timedelta(days=1)
_TEXT_FORMATS = ("csv",)


@dataclass
class Reading:
    """What the first reading found, added up over the chunks."""

    rows: int = 0
    unreadable: int = 0
    missing: dict[str, Missing] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    used: dict[str, str] = field(default_factory=dict)
    warnings: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """(expectation, column, note) → rows that a warning caught."""
    broken: Counter[str] = field(default_factory=Counter)
    sample: list[tuple[pa.Table, Mapping[int, str], Mapping[int, Sequence[tuple[str, str]]]]] = field(
        default_factory=list
    )


class Readings:
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

    def typed_chunks(self) -> Iterator[tuple[Chunk, Binding, Typed]]:
        for chunk, binding in ahead(self.chunks()):
            yield chunk, binding, self.typed(chunk, binding)

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

    def failed(
        self, chunk: Chunk, binding: Binding, reasons: Mapping[int, Sequence[Reason]], *, rows: pa.Table
    ) -> pa.Table:
        """The chunk's rows that have `reasons`, as the quarantine keeps them; `rows`: the chunk, typed."""
        named = "user" in rows.column_names  # items have none
        users = rows.column("user") if named else pa.chunked_array([pa.nulls(chunk.rows, pa.string())])
        return failed_rows(chunk, reasons, binding=binding, users=users, format=self.format)


def read_rows(readings: Readings, passed: Stage, failed: Stage, *, keys: Keys) -> Reading:
    """The first reading. Raises DataRejected when no row can be told from another."""
    intent, kind = readings.intent, readings.intent.request.kind
    found = Reading()
    with RowContract(kind, latest=latest_time(intent)) as contract:
        # Reading and typing, judging, and staging in a lane each: most of each is outside Python.
        for chunk, binding, typed_chunk in ahead(readings.typed_chunks()):
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
                failed.add(readings.failed(chunk, binding, failing, rows=typed_chunk.rows))
            _add_up(found, chunk, binding, typed_chunk, verdict, readings)
    pa.default_memory_pool().release_unused()  # the chunks' memory is wanted for what comes next
    reach("ingest.read")
    return found


def _add_up(
    found: Reading, chunk: Chunk, binding: Binding, typed_chunk: Typed, verdict: RowVerdict, readings: Readings
) -> None:
    found.missing = {
        missing.column: missing for missing in binding.missing if not found.rows or missing.column in found.missing
    }
    found.rows += chunk.rows
    found.unreadable += len(chunk.unreadable)
    found.warnings.update(verdict.warnings)
    found.broken.update(verdict.counts)
    found.used |= binding.used
    for name in chunk.names:
        seen = observed_type(chunk.column(name), text_source=readings.text_source)
        found.types[name] = merge(found.types[name], seen) if name in found.types else seen
    if found.rows <= readings.intent.reading.validation.evidence_rows:
        found.sample.append((typed_chunk.rows, chunk.unreadable, typed_chunk.untyped))
    else:
        found.sample.clear()


def read_held_rows(
    readings: Readings,
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
    for chunk, binding in readings.chunks():
        mine = rows[np.searchsorted(rows, chunk.first) : np.searchsorted(rows, chunk.first + chunk.rows)]
        if len(mine):
            reasons = {int(row) - chunk.first: ((conflict,) if int(row) in contradicts else ()) + whole for row in mine}
            second.add(readings.failed(chunk, binding, reasons, rows=readings.typed(chunk, binding).rows))


def latest_time(intent: Intent) -> datetime:
    """The newest time that a row of the delivery may state."""
    if intent.request.streamed:
        return intent.received_time + timedelta(minutes=intent.reading.lake.max_skew_minutes)
    return intent.received_time + ZONES if intent.request.kind in ("events", "exposures") else FAR_FUTURE


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
