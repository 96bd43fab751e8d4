"""The formats that are not of one data set: which one a file is in, and its rows."""

from collections.abc import Iterator
from pathlib import PurePosixPath

from relations.errors import DataRejected
from stores.readers.chunks import Chunk
from stores.readers.columnar import read_arrow, read_parquet
from stores.readers.delimited import read_csv
from stores.readers.expanding import compressor
from stores.readers.inputs import Input
from stores.readers.jsonlines import read_jsonl
from stores.readers.lines import BOM

_BY_NAME = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
_COLUMNAR = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow"}
_REFUSED = {
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"PK\x05\x06": "an empty zip archive: unpack it first",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive: unpack it first",
    b"\x1f\x9d": "compress (.Z): unpack it first",
    b"FEA1": "Feather version 1: write it as version 2",
    b"ORC": "ORC: write it as Parquet",
    b"Obj\x01": "Avro: write it as Parquet",
    b"\x89PNG": "a PNG image",
    b"%PDF": "a PDF document",
    b"\xff\xfe": "UTF-16: write it as UTF-8",
    b"\xfe\xff": "UTF-16: write it as UTF-8",
    b"SQLite format 3": "an SQLite database: export the table",
}
_FEW_NULS = 4
_READ = "CSV, JSON lines, Parquet and Arrow are read, plain or in one gzip, bzip2, xz or zstd"


def columnar_format(head: bytes) -> str | None:
    """Parquet or Arrow, by magic."""
    return next((format for magic, format in _COLUMNAR.items() if head.startswith(magic)), None)


def generic_format(input: Input) -> str:
    """By magic, then by name, then by the first character. Raises DataRejected for what is known and not read."""
    refuse_unread(input)
    by_name = _BY_NAME.get(PurePosixPath(input.name).suffix.lower())
    guessed = "jsonl" if input.head.removeprefix(BOM).lstrip()[:1] in (b"{", b"[") else "csv"
    return columnar_format(input.head) or by_name or guessed


def refuse_unread(input: Input) -> None:
    for magic, what in _REFUSED.items():
        if input.head.startswith(magic):
            raise DataRejected(f"{input.uri}: offset 0: {what}; {_READ}")
    inner = compressor(input.head)
    if inner and not columnar_format(input.head) and compressor(_first_bytes(input)):
        raise DataRejected(f"{input.uri}: offset 0: compressed twice ({inner} inside): unpack it first; {_READ}")


def generic_chunks(input: Input, format: str) -> Iterator[Chunk]:
    """The rows of a file in csv, jsonl, parquet or arrow; a file of white space has none."""
    if not input.head.strip():
        return
    if format in ("parquet", "arrow"):
        with input.file() as file:
            if format == "arrow":
                yield from read_arrow(file, uri=input.uri, chunk_rows=input.chunk_rows)
            else:
                yield from read_parquet(
                    file, uri=input.uri, chunk_rows=input.chunk_rows, max_expansion=input.max_expansion
                )
        return
    require_text(input)
    with input.content() as source:
        if format == "jsonl":
            yield from read_jsonl(source, chunk_rows=input.chunk_rows)
        else:
            tabs = "\t" if PurePosixPath(input.name).suffix.lower() == ".tsv" else None
            yield from read_csv(source, uri=input.uri, chunk_rows=input.chunk_rows, delimiter=tabs)


def require_text(input: Input) -> None:
    """Bad UTF-8 in a row is that row's fault; a head full of it, or of NUL, is no text at all."""
    head = input.head
    if is_binary(head):
        text = head.decode(errors="replace")
        offset = len(text.partition("\ufffd")[0].partition("\0")[0].encode())
        raise DataRejected(
            f"{input.uri}: binary from offset {offset} (byte 0x{head[offset]:02x}), not text; "
            "deliver CSV, JSON lines, Parquet or Arrow, texts as UTF-8, or name the --format"
        )


def is_binary(head: bytes) -> bool:
    text = head.decode(errors="replace")
    return head.count(0) > max(_FEW_NULS, 0.01 * len(head)) or text.count("\ufffd") > 0.3 * len(text)


def _first_bytes(input: Input) -> bytes:
    with input.path.open("rb") as file:
        return file.read(8)
