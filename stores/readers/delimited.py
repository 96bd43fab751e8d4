"""CSV and its kin: fields between delimiters, a row a line, quoted fields that may span lines (RFC 4180)."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from relations.errors import DataRejected
from stores.readers.chunks import Chunk
from stores.readers.expanding import Expanding
from stores.readers.lines import BLOCK_BYTES, BOM, Lines, Overlong
from stores.readers.rowwise import lazily, row_chunks, texts_chunk

MAX_LINES_A_ROW = 1_000
"""A quoted field may span lines. Beyond this many a quote was left open, and its line alone is at fault."""
_FIELD_LIMIT = 1 << 30
_PARSE_BYTES = 4 << 20
_QUOTE, _LF, _CR = ord('"'), ord("\n"), ord("\r")


def read_csv(source: Expanding, *, uri: str, chunk_rows: int, delimiter: str | None = None) -> Iterator[Chunk]:
    """The first line that holds anything names the columns. `delimiter` None: the one of comma, tab and semicolon that
    it has most."""
    lines = Lines(source, rows=chunk_rows)
    head, offset = _first_line(lines, uri=uri)
    if head is None:
        return
    try:
        text = head.decode()
        chosen = delimiter or max(",\t;", key=text.count)
        header = tuple(name.strip() for name in next(csv.reader([text], delimiter=chosen)))
    except UnicodeDecodeError as error:
        raise DataRejected(
            f"{uri}: the header is not UTF-8 at offset {offset + error.start}; write the file as UTF-8"
        ) from error
    except csv.Error as error:
        raise DataRejected(f"{uri}: offset {offset}: the header is not CSV: {error}; end lines with LF") from error
    refuse_twice(header, uri=uri, offset=offset)
    yield from row_chunks(lines, Delimited(header, chosen), rows=chunk_rows)


def refuse_twice(header: tuple[str, ...], *, uri: str, offset: int = 0) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        names = ", ".join(name or '""' for name in twice)
        raise DataRejected(f"{uri}: offset {offset}: the header names {names} twice; give each column its own name")


def _first_line(lines: Lines, *, uri: str) -> tuple[bytes | None, int]:
    offset = 0
    while (block := lines.take()) is not None:
        if isinstance(block, Overlong):
            raise DataRejected(f"{uri}: offset {offset}: the header is {block.fault()}; end lines with LF")
        at = 0
        while at < len(block):
            end = block.find(b"\n", at) + 1 or len(block)
            if block[at:end].strip():
                lines.put_back(block[end:])
                return block[at:end].rstrip(b"\r\n"), offset + at
            at = end
        offset += len(block)
    return None, offset


@dataclass(frozen=True)
class Delimited:
    """Rows of `names` columns, all texts; an empty field is None. `delimiter` may be longer than one character.

    A line without a quote is split as it stands; `quoted` False: so is every line.
    """

    names: tuple[str, ...]
    delimiter: str = ","
    quoted: bool = True
    encoding: str = "utf-8"

    def fast(self, data: bytes) -> Chunk | None:
        from pyarrow import csv as arrow_csv

        quotes = self.quoted and b'"' in data
        if len(self.names) < 2 or len(self.delimiter) > 1 or self.encoding != "utf-8":
            return None  # Arrow would take a blank line for a row of one column
        if data.startswith(BOM):
            return None  # Arrow would leave it out at the start of any block
        if b"\r" in data and data.count(b"\r") != data.count(b"\r\n"):
            return None  # Arrow would end a line there
        if quotes and not _well_quoted(data, ord(self.delimiter)):
            return None
        numbered = [str(place) for place in range(len(self.names))]
        try:
            table = arrow_csv.read_csv(
                pa.BufferReader(data),
                read_options=arrow_csv.ReadOptions(column_names=numbered, block_size=_PARSE_BYTES),
                parse_options=arrow_csv.ParseOptions(
                    delimiter=self.delimiter, quote_char='"' if quotes else False, newlines_in_values=False
                ),
                convert_options=arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(numbered, pa.string()),
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=True,
                ),
            )
        except pa.ArrowException:
            return None

        def lines() -> list[bytes]:
            return [line.removesuffix(b"\r") for line in data.split(b"\n") if line not in (b"", b"\r")]

        return texts_chunk(self.names, table.rename_columns(list(self.names)), {}, lazily(lines))

    def exact(self, data: bytes, *, start: int, stop: int, final: bool) -> tuple[Chunk, int]:
        blank = bytes(set(b" \t\r\n\v\f") - set(self.delimiter.encode()))
        raws: list[bytes] = []
        rows: list[list[str]] = []
        unreadable: dict[int, str] = {}
        nothing, width, at = [""] * len(self.names), len(self.names), start
        while at < stop:
            end = data.find(b"\n", at)
            after = end + 1 if end >= 0 else len(data)
            line = data[at : end if end >= 0 else after].removesuffix(b"\r")
            if not line.strip(blank):
                at = after
                continue
            if self.quoted and b'"' in line:
                fields, after = self._quoted(data, at, after, final=final)
                if fields is None:
                    break
            else:
                fields = self._plain(line)
            if isinstance(fields, list) and len(fields) != width:
                fields = f"{len(fields)} fields where the header has {width}"
            if isinstance(fields, str):
                unreadable[len(rows)] = fields
            raws.append(_without_end(data[at:after]))
            rows.append(fields if isinstance(fields, list) else nothing)
            at = after
        columns = [[row[place] or None for row in rows] for place in range(width)]
        table = pa.Table.from_arrays([pa.array(column, pa.string()) for column in columns], list(self.names))
        return texts_chunk(self.names, table, unreadable, raws.__getitem__), at - start

    def _plain(self, line: bytes) -> list[str] | str:
        try:
            return line.decode(self.encoding).split(self.delimiter)
        except UnicodeDecodeError as error:
            return f"not UTF-8 at byte {error.start} of the row"

    def _quoted(self, data: bytes, start: int, line_end: int, *, final: bool) -> tuple[list[str] | str | None, int]:
        """(the fields, or what is wrong, or None: more lines are needed; where the row ends).

        The csv module says where a row ends; a row that it cannot end costs its first line only.
        """
        csv.field_size_limit(_FIELD_LIMIT)
        at, short = start, False

        def next_lines() -> Iterator[str]:
            nonlocal at, short
            for _ in range(MAX_LINES_A_ROW):
                if at >= len(data) or at - start > BLOCK_BYTES:
                    short = at - start <= BLOCK_BYTES
                    return
                end = data.find(b"\n", at) + 1 or len(data)
                line = _without_end(data[at:end])
                at = end
                yield line.decode(self.encoding) + "\n"

        try:
            return next(csv.reader(next_lines(), delimiter=self.delimiter, strict=True)), at
        except UnicodeDecodeError as error:
            return f"not UTF-8 at byte {error.start} of the row", line_end
        except csv.Error as error:
            if short and not final:
                return None, start
            return f"not CSV: {error}", line_end


def _without_end(line: bytes) -> bytes:
    return line.removesuffix(b"\n").removesuffix(b"\r")


def _well_quoted(data: bytes, delimiter: int) -> bool:
    """Whether every quote belongs to a field that it begins and ends, with no line's end inside it.

    Of such rows Arrow and the csv module think the same; of others (a quote inside a field, text after the closing
    one) they do not.
    """
    bytes_B = np.frombuffer(b"\n" + data + b"\n\n", np.uint8)
    quotes_Q = np.flatnonzero(bytes_B == _QUOTE)
    if len(quotes_Q) % 2:
        return False
    opening_P, closing_P = quotes_Q[0::2], quotes_Q[1::2]
    doubled = opening_P[1:] == closing_P[:-1] + 1  # "" inside a field closes it and opens it again
    before_P, after_P = bytes_B[opening_P - 1], bytes_B[closing_P + 1]
    begins_P = (before_P == delimiter) | (before_P == _LF)
    ends_P = (after_P == delimiter) | (after_P == _LF) | (after_P == _CR)
    begins_P[1:] |= doubled
    ends_P[:-1] |= doubled
    spanning = np.searchsorted(quotes_Q, np.flatnonzero(bytes_B == _LF)) % 2
    return bool(begins_P.all() and ends_P.all() and not spanning.any())
