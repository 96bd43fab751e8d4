"""Parquet and Arrow (IPC files, also called Feather, and IPC streams), batch by batch."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from relations.errors import DataRejected
from stores.readers.chunks import Chunk
from stores.readers.delimited import refuse_twice
from stores.readers.expanding import FREE_BYTES
from stores.readers.rowwise import cut, texts_chunk

_BATCH_BYTES = 64 << 20
_BROKEN = (pa.ArrowException, OSError, UnicodeDecodeError)


def read_parquet(file: pa.NativeFile, *, uri: str, chunk_rows: int, max_expansion: float) -> Iterator[Chunk]:
    """A batch of rows at a time, fewer of them the wider they are."""
    import pyarrow.parquet as pq

    size = file.size()
    try:
        parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
        names = tuple(parquet.schema_arrow.names)
        said = parquet.metadata
        opens = sum(said.row_group(group).total_byte_size for group in range(said.num_row_groups))
    except _BROKEN as error:
        raise DataRejected(
            f"{uri}: not readable as Parquet ({size} bytes, footer at offset {max(size - 8, 0)}): {_reason(error)}; "
            "write the file again"
        ) from error
    refuse_twice(names, uri=uri)
    if max(opens, said.num_rows) > max(FREE_BYTES, max_expansion * size):
        raise DataRejected(
            f"{uri}: {size} bytes of Parquet that open to {opens} bytes in {said.num_rows} rows, more than "
            f"{max_expansion:g} times as many; if it is no bomb, raise [lake] max_expansion"
        )
    width = max(1, opens // max(1, said.num_rows))
    batches = parquet.iter_batches(batch_size=max(1, min(chunk_rows, _BATCH_BYTES // width)))
    yield from _chunks(batches, uri=uri, what="Parquet", rows=chunk_rows)


def read_arrow(file: pa.NativeFile, *, uri: str, chunk_rows: int) -> Iterator[Chunk]:
    """Memory is that of the file's largest record batch."""
    is_file = file.read(6) == b"ARROW1"
    file.seek(0)
    try:
        reader = pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)
        names = tuple(reader.schema.names)
    except _BROKEN as error:
        raise DataRejected(
            f"{uri}: not readable as Arrow IPC ({file.size()} bytes, offset 0): {_reason(error)}; write the file again"
        ) from error
    refuse_twice(names, uri=uri)
    batches = (reader.get_batch(at) for at in range(reader.num_record_batches)) if is_file else reader
    yield from _chunks(batches, uri=uri, what="Arrow IPC", rows=chunk_rows)


def _chunks(batches: Any, *, uri: str, what: str, rows: int) -> Iterator[Chunk]:
    first = 0
    try:
        for batch in batches:
            for chunk in cut(_chunk(pa.Table.from_batches([batch])), rows=rows):
                yield replace(chunk, first=first)
                first += chunk.rows
    except _BROKEN as error:
        raise DataRejected(
            f"{uri}: {what} broken after row {first}, at no known offset: {_reason(error)}; write the file again"
        ) from error


def _chunk(table: pa.Table) -> Chunk:
    unreadable: dict[int, str] = {}
    columns = [_plain(name, column, unreadable) for name, column in zip(table.schema.names, table.columns, strict=True)]
    plain = pa.Table.from_arrays(columns, table.schema.names)

    def raw(row: int) -> bytes:
        return json.dumps(plain.slice(row, 1).to_pylist()[0], default=str).encode()

    return texts_chunk(tuple(plain.schema.names), plain, unreadable, raw)


def _plain(name: str, column: pa.ChunkedArray, unreadable: dict[int, str]) -> pa.ChunkedArray:
    """The column without its encoding. A text that is not UTF-8 becomes None, and its row unreadable."""
    kind = column.type
    try:
        column.validate(full=True)  # a broken file must not reach code that trusts its offsets
    except pa.ArrowInvalid:
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise
        return _decoded(name, column, unreadable)
    if pa.types.is_dictionary(kind):
        return column.cast(kind.value_type)
    if pa.types.is_run_end_encoded(kind):
        return pa.chunked_array([pc.run_end_decode(chunk) for chunk in column.chunks], kind.value_type)
    return column.cast(pa.large_string()) if pa.types.is_string_view(kind) else column


def _decoded(name: str, column: pa.ChunkedArray, unreadable: dict[int, str]) -> pa.ChunkedArray:
    texts: list[str | None] = []
    large = pa.types.is_large_string(column.type)
    encoded = column.cast(pa.large_binary() if large else pa.binary())
    encoded.validate(full=True)
    for row, value in enumerate(encoded.to_pylist()):
        try:
            texts.append(None if value is None else value.decode())
        except UnicodeDecodeError as error:
            texts.append(None)
            unreadable.setdefault(row, f"column {name} is not UTF-8 at byte {error.start}")
    return pa.chunked_array([pa.array(texts, column.type)])


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
