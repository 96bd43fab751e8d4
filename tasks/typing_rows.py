"""From what a chunk states to typed columns of its kind, with users as pseudonyms.

Shapes: N rows of the chunk, C named columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from relations.errors import SettingsError
from relations.parsing import Stated, objects, parse
from stores.binding import Binding, fields
from stores.readers.chunks import Chunk
from stores.settings import SourceSettings
from tasks.pseudonymising import Users

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_ATTRIBUTES = 64
_TEXTS = pa.map_(pa.string(), pa.string())


@dataclass(frozen=True)
class Typed:
    """`rows`: every column of the kind, null where absent or unread. `untyped`: row → (column, why it was not read).

    `roots`: what a user's derived event ids are made of, the same whichever pseudonym key is in force; null where
    the user is.
    """

    rows: pa.Table
    untyped: dict[int, list[tuple[str, str]]]
    roots: pa.Array


def typed(chunk: Chunk, binding: Binding, *, kind: str, source: str, settings: SourceSettings, users: Users) -> Typed:
    """Read each column of `kind`; what cannot be read without changing it is null and named."""
    columns: dict[str, pa.Array] = {}
    untyped: dict[int, list[tuple[str, str]]] = {}
    roots = pa.nulls(chunk.rows, pa.string())
    schema = pa.schema([field.with_nullable(True) for field in fields(kind)])
    for field in schema:
        stated = binding.columns.get(field.name)
        if field.name == "user":
            columns["user"], roots, unread = _users(chunk, binding, users)
        elif stated is not None:
            said = chunk.column(stated)
            if field.name == "behaviour" and settings.behaviours:
                said = _renamed(said, settings.behaviours)
            parsed = parse(said, field.type, time_unit=settings.time_unit)
            columns[field.name], unread = parsed.values, parsed.unread
        else:
            columns[field.name], unread = _unstated(chunk, binding, field, source), {}
        for row, why in unread.items():
            untyped.setdefault(row, []).append((field.name, why))
    if kind == "events" and binding.context and "context" not in binding.columns:
        columns["context"] = texts_map(chunk, binding.context)
    if "attributes" in columns and "attributes" not in binding.columns and binding.extra:
        columns["attributes"] = texts_map(chunk, binding.extra[:MAX_ATTRIBUTES])
    _fill(columns, untyped)
    return Typed(pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema), untyped, roots)


def texts_map(chunk: Chunk, names: Sequence[str]) -> pa.MapArray:
    """The named columns as one map of texts a row, without those that the row does not state."""
    names = sorted(names)
    columns = [_texts(chunk.column(name)) for name in names]
    stated_NC = np.stack([column.is_valid().to_numpy(zero_copy_only=False) for column in columns], axis=1)
    row_V, column_V = np.nonzero(stated_NC)  # V: stated values, row by row
    offsets = np.concatenate([[0], np.cumsum(stated_NC.sum(axis=1))]).astype(np.int32)
    values = pa.concat_arrays(columns).take(pa.array(column_V * chunk.rows + row_V))
    keys = pa.array(names, pa.string()).take(pa.array(column_V))
    return pa.MapArray.from_arrays(pa.array(offsets), keys, values)


def _unstated(chunk: Chunk, binding: Binding, field: pa.Field, source: str) -> pa.Array:
    constant = binding.constants.get(field.name)
    if constant is None:
        return pa.nulls(chunk.rows, field.type)
    parsed = parse([constant], field.type)
    if parsed.unread:
        raise SettingsError(f"ratchet.toml: [sources.{source}] constants: {field.name}: {parsed.unread[0]}")
    return pa.repeat(parsed.values[0], chunk.rows)


def _users(chunk: Chunk, binding: Binding, users: Users) -> tuple[pa.Array, pa.Array, dict[int, str]]:
    """(pseudonyms, roots, row → why there is none). A pseudonym that a row has goes before its raw id."""
    raw, pseudonym = binding.users
    values, roots, unread = pa.nulls(chunk.rows, pa.string()), pa.nulls(chunk.rows, pa.string()), {}
    if pseudonym is not None:
        parsed = parse(chunk.column(pseudonym), pa.string())
        values, roots = users.lifted(parsed.values)
        unread = dict.fromkeys(parsed.unread, f"{pseudonym} is not a text")
    if raw is not None:
        parsed = parse(chunk.column(raw), pa.string())
        hashed, hashed_roots, refused = users.hashed(parsed.values, column=raw)
        refused |= dict.fromkeys(parsed.unread, f"{raw} is not a text or whole number")
        if values.null_count == chunk.rows:
            return hashed, hashed_roots, refused
        unread |= {row: why for row, why in refused.items() if not values[row].is_valid}
        roots = pc.coalesce(roots.cast(pa.string()), hashed_roots.cast(pa.string()))
        values = pc.coalesce(values, hashed)
    return values, roots, unread


def _renamed(said: Stated, names: Mapping[str, str]) -> Stated:
    if not isinstance(said, pa.ChunkedArray):
        return [names.get(value, value) if isinstance(value, str) else value for value in said]
    coded = said.combine_chunks().dictionary_encode()
    if isinstance(coded, pa.ChunkedArray):
        coded = pa.concat_arrays(coded.chunks) if coded.num_chunks else pa.array([], pa.string()).dictionary_encode()
    known = [names.get(value, value) if isinstance(value, str) else value for value in coded.dictionary.to_pylist()]
    return pa.chunked_array([pa.array(known).take(coded.indices)]) if known else said


def _texts(said: Stated) -> pa.Array:
    """Strings as they are, whole numbers in digits, the rest as JSON."""
    if isinstance(said, pa.ChunkedArray):
        kind = said.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind):
            return pa.concat_arrays(said.cast(pa.string()).chunks or [pa.array([], pa.string())])
        said = objects(said)
    parsed = parse([{"": value} for value in said], _TEXTS)
    values: list[Any] = [None if pairs is None else dict(pairs).get("") for pairs in parsed.values.to_pylist()]
    return pa.array(values, pa.string())


def _fill(columns: dict[str, pa.Array], untyped: Mapping[int, Sequence[tuple[str, str]]]) -> None:
    """Defaults for what a source leaves out; never for what it states and we cannot read."""
    defaults = {"valid_from": EPOCH, "available": True, "categories": []}
    for name, default in defaults.items():
        if name in columns and columns[name].null_count:
            unread = {row for row, faults in untyped.items() if any(column == name for column, _ in faults)}
            if not unread and name != "categories":
                columns[name] = pc.fill_null(columns[name], pa.scalar(default, columns[name].type))
                continue
            values = columns[name].to_pylist()
            filled = [default if value is None and row not in unread else value for row, value in enumerate(values)]
            columns[name] = pa.array(filled, columns[name].type)
