"""Rows of text, as chunks: by Arrow's parsers where they plainly agree with the exact one, else row by row.

A parser has two ways. `fast` reads a run of lines at once, or declines when anything in it is unusual. `exact` reads
it row by row, names each row that it cannot take apart, and is what `fast` is held to.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Protocol

import pyarrow as pa

from relations.parsing import Stated
from stores.readers.chunks import Chunk
from stores.readers.lines import Lines, Overlong

PIECE_BYTES = 1 << 20
"""A block with something unusual in it is read in pieces of this size, so that one bad row slows its piece only."""


class RowParser(Protocol):
    @property
    def names(self) -> tuple[str, ...]:
        """Known before any row is read; of a source that names columns in its rows, none."""

    def fast(self, data: bytes) -> Chunk | None:
        """Whole lines, all of them; None declines."""

    def exact(self, data: bytes, *, start: int, stop: int, final: bool) -> tuple[Chunk, int]:
        """The rows that begin in [start, stop), and the bytes that they take.

        Fewer than stop − start where a row is open at the end of the data, unless `final`; more where a row goes on.
        """


def row_chunks(lines: Lines, parser: RowParser, *, rows: int) -> Iterator[Chunk]:
    """Every row of the lines, in chunks of at most `rows`; no chunk is empty."""
    first = needed = 0
    while (block := lines.take(beyond=needed)) is not None:
        if isinstance(block, Overlong):
            parts, needed = [_overlong(block, parser.names)], 0
        else:
            parts, used = _parse(block, parser, final=lines.ended or 0 < len(block) <= needed)
            lines.put_back(block[used:])
            needed = 0 if used else len(block)
        for chunk in cut(joined(parts), rows=rows):
            yield replace(chunk, first=first)
            first += chunk.rows


def _parse(data: bytes, parser: RowParser, *, final: bool) -> tuple[list[Chunk], int]:
    whole = parser.fast(data)
    if whole is not None:
        return [whole], len(data)
    parts, at = [], 0
    while at < len(data):
        stop = data.find(b"\n", at + PIECE_BYTES) + 1 or len(data)
        part = parser.fast(data[at:stop]) if stop - at < len(data) else None
        used = stop - at
        if part is None:
            part, used = parser.exact(data, start=at, stop=stop, final=final)
        if not used:
            break
        parts.append(part)
        at += used
    return parts, at


def _overlong(line: Overlong, names: tuple[str, ...]) -> Chunk:
    return Chunk(0, 1, names, {0: line.fault()}, lambda name: [None], lambda row: line.head)


def texts_chunk(
    names: tuple[str, ...], table: pa.Table, unreadable: dict[int, str], raw: Callable[[int], bytes]
) -> Chunk:
    """A chunk over a table of the same columns."""

    def column(name: str) -> Stated:
        return table.column(name) if name in names else [None] * table.num_rows

    return Chunk(0, table.num_rows, names, unreadable, column, raw)


def lazily(lines: Callable[[], Sequence[bytes]]) -> Callable[[int], bytes]:
    """`raw` of a chunk whose rows are found in their block only when one is asked for."""
    found = cache(lines)
    return lambda row: found()[row]


def joined(parts: Sequence[Chunk]) -> Chunk:
    """One chunk after the other; a column that a part lacks is None there."""
    if len(parts) == 1:
        return parts[0]
    names = tuple(dict.fromkeys(name for part in parts for name in part.names))
    starts = [0]
    for part in parts:
        starts.append(starts[-1] + part.rows)
    unreadable = {start + row: why for start, part in zip(starts, parts) for row, why in part.unreadable.items()}  # noqa: B905

    def column(name: str) -> Stated:
        said = [part.column(name) if name in part.names else [None] * part.rows for part in parts]
        arrays = [values for values in said if isinstance(values, pa.ChunkedArray)]
        if len(arrays) == len(parts) and len({values.type for values in arrays}) == 1:
            return pa.chunked_array([chunk for values in arrays for chunk in values.chunks], arrays[0].type)
        return [value for values in said for value in objects(values)]

    def raw(row: int) -> bytes:
        place = next(place for place, start in enumerate(starts[1:]) if row < start)
        return parts[place].raw(row - starts[place])

    return Chunk(0, starts[-1], names, unreadable, column, raw)


def cut(chunk: Chunk, *, rows: int) -> Iterator[Chunk]:
    """The chunk in runs of at most `rows`."""
    if 0 < chunk.rows <= rows:
        yield chunk
        return
    for start in range(0, chunk.rows, rows):
        yield _slice(chunk, start, min(start + rows, chunk.rows))


def _slice(chunk: Chunk, start: int, stop: int) -> Chunk:
    def column(name: str) -> Stated:
        values = chunk.column(name)
        return values.slice(start, stop - start) if isinstance(values, pa.ChunkedArray) else values[start:stop]

    unreadable = {row - start: why for row, why in chunk.unreadable.items() if start <= row < stop}
    return Chunk(0, stop - start, chunk.names, unreadable, column, lambda row: chunk.raw(start + row))


def objects(values: Stated) -> Sequence[object]:
    """A column's values as Python objects."""
    said: Sequence[object] = values.to_pylist() if isinstance(values, pa.ChunkedArray) else values
    return said
