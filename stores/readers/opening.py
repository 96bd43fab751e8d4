"""Opening a delivery: which format it is in, which kinds of rows it holds, and the rows themselves in chunks.

What the bytes say goes before what the name says, and a stated format before a guessed one.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from relations.errors import DataRejected
from stores.readers import amazon, diginetica, mind, movielens, openbandit
from stores.readers.chunks import Chunk, Delivered
from stores.readers.expanding import head_of
from stores.readers.generic import columnar_format, generic_chunks, generic_format, is_binary, refuse_unread
from stores.readers.inputs import HEAD_BYTES, Input, content_name

CHUNK_ROWS = 262_144


class NamedFormat(Protocol):
    """A module that reads one data set's own files."""

    FILES: str
    """Which files it knows, for a message."""

    def kinds(self, uri: str, head: bytes) -> tuple[str, ...]:
        """What a file delivers; nothing where it is none of the data set's."""

    def chunks(self, input: Input, *, kind: str) -> Iterator[Chunk]: ...


NAMED: dict[str, NamedFormat] = {
    "movielens": movielens,
    "amazon": amazon,
    "mind": mind,
    "diginetica": diginetica,
    "openbandit": openbandit,
}


def kinds_of(uri: str, format: str, head: bytes) -> tuple[str, ...]:
    """The kinds that a file delivers in a named format, in the order in which to ingest them.

    `head`: the file's first bytes as they are; 64 KiB tell all formats apart. None for a format of no data set, or
    for a file that its data set does not have: there the caller says what the rows are.
    """
    content = head_of(head)
    named = _named(uri, format, content)
    return NAMED[named].kinds(uri, content) if named else ()


def open_delivery(
    path: Path,
    *,
    uri: str,
    kind: str,
    format: str = "auto",
    max_expansion: float = 200.0,
    chunk_rows: int = CHUNK_ROWS,
) -> Delivered:
    """Open the file at `path`, delivered as `uri`, for its rows of `kind`, in chunks of at most `chunk_rows`.

    Nothing is held but a chunk and the block of bytes that it came from. Raises DataRejected, naming the offset and
    the remedy, when no row can be told from another; where that shows later in the file, taking the chunks raises it.
    """
    input = Input.examined(path, uri=uri, max_expansion=max_expansion, chunk_rows=chunk_rows)
    named = _named(uri, format, input.head)
    if not named:
        chosen = format if format != "auto" and not columnar_format(input.head) else generic_format(input)
        refuse_unread(input)
        return Delivered(chosen, generic_chunks(input, chosen))
    if not input.head.strip():
        return Delivered(named, iter(()))
    refuse_unread(input)
    kinds = NAMED[named].kinds(uri, input.head)
    if kind not in kinds:
        holds = f"holds {' and '.join(kinds)}, no {kind}: name the --kind" if kinds else "is no file of it"
        raise DataRejected(f"{uri}: offset 0: as {named} it {holds}; read are {NAMED[named].FILES}")
    return Delivered(named, NAMED[named].chunks(input, kind=kind))


def ends_in_text(path: Path) -> bool:
    """Whether the file begins as text and ends its last line, so that another may follow it in one delivery."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        if not head:
            return True
        file.seek(-1, 2)
        return file.read(1) == b"\n" and not is_binary(head)


def _named(uri: str, format: str, head: bytes) -> str | None:
    """The named format that is stated, or that the file's name gives away."""
    if format == "auto" and content_name(uri) in movielens.NAMES and not columnar_format(head):
        return "movielens"
    return format if format in NAMED else None
