"""Blocks of whole lines out of a stream of any length, in memory that does not grow with it."""

from dataclasses import dataclass

import numpy as np

from stores.readers.expanding import READ_BYTES, Expanding

BLOCK_BYTES = 32 << 20
"""A block holds at most this much, and so does a row: a longer line is one unreadable row."""
KEPT_BYTES = 4_096
_LF = ord("\n")
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Overlong:
    """A line longer than a block: its first bytes, and its length in bytes."""

    head: bytes
    size: int

    def fault(self) -> str:
        return (
            f"a row of {self.size} bytes, beyond {BLOCK_BYTES}; only its first {KEPT_BYTES} bytes are kept (are lines "
            "ended by LF?)"
        )


class Lines:
    """`take` gives the next lines; what it gave and was not used goes back in front by `put_back`.

    A byte order mark at the start is left out. Every line of a block ends in LF but a file's last one.
    """

    def __init__(self, source: Expanding, *, rows: int) -> None:
        self._source, self._rows = source, rows
        self._held: list[bytes] = []
        self._ended = self._started = False

    @property
    def ended(self) -> bool:
        """Nothing follows what was taken last."""
        return self._ended and not self._held

    def take(self, *, beyond: int = 0) -> bytes | Overlong | None:
        """The next lines, at most `rows` of them; None at the end.

        `beyond`: so many bytes were taken, found too few, and put back; at most `rows` lines more are taken with them.
        No more bytes than `beyond` come back when the file has ended, or its next line is too long to be taken.
        """
        pieces, self._held = [b"".join(self._held)], []
        size, found = len(pieces[0]), pieces[0].count(b"\n", beyond)
        last = found
        while found < self._rows and size < beyond + BLOCK_BYTES and not self._ended:
            pieces.append(self._read(min(READ_BYTES, beyond + BLOCK_BYTES - size)))
            last = _line_ends(pieces[-1])
            found += last
            size += len(pieces[-1])
        if not size:
            return None
        if found >= self._rows:
            start = beyond if len(pieces) == 1 else 0
            cut = _after_line(pieces[-1], self._rows - (found - last), start=start)
        elif self._ended and size <= beyond + BLOCK_BYTES:
            cut = len(pieces[-1])
        else:
            whole = b"".join(pieces)
            cut = whole.rfind(b"\n", beyond) + 1 or beyond
            pieces = [whole]
        if cut == 0 and len(pieces) == 1:
            return self._overlong(pieces[0])
        self.put_back(pieces[-1][cut:])
        pieces[-1] = pieces[-1][:cut]
        return b"".join(pieces)

    def put_back(self, data: bytes) -> None:
        if data:
            self._held.insert(0, data)

    def _read(self, size: int) -> bytes:
        piece = self._source.read(size)
        if not piece:
            self._ended = True
        if not self._started:
            self._started = True
            piece = piece.removeprefix(BOM)
        return piece

    def _overlong(self, data: bytes) -> Overlong:
        size, rest = 0, data
        while (end := rest.find(b"\n")) < 0 and not self._ended:
            size += len(rest)
            rest = self._read(READ_BYTES)
        self.put_back(rest[end + 1 :] if end >= 0 else b"")
        return Overlong(data[:KEPT_BYTES], size + (end if end >= 0 else len(rest)))


def _line_ends(data: bytes) -> int:
    return int(np.count_nonzero(np.frombuffer(data, np.uint8) == _LF))


def _after_line(data: bytes, number: int, *, start: int) -> int:
    """Where line `number`, from 1, of those that end at `start` or after it ends."""
    return start + int(np.flatnonzero(np.frombuffer(data, np.uint8, offset=start) == _LF)[number - 1]) + 1


def filled_lines(data: bytes) -> list[bytes]:
    """The lines of a block that hold anything but white space, without their ends."""
    return [line.removesuffix(b"\r") for line in data.split(b"\n") if line.strip()]
