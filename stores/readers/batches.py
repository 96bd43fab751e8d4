"""Readers: the bytes of one delivery as rows, counted here and nowhere else.

A reader never drops a row. A row that it cannot take apart (bad JSON, a wrong number of fields, bytes that are not
UTF-8) is delivered and named in `unreadable`. A file that it cannot take apart at all raises DataRejected with the
offset. Blank lines are no rows. Lines end at LF only: other Unicode line separators may stand in ids.
"""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from relations.errors import DataRejected
from relations.parsing import Stated, excerpt

# A quoted CSV field may span lines. Beyond this many a quote was left open, and its line alone is at fault.
MAX_LINES_A_ROW = 1_000
_FIELD_LIMIT = 1 << 30
GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)


@dataclass(frozen=True)
class Batch:
    """`rows` as the reader counted them. `column(name)` has one entry a row, None where absent or unreadable."""

    format: str
    rows: int
    names: tuple[str, ...]
    unreadable: dict[int, str]
    column: Callable[[str], Stated]
    raw: Callable[[int], bytes]


def read_jsonl(data: bytes) -> Batch:
    lines = [line for line in _lines(data) if line.strip()]
    rows: list[dict[str, object]] = []
    unreadable: dict[int, str] = {}
    for number, line in enumerate(lines):
        row: object = {}
        try:
            row = json.loads(line.decode())
            if not isinstance(row, dict):
                unreadable[number] = f"JSON, but {_json_name(row)} where an object is expected"
        except UnicodeDecodeError as error:
            unreadable[number] = f"not UTF-8 at byte {error.start} of the row"
        except RecursionError:
            unreadable[number] = "JSON nested too deeply"
        except ValueError as error:
            unreadable[number] = f"not JSON: {error}"
        rows.append(row if isinstance(row, dict) else {})
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    return Batch("jsonl", len(rows), names, unreadable, lambda name: [row.get(name) for row in rows], lines.__getitem__)


def read_csv(data: bytes, *, uri: str, delimiter: str | None = None) -> Batch:
    """The first line names the columns. `delimiter` None: the one of comma, tab and semicolon that it has most."""
    lines = _lines(data)
    while lines and not lines[0].strip():
        lines.pop(0)
    if not lines:
        return Batch("csv", 0, (), {}, lambda name: [], lines.__getitem__)
    try:
        head = lines[0].decode()
    except UnicodeDecodeError as error:
        raise DataRejected(
            f"{uri}: the header is not UTF-8 at offset {error.start}; write the file as UTF-8"
        ) from error
    delimiter = delimiter or max(",\t;", key=head.count)
    header = [name.strip() for name in next(csv.reader([head], delimiter=delimiter))]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataRejected(f"{uri}: offset 0: the header names {', '.join(twice)} twice; give each column its own name")
    raws, rows, unreadable = _fields(lines[1:], delimiter=delimiter, width=len(header), quoted=b'"' in data)
    return _tabular("csv", header, raws, rows, unreadable)


def read_movielens(data: bytes, *, kind: str) -> Batch:
    """MovieLens 100k: `u.data` (events), `u.item` (items), `u.user` (users); no header, u.item in Latin-1."""
    lines = [line for line in _lines(data) if line.strip()]
    if kind == "events":
        header = ["user_id", "item_id", "value", "event_time"]
        batch = _tabular("movielens", header, *_fields(lines, delimiter="\t", width=4, quoted=False))
        return _with(batch, behaviour=lambda: ["rating"] * batch.rows)
    encoded = [line.decode("latin-1").encode() for line in lines]
    if kind == "users":
        header = ["user_id", "age", "gender", "occupation", "zip_code"]
        return _tabular("movielens", header, lines, *_fields(encoded, delimiter="|", width=5, quoted=False)[1:])
    header = ["item_id", "title", "release_date", "video_release_date", "imdb_url", *GENRES]
    batch = _tabular("movielens", header, lines, *_fields(encoded, delimiter="|", width=24, quoted=False)[1:])

    def categories() -> list[object]:
        flags = [batch.column(genre) for genre in GENRES]
        return [[name for name, flag in zip(GENRES, row, strict=True) if flag == "1"] for row in zip(*flags)]  # noqa: B905

    shown = _with(batch, categories=categories)
    return Batch(
        "movielens", batch.rows, ("item_id", "title", "release_date", "categories"), batch.unreadable, shown.column,
        batch.raw,
    )  # fmt: skip


def read_parquet(data: bytes, *, uri: str) -> Batch:
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise DataRejected(
            f"{uri}: not readable as Parquet ({len(data)} bytes, footer at offset {max(len(data) - 8, 0)}): {reason}; "
            "write the file again"
        ) from error

    def raw(row: int) -> bytes:
        said = table.slice(row, 1).to_pylist()[0]
        return json.dumps(said, default=str, ensure_ascii=True).encode()

    return Batch("parquet", table.num_rows, tuple(table.schema.names), {}, table.column, raw)


def _lines(data: bytes) -> list[bytes]:
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return [line.removesuffix(b"\r") for line in lines]


def _tabular(
    name: str, header: list[str], raws: list[bytes], rows: list[list[str] | None], unreadable: dict[int, str]
) -> Batch:
    places = {column: place for place, column in enumerate(header)}

    def column(wanted: str) -> list[object]:
        place = places.get(wanted)
        return [None if row is None or place is None else row[place] or None for row in rows]

    return Batch(name, len(rows), tuple(header), unreadable, column, raws.__getitem__)


def _with(batch: Batch, **columns: Callable[[], Stated]) -> Batch:
    """The batch with more columns, computed when asked for."""

    def column(name: str) -> Stated:
        return columns[name]() if name in columns else batch.column(name)

    return Batch(batch.format, batch.rows, (*batch.names, *columns), batch.unreadable, column, batch.raw)


def _fields(
    lines: list[bytes], *, delimiter: str, width: int, quoted: bool
) -> tuple[list[bytes], list[list[str] | None], dict[int, str]]:
    """(raw row, its fields or None, row → what is wrong with it) of each row that is not blank."""
    raws: list[bytes] = []
    rows: list[list[str] | None] = []
    unreadable: dict[int, str] = {}
    split = _quoted_rows(lines, delimiter) if quoted else _plain_rows(lines, delimiter)
    for raw, fields in split:
        if isinstance(fields, list) and len(fields) != width:
            fields = f"{len(fields)} fields where the header has {width}"
        if isinstance(fields, str):
            unreadable[len(rows)] = fields
        raws.append(raw)
        rows.append(fields if isinstance(fields, list) else None)
    return raws, rows, unreadable


def _plain_rows(lines: list[bytes], delimiter: str) -> Iterator[tuple[bytes, list[str] | str]]:
    for line in lines:
        if not line.strip():
            continue
        try:
            yield line, line.decode().split(delimiter)
        except UnicodeDecodeError as error:
            yield line, f"not UTF-8 at byte {error.start} of the row"


def _quoted_rows(lines: list[bytes], delimiter: str) -> Iterator[tuple[bytes, list[str] | str]]:
    """RFC 4180. The csv module says where a row ends; a row that it cannot end costs its first line only."""
    csv.field_size_limit(_FIELD_LIMIT)
    at = 0
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        taken = 0

        def next_lines(start: int) -> Iterator[str]:
            nonlocal taken
            for line in lines[start : start + MAX_LINES_A_ROW]:
                taken += 1
                yield line.decode() + "\n"

        try:
            fields: list[str] | str = next(csv.reader(next_lines(at), delimiter=delimiter, strict=True))
        except UnicodeDecodeError as error:
            taken, fields = 1, f"not UTF-8 at byte {error.start} of the row"
        except csv.Error as error:
            taken, fields = 1, f"not CSV: {error}"
        yield b"\n".join(lines[at : at + taken]), fields
        at += taken


def _json_name(value: object) -> str:
    return {list: "a list", str: "a text", bool: "a truth value", type(None): "null"}.get(type(value), excerpt(value))
