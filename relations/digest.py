"""Digests of rows and tables that say what the rows say, not where they stand.

A row's digest is SHA-256 over its columns in the schema's order: strings as they are (separators escaped), times as
integer microseconds, floats as their bits, nested values as canonical JSON. A table's digest is SHA-256 over its
rows' digests in sorted order, so it is blind to order and file layout and counts a repeated row twice.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SEPARATOR = "\x1f"
NULL = "\x1e"
ESCAPE = "\x1d"
BATCH = 262_144


def row_digests(rows: pa.Table, *, columns: Sequence[str]) -> list[bytes]:
    """SHA-256 (32 bytes) of each row over `columns`, in the order given."""
    if rows.num_rows == 0:
        return []
    parts = [_texts(rows.column(name)) for name in columns]
    lines = pc.binary_join_element_wise(*parts, pa.scalar(SEPARATOR, pa.large_string())) if len(parts) > 1 else parts[0]
    return [hashlib.sha256(line.encode()).digest() for line in lines.to_pylist()]


def content_digest(rows: pa.Table, *, outside: Sequence[str] = ()) -> str:
    """64 hex digits over all columns but `outside`; blind to the rows' order."""
    columns = [name for name in rows.schema.names if name not in outside]
    return content_digest_of(rows.to_batches(max_chunksize=BATCH), columns=columns)


def content_digest_of(batches: Iterable[pa.RecordBatch], *, columns: Sequence[str]) -> str:
    """As `content_digest` over `columns`, for rows that come in batches; memory is 64 bytes a row and one batch."""
    found = [b"".join(row_digests(pa.Table.from_batches([batch]), columns=columns)) for batch in batches]
    digests = np.frombuffer(b"".join(found), dtype="S32").copy()
    digests.sort()
    total = hashlib.sha256(SEPARATOR.join(columns).encode())
    total.update(digests.tobytes())
    return total.hexdigest()


def _texts(column: pa.ChunkedArray) -> pa.Array:
    """The column as large strings without nulls; different values give different texts."""
    values = column.combine_chunks()
    if isinstance(values, pa.ChunkedArray):  # a column of no chunks stays chunked
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
    kind = values.type
    if values.null_count == len(values):
        return pa.array([NULL] * len(values), pa.large_string())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        texts = values.cast(pa.large_string())
        for special in (ESCAPE, SEPARATOR, NULL):
            texts = pc.replace_substring(texts, special, ESCAPE + hex(ord(special))[2:])
    elif pa.types.is_timestamp(kind):
        texts = values.cast(pa.timestamp("us", tz=kind.tz)).cast(pa.int64()).cast(pa.large_string())
    elif pa.types.is_floating(kind):
        # Adding 0.0 makes -0.0 and 0.0 one value; the bits are exact where decimal text depends on the printer.
        wide = pc.add(values.cast(pa.float64()), 0.0)
        texts = wide.view(pa.int64()).cast(pa.large_string())
    elif pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        texts = values.cast(pa.large_string())
    else:
        texts = pa.array([None if value is None else _canonical(value) for value in values.to_pylist()])
        texts = texts.cast(pa.large_string())
    return pc.fill_null(texts, NULL)


def _canonical(value: object) -> str:
    return json.dumps(_plain(value), sort_keys=True, ensure_ascii=True, separators=(",", ":"))


def _plain(value: object) -> object:
    """Maps arrive as lists of pairs: their order says nothing, so pairs are sorted."""
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        if value and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
            return sorted((str(key), _plain(inner)) for key, inner in value)
        return [_plain(inner) for inner in value]
    return value
