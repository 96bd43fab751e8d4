"""What a reader hands on: runs of rows as the source states them, so that a delivery of any size fits in memory."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from relations.parsing import Stated


@dataclass(frozen=True)
class Chunk:
    """Rows `first` … `first + rows - 1` of a delivery, in order.

    `column(name)` has one entry a row, None where absent or unreadable. Rows are numbered from 0 within the chunk in
    `unreadable` (row → why the reader could not take it apart) and `raw` (the row's bytes as delivered).
    """

    first: int
    rows: int
    names: tuple[str, ...]
    unreadable: Mapping[int, str]
    column: Callable[[str], Stated]
    raw: Callable[[int], bytes]


@dataclass(frozen=True)
class Delivered:
    """One opened delivery. `chunks` may be taken once; `format` is the reader's, never `auto`."""

    format: str
    chunks: Iterator[Chunk]
