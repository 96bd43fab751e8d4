"""Blocks of whole lines out of a stream of any length, in memory that does not grow with it."""

from collections import deque
from dataclasses import dataclass

import numpy as np

from stores.readers.expanding import READ_BYTES, Expanding

BLOCK_BYTES = 32 << 20
"""A block holds at most this much, and so does a row: a longer line is one unreadable row."""
KEPT_BYTES = 4_096
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
        self._held: deque[bytes] = deque()
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
        data, limit = b"".join(self._held), beyond + BLOCK_BYTES
        pieces, size, lines = [data], len(data), data.count(b"\n", beyond)
        while lines < self._rows and size < limit and not self._ended:
            piece = self._read(min(READ_BYTES, limit - size))
            pieces.append(piece)
            lines += piece.count(b"\n")
            size += len(piece)
        data = b"".join(pieces)
        self._held.clear()
        if not data:
            return None
        if self._ended and size <= limit and lines < self._rows:
            return data
        cut = _after_lines(data, self._rows, start=beyond, stop=limit) or beyond
        if cut == 0:
            return self._overlong(data)
        self.put_back(data[cut:])
        return data[:cut]

    def put_back(self, data: bytes) -> None:
        if data:
            self._held.appendleft(data)

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


def _after_lines(data: bytes, rows: int, *, start: int, stop: int) -> int:
    """Where line number `rows` of those that end in [start, stop) ends, else the last of them; 0: there is none."""
    stop = min(stop, len(data))
    left = rows
    for low in range(start, stop, READ_BYTES):
        high = min(low + READ_BYTES, stop)
        found = data.count(b"\n", low, high)
        if found >= left:
            ends = np.flatnonzero(np.frombuffer(data, np.uint8, high - low, low) == ord("\n"))
            return low + int(ends[left - 1]) + 1
        left -= found
    return data.rfind(b"\n", start, stop) + 1


def filled_lines(data: bytes) -> list[bytes]:
    """The lines of a block that hold anything but white space, without their ends."""
    return [line.removesuffix(b"\r") for line in data.split(b"\n") if line.strip()]
