"""The Parquet files of one append, written as its rows come and named in one Delta commit.

delta-rs's own writer holds what it writes until a commit: 1.2 GB for 10M events. These files are closed one by one,
so memory does not grow with an append.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.transaction import AddAction

from relations.schemas import TIME

PART_ROWS = 2_000_000
"""Rows of a file, some 100 MB of events."""
_MILLISECOND = timedelta(milliseconds=1)
# Nearly as many values as rows: a dictionary of them would be built and thrown away.
_PLAIN = ("event_id", "exposure_id", "request_id", "user", "raw")


def write_parts(folder: Path, rows: pa.RecordBatchReader, *, transaction: str) -> list[AddAction]:
    """Write the rows into files of `folder`; what a commit must name.

    The names follow from the transaction, so a retry writes over what a killed try left. Raises OSError.
    """
    name = hashlib.sha256(transaction.encode()).hexdigest()[:32]
    written: list[AddAction] = []
    writer: pq.ParquetWriter | None = None
    path, held = folder, 0
    try:
        for batch in rows:
            if not batch.num_rows:
                continue
            if writer is None:
                path, held = folder / f"part-{name}-{len(written):05d}.parquet", 0
                writer = _writer(path, rows.schema)
            writer.write_batch(batch)
            held += batch.num_rows
            if held >= PART_ROWS:
                writer.close()
                writer = None
                written.append(_added(path, held))
        if writer is not None:
            writer.close()
            writer = None
            written.append(_added(path, held))
    finally:
        if writer is not None:
            writer.close()
    return written


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    times = [field.name for field in schema if field.type == TIME]
    coded = [field.name for field in schema if field.name not in _PLAIN and not pa.types.is_nested(field.type)]
    # Level 1 costs what Snappy does and takes half the space.
    return pq.ParquetWriter(
        path, schema, compression="zstd", compression_level=1, use_dictionary=coded, write_statistics=times
    )


def _added(path: Path, rows: int) -> AddAction:
    """A file as the commit names it, with the smallest and largest times and nothing of any id."""
    metadata = pq.read_metadata(path)
    stats = {"numRecords": rows, "minValues": {}, "maxValues": {}} | _spans(metadata)
    said = path.stat()
    return AddAction(path.name, said.st_size, {}, said.st_mtime_ns // 1_000_000, True, json.dumps(stats))


def _spans(metadata: Any) -> dict[str, Mapping[str, str]]:
    low: dict[str, datetime] = {}
    high: dict[str, datetime] = {}
    for group in range(metadata.num_row_groups):
        for place in range(metadata.num_columns):
            column = metadata.row_group(group).column(place)
            found = column.statistics
            if found is not None and found.has_min_max and isinstance(found.min, datetime):
                name = column.path_in_schema
                low[name] = min(low.get(name, found.min), found.min)
                high[name] = max(high.get(name, found.max), found.max)
    return {
        "minValues": {name: _milliseconds(time) for name, time in low.items()},
        # A bound, so it is rounded away from the rows.
        "maxValues": {name: _milliseconds(time + _MILLISECOND) for name, time in high.items()},
    }


def _milliseconds(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03d}Z"
