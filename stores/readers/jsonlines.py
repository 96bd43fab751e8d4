"""JSON lines: one object a row. Values are those of Python's json: integers stay integers, texts stay texts."""

import json
import re
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from relations.parsing import Stated, excerpt
from stores.readers.chunks import Chunk
from stores.readers.expanding import Expanding
from stores.readers.lines import Lines, filled_lines
from stores.readers.rowwise import lazily, row_chunks

_PARSE_BYTES = 4 << 20
_PEEK_BYTES = 65_536
_WHOLE = rb"(-?\d+)(?=\s*[,}])"
_LF, _BRACE = ord("\n"), ord("{")


def read_jsonl(source: Expanding, *, chunk_rows: int) -> Iterator[Chunk]:
    """A chunk's names are those of its rows, in the order of the alphabet."""
    yield from row_chunks(Lines(source, rows=chunk_rows), JsonRows(), rows=chunk_rows)


class JsonRows:
    """Remembers which columns held texts, since Arrow would otherwise take texts that look like times for times."""

    names: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._texts: tuple[str, ...] = ()

    def fast(self, data: bytes) -> Chunk | None:
        """Flat objects, one on each line, whose columns are each of one type (numbers may be whole or not)."""
        bytes_B = np.frombuffer(data, np.uint8)
        starts_L = np.flatnonzero(bytes_B[:-1] == _LF) + 1
        if not data.startswith(b"{") or not (bytes_B[starts_L] == _BRACE).all():
            return None  # blank lines, indented ones, an object over several lines, or something else than an object
        rows = len(starts_L) + 1
        peek = data.rfind(b"\n", 0, _PEEK_BYTES) + 1
        if 0 < 2 * peek < len(data) and self.fast(data[:peek]) is None:
            return None  # soon, instead of after a parse of everything; else which columns hold texts is known now
        table = self._table(data)
        # Each line begins an object, none holds another, and there are as many: each line is one.
        if table is None or table.num_rows != rows or not table.num_columns:
            return None
        if not all(_agrees(name, table.column(name), data, rows) for name in table.schema.names):
            return None

        def column(name: str) -> Stated:
            if name not in table.schema.names:
                return [None] * rows
            values = table.column(name)
            whole = _whole(name, data) if pa.types.is_floating(values.type) else []
            if not any(whole):
                return values
            return [int(digits) if digits else value for digits, value in zip(whole, values.to_pylist(), strict=True)]

        def lines() -> list[bytes]:
            return filled_lines(data)

        names = tuple(sorted(table.schema.names))
        return Chunk(0, rows, names, {}, column, lazily(lines))

    def exact(self, data: bytes, *, start: int, stop: int, final: bool) -> tuple[Chunk, int]:
        lines = filled_lines(data[start:stop])
        rows: list[dict[str, object]] = []
        unreadable: dict[int, str] = {}
        for number, line in enumerate(lines):
            row = _object(line)
            if isinstance(row, str):
                unreadable[number] = row
            rows.append(row if isinstance(row, dict) else {})
        names = tuple(sorted({name for row in rows for name in row}))

        def column(name: str) -> Sequence[object]:
            return [row.get(name) for row in rows]

        return Chunk(0, len(rows), names, unreadable, column, lines.__getitem__), stop - start

    def _table(self, data: bytes) -> pa.Table | None:
        table = _read(data, self._texts)
        if table is None:
            self._texts = ()
            return None
        types = dict(zip(table.schema.names, table.schema.types, strict=True))
        texts = [name for name in self._texts if table.column(name).null_count < table.num_rows]
        times = [name for name, kind in types.items() if pa.types.is_timestamp(kind)]
        if times or len(texts) < len(self._texts):
            # A column that we only asked for may be absent; one that looks like times holds texts.
            table = _read(data, (*texts, *times))
        if table is not None:
            self._texts = tuple(field.name for field in table.schema if pa.types.is_string(field.type))
        return table


def _read(data: bytes, texts: Sequence[str]) -> pa.Table | None:
    from pyarrow import json as arrow_json

    try:
        return arrow_json.read_json(
            pa.BufferReader(data),
            read_options=arrow_json.ReadOptions(block_size=_PARSE_BYTES),
            parse_options=arrow_json.ParseOptions(explicit_schema=pa.schema([(name, pa.string()) for name in texts])),
        )
    except (pa.ArrowException, UnicodeDecodeError):
        return None


def _agrees(name: str, column: pa.ChunkedArray, data: bytes, rows: int) -> bool:
    """Whether Arrow's values are Python's: no nested ones, valid UTF-8, whole numbers among fractions to be found."""
    kind = column.type
    if pa.types.is_string(kind):
        try:
            column.validate(full=True)
        except pa.ArrowException:
            return False
        return True
    if pa.types.is_floating(kind):
        if pc.all(pc.is_finite(column)).as_py() is False:
            return False
        if b"\\" in data and re.search(rb'\\[^"\n]*"\s*:', data):
            return False  # a key may be spelt with escapes
        return not re.search(_key(name) + _WHOLE, data) or len(_whole(name, data)) == rows
    return bool(pa.types.is_null(kind) or pa.types.is_boolean(kind) or pa.types.is_int64(kind))


def _key(name: str) -> bytes:
    return re.escape(json.dumps(name, ensure_ascii=False).encode()) + rb"\s*:\s*"


def _whole(name: str, data: bytes) -> list[bytes]:
    """The digits of a column's whole numbers, empty for other values: one entry for each object that has the key."""
    return re.findall(_key(name) + b"(?:" + _WHOLE + b")?", data)


def _object(line: bytes) -> dict[str, object] | str:
    """The object on a line, or what is wrong with it."""
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start} of the row"
    except RecursionError:
        return "JSON nested too deeply"
    except ValueError as error:
        return f"not JSON: {error}"
    if not isinstance(row, dict):
        return f"JSON, but {_kind(row)} where an object is expected"
    if b"\\u" in line and (odd := next((name for name in row if not _is_text(name)), None)) is not None:
        return f"JSON, but the name {excerpt(odd)} is no text that can be stored"
    return row


def _is_text(name: str) -> bool:
    """Whether there are no halves of surrogate pairs in it, which JSON can escape and UTF-8 cannot say."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _kind(value: object) -> str:
    return {list: "a list", str: "a text", bool: "a truth value", type(None): "null"}.get(type(value), excerpt(value))
