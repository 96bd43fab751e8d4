"""Staged rows: what a delivery's chunks become before anything is committed, in Parquet files of its intent's folder.

`passed.parquet`: rows that broke no expectation, typed. `failed.parquet`: the others as they came, with each reason.
`held.parquet`: rows that passed and are held back all the same. Files, so that memory does not grow with a delivery.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from expectations.verdicts import Reason
from relations.errors import DependencyFailed
from relations.parsing import Stated, objects
from relations.schemas import LATE, QUARANTINE, SCHEMAS
from stores.binding import Binding, fields
from stores.readers.chunks import Chunk
from tasks.lanes import ahead

LEGIBLE = "json"
"""Format of a quarantined row that could be taken apart: a JSON object of what it states, without its user id."""
ROWS = 262_144
_PAGE = 8 << 20
_FAILED = pa.schema([("row", pa.int64()), *(QUARANTINE.field(name) for name in ("user", "format", "raw", "reasons"))])


@dataclass(frozen=True)
class Stamps:
    """How rows arrived; written into each of them."""

    received_time: datetime
    source: str
    delivery_id: str

    def column(self, field: pa.Field, rows: int) -> pa.Array:
        return pa.repeat(pa.scalar(getattr(self, field.name), field.type), rows)


class Stage:
    """One Parquet file that rows are staged into; made with the first of them."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        path.unlink(missing_ok=True)  # of a try that was killed
        self.path = path
        self.schema = schema
        self.rows = 0
        self._writer: pq.ParquetWriter | None = None
        self._lane = ThreadPoolExecutor(1, thread_name_prefix="ratchet-stage")
        self._writing: Future[None] | None = None

    @staticmethod
    def passed(folder: Path, kind: str) -> "Stage":
        return Stage(folder / "passed.parquet", pa.schema([pa.field("row", pa.int64(), False), *fields(kind)]))

    @staticmethod
    def failed(folder: Path, name: str) -> "Stage":
        return Stage(folder / f"{name}.parquet", _FAILED)

    def __enter__(self) -> "Stage":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._settle()
        finally:
            self._lane.shutdown()
            if self._writer is not None:
                self._writer.close()

    def add(self, rows: pa.Table) -> None:
        """Write in the background, one addition at a time. Raises DependencyFailed where the disk refused, then or
        at the end."""
        if not rows.num_rows:
            return
        self._settle()
        self.rows += rows.num_rows
        self._writing = self._lane.submit(self._write, rows)

    def _settle(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, rows: pa.Table) -> None:
        try:
            if self._writer is None:
                # Read once and dropped: no dictionary, no statistics, light compression, few pages.
                self._writer = pq.ParquetWriter(
                    self.path,
                    self.schema,
                    compression="lz4",
                    use_dictionary=False,
                    write_statistics=False,
                    data_page_size=_PAGE,
                )
            self._writer.write_table(rows.cast(self.schema))
        except OSError as error:
            raise DependencyFailed(f"{self.path}: cannot stage rows: {error}; make space, then repeat") from error

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows in order; of `columns` alone, where named."""
        if self.rows:
            with pq.ParquetFile(self.path, pre_buffer=False) as file:
                yield from ahead(file.iter_batches(ROWS, columns=columns))

    def numbers(self) -> np.ndarray[Any, Any]:
        """Row numbers, in order."""
        numbers = [batch.column("row").to_numpy() for batch in self.batches(["row"])]
        return np.concatenate(numbers) if numbers else np.zeros(0, dtype=np.int64)


def failed_rows(
    chunk: Chunk, reasons: Mapping[int, Sequence[Reason]], *, binding: Binding, users: pa.ChunkedArray, format: str
) -> pa.Table:
    """The chunk's rows that have `reasons`, as the quarantine keeps them. `users`: pseudonyms, null where none.

    A row with a pseudonym is kept without its raw id; where none could be made, what stands in its place stays, or
    the row could not be repaired.
    """
    rows = sorted(reasons)
    legible = [row for row in rows if row not in chunk.unreadable]
    names = users.take(pa.array(rows, pa.int64())).to_pylist()
    known = {row for row, user in zip(rows, names, strict=True) if user is not None}
    hidden = {name for name in binding.users if name is not None}
    columns = {name: _stated(chunk.column(name), legible) for name in chunk.names}
    raws = {}
    for place, row in enumerate(legible):
        said = {name: values[place] for name, values in columns.items() if not (name in hidden and row in known)}
        raws[row] = json.dumps({name: value for name, value in said.items() if value is not None}, default=_plain)
    return pa.table(
        {
            "row": pa.array([chunk.first + row for row in rows], pa.int64()),
            "user": pa.array(names, pa.string()),
            "format": pa.array([LEGIBLE if row in raws else format for row in rows]),
            "raw": pa.array([raws[row].encode() if row in raws else chunk.raw(row) for row in rows], pa.binary()),
            "reasons": pa.array(
                [[_reason(why) for why in reasons[row]] for row in rows], _FAILED.field("reasons").type
            ),
        },
        schema=_FAILED,
    )


@dataclass(frozen=True)
class Staged:
    """A judged delivery, ready to be committed. The last of `failed` are rows that passed and are held all the same.

    `leaving`: rows of `passed` that do not go on (duplicates, and what is held), sorted. `kept`: rows of `failed` that
    the quarantine does not hold yet, sorted. `late_before`: event times before it are late, at this `watermark`.
    """

    kind: str
    passed: Stage
    failed: tuple[Stage, ...]
    leaving: np.ndarray[Any, Any]
    kept: np.ndarray[Any, Any]
    late_before: datetime | None
    watermark: datetime | None
    stamps: Stamps

    def accepted(self) -> pa.RecordBatchReader:
        schema = SCHEMAS[self.kind]
        return pa.RecordBatchReader.from_batches(schema, (self._stamped(batch, schema) for batch, _ in self._going()))

    def late(self) -> pa.RecordBatchReader:
        """Rows older than the watermark by more than the allowed lateness."""
        return pa.RecordBatchReader.from_batches(LATE, (self._lateness(batch) for _, batch in self._going()))

    def quarantined(self) -> pa.RecordBatchReader:
        def batches() -> Iterator[pa.RecordBatch]:
            for stage in self.failed:
                for batch in stage.batches():
                    yield self._held(batch.filter(_is_among(batch.column("row"), self.kept)))

        return pa.RecordBatchReader.from_batches(QUARANTINE, batches())

    def late_rows(self) -> int:
        """How many of the rows that go on are late."""
        return 0 if self.late_before is None else sum(batch.num_rows for _, batch in self._going(["row", "event_time"]))

    def placed(self) -> np.ndarray[Any, Any]:
        """Rows that found their place in a table: accepted, late, or there already; sorted."""
        return np.setdiff1d(self.passed.numbers(), self.failed[-1].numbers())

    def _going(self, columns: Sequence[str] | None = None) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
        """(in time, late) rows, batch by batch."""
        for batch in self.passed.batches(columns):
            if len(self.leaving):
                batch = batch.filter(pc.invert(_is_among(batch.column("row"), self.leaving)))
            if self.late_before is None:
                yield batch, batch.slice(0, 0)
            else:
                is_late = pc.less(
                    batch.column("event_time"), pa.scalar(self.late_before, batch.column("event_time").type)
                )
                yield batch.filter(pc.invert(is_late)), batch.filter(is_late)

    def _stamped(self, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
        columns = [
            batch.column(field.name) if field.name in batch.schema.names else self.stamps.column(field, batch.num_rows)
            for field in schema
        ]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    def _lateness(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        events = self._stamped(batch, SCHEMAS["events"])
        watermark = pa.scalar(self.watermark, LATE.field("event_time").type)
        micros = pc.subtract(watermark, events.column("event_time")).cast(pa.int64())
        seconds = pc.divide(micros.cast(pa.float64()), 1e6)
        return pa.RecordBatch.from_arrays([*events.columns, seconds], schema=LATE)

    def _held(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        stated = {"kind": self.kind, "state": "open", "settled_by": None}
        columns = []
        for field in QUARANTINE:
            if field.name in batch.schema.names:
                columns.append(batch.column(field.name))
            elif field.name in stated:
                columns.append(pa.repeat(pa.scalar(stated[field.name], field.type), batch.num_rows))
            else:
                columns.append(self.stamps.column(field, batch.num_rows))
        return pa.RecordBatch.from_arrays(columns, schema=QUARANTINE)


def _is_among(rows: pa.Array, among: np.ndarray[Any, Any]) -> pa.Array:
    """Whether each of `rows` is in the sorted array `among`."""
    return pa.array(np.isin(rows.to_numpy(), among, assume_unique=True))


def _stated(said: Stated, rows: Sequence[int]) -> list[Any]:
    if isinstance(said, pa.ChunkedArray):
        return objects(said.take(pa.array(rows, pa.int64())))
    return [said[row] for row in rows]


def _plain(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _reason(why: Reason) -> dict[str, str]:
    return {"expectation": why.expectation, "column": why.column, "message": why.message}
