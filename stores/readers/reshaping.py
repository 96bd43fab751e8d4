"""From a data set's own columns to Ratchet's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from relations.parsing import Stated
from stores.readers.chunks import Chunk
from stores.readers.rowwise import objects


def reshaped(chunk: Chunk, columns: Mapping[str, str | Callable[[], Stated]]) -> Chunk:
    """The same rows with other columns: each one of the chunk's under a new name, or computed when asked for.

    A column that the chunk does not have is left out, so that the door says that it is missing.
    """
    kept = {name: said for name, said in columns.items() if not isinstance(said, str) or said in chunk.names}

    def column(name: str) -> Stated:
        said = kept.get(name)
        if said is None:
            return [None] * chunk.rows
        return chunk.column(said) if isinstance(said, str) else said()

    return replace(chunk, names=tuple(kept), column=column)


def first_of(chunk: Chunk, *names: str) -> str:
    """The first of the names that the chunk has, else the first one."""
    return next((name for name in names if name in chunk.names), names[0])


def constant(value: str | float | bool, rows: int) -> Callable[[], Stated]:
    """A column of one value."""
    return lambda: pa.chunked_array([pa.repeat(value, rows)])


def mapped(values: Stated, change: Callable[[str], object]) -> list[object]:
    """A column of texts changed one by one; what is no text stays."""
    return [change(value) if isinstance(value, str) else value for value in objects(values)]


def texts(values: Stated) -> pa.Array:
    """A column as one Arrow array of texts, as the data sets' ids are."""
    flat = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else pa.array(values, pa.string())
    return flat.cast(pa.string())


def seconds_after(base_us: int, seconds: np.ndarray) -> pa.ChunkedArray:
    """Made-up times: so many seconds after a base time in microseconds."""
    micros = base_us + np.round(np.asarray(seconds, dtype=np.float64) * 1e6).astype(np.int64)
    return pa.chunked_array([pa.array(micros, pa.timestamp("us", tz="UTC"))])


def logged_elsewhere(*, policy: str, surface: str, rows: int) -> dict[str, Callable[[], Stated]]:
    """The columns of an exposure that a log of somebody else's system has no say in."""
    values: dict[str, str | float | bool] = {
        "policy": policy,
        "surface": surface,
        "variant": "logged",
        "allocation": 0.0,
        "assignment_reason": "logged",
        "champion_epoch": 0,
        "model_version": 0,
        "digest": "external",
        "served_by": "external",
        "explored": False,
        "is_shadow": False,
        "is_bot": False,
        "latency_ms": 0.0,
    }
    return {name: constant(value, rows) for name, value in values.items()}


def selected(chunk: Chunk, rows: Sequence[int]) -> Chunk:
    """Some rows of the chunk, in the order given, numbered anew from 0."""
    places = pa.array(rows, pa.int64())
    new = {row: place for place, row in enumerate(rows)}

    def column(name: str) -> Stated:
        values = chunk.column(name)
        if isinstance(values, pa.ChunkedArray):
            return values.take(places)
        return [values[row] for row in rows]

    unreadable = {new[row]: why for row, why in chunk.unreadable.items() if row in new}
    return Chunk(0, len(rows), chunk.names, unreadable, column, lambda row: chunk.raw(rows[row]))
