"""The bytes of one delivery, expanded while they are read, with a limit on what a small file may open to."""

import bz2
import errno
import lzma
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from relations.errors import DataRejected, DependencyFailed

COMPRESSORS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
FREE_BYTES = 64 << 20
"""Whatever its size, a file may open to this much: a tiny file of equal rows is no bomb."""
READ_BYTES = 1 << 20
_HEAD_BYTES = 65_536
_XZ_MEMORY = 128 << 20
_CORRUPT = (OSError, pa.ArrowException, lzma.LZMAError, EOFError)


def compressor(head: bytes) -> str | None:
    """The compressor that a file's first bytes name; None for a plain file. Names say nothing."""
    return next((name for magic, name in COMPRESSORS.items() if head.startswith(magic)), None)


class Expanding:
    """A file's bytes from its start, expanded on the fly; memory is that of one read.

    `read` raises DataRejected, with the offset in the file, where it is truncated or corrupt, and as soon as more than
    `max_expansion` times the bytes read so far have come out of it (a bomb shows within its first `FREE_BYTES`).
    """

    def __init__(self, path: Path, *, uri: str, max_expansion: float) -> None:
        self.path, self.uri, self.max_expansion = path, uri, max_expansion
        self.size = path.stat().st_size
        self.expanded = 0
        self._file = pa.OSFile(str(path))
        self.compressor = compressor(self._file.read(8))
        self._file.seek(0)
        self._stream: Any = self._file
        if self.compressor:
            self._stream = _opened(self._file, self.compressor)

    def read(self, size: int = READ_BYTES) -> bytes:
        """Up to `size` bytes, none at the end."""
        try:
            data: bytes = self._stream.read(size)
        except _CORRUPT as error:
            if isinstance(error, OSError) and error.errno not in (None, 0):
                raise DependencyFailed(f"{self.path}: cannot be read: {error}; check the disk, then repeat") from error
            raise DataRejected(
                f"{self.uri}: {self.compressor} data truncated or corrupt near offset {self._file.tell()} of "
                f"{self.size} bytes ({self.expanded} bytes came out): {error!s:.120}; "
                "deliver the file again"
            ) from error
        self.expanded += len(data)
        if self.compressor and self.expanded > FREE_BYTES:
            consumed = self._file.tell()
            if self.expanded > self.max_expansion * consumed:
                raise DataRejected(
                    f"{self.uri}: {self.expanded} bytes came out of its first {consumed} (of {self.size}), more than "
                    f"{self.max_expansion:g} times as many; if it is no {self.compressor} bomb, raise "
                    "[lake] max_expansion"
                )
        return data

    def close(self) -> None:
        if self._stream is not self._file:
            self._stream.close()
        self._file.close()


def examine(path: Path, *, uri: str, max_expansion: float, head_bytes: int) -> bytes:
    """The first bytes of the content. Opens up to `FREE_BYTES`, so that a bomb is met before any row is read."""
    source = Expanding(path, uri=uri, max_expansion=max_expansion)
    try:
        head = b""
        while len(head) < head_bytes and (piece := source.read(head_bytes - len(head))):
            head += piece
        while source.compressor and source.expanded <= FREE_BYTES and source.read():
            pass
        return head
    finally:
        source.close()


def head_of(head: bytes) -> bytes:
    """What the first bytes of a file open to, as far as they go."""
    name = compressor(head)
    if name is None:
        return head
    stream = _opened(pa.BufferReader(head), name)
    content = b""
    try:
        while len(content) < _HEAD_BYTES and (piece := stream.read(256)):
            content += piece
    except _CORRUPT:
        pass  # the head ends where it ends
    return content


def expanded_file(path: Path, *, uri: str, max_expansion: float) -> pa.NativeFile:
    """The content as a file that can be sought in; a compressed one is expanded beside it, into a file without a name.

    Raises DataRejected as `Expanding.read`, DependencyFailed when the disk is full.
    """
    source = Expanding(path, uri=uri, max_expansion=max_expansion)
    try:
        if source.compressor is None:
            return pa.OSFile(str(path))
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".expanded-") as copy:
            try:
                while data := source.read():
                    copy.write(data)
                copy.flush()
            except OSError as error:
                full = "; make space" if error.errno == errno.ENOSPC else ""
                raise DependencyFailed(f"{copy.name}: cannot expand {uri}: {error}{full}, then repeat") from error
            return pa.OSFile(copy.name)
    finally:
        source.close()


def _opened(file: pa.NativeFile, name: str) -> Any:
    if name == "xz":
        return _Members(file, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY))
    if name == "bz2":
        return _Members(file, bz2.BZ2Decompressor)  # Arrow's own stops at a member of nothing
    return pa.CompressedInputStream(file, name)


class _Members:
    """Compressed streams, one after the other in a file, padded with zeros or not."""

    def __init__(self, file: pa.NativeFile, begin: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor]) -> None:
        self._file, self._begin, self._rest, self._ended = file, begin, b"", False
        self._open: bz2.BZ2Decompressor | lzma.LZMADecompressor | None = None

    def read(self, size: int) -> bytes:
        while not self._ended:
            if self._open is None:
                self._rest = self._rest or self._file.read(65_536)
                if not self._rest:
                    self._ended = True
                    break
                self._open = self._begin()
            elif self._open.needs_input and not self._rest:
                self._rest = self._file.read(65_536)
                if not self._rest:
                    raise EOFError("the stream does not end")
            data = self._open.decompress(self._rest, size)
            self._rest = b""
            if self._open.eof:
                self._rest = self._open.unused_data.lstrip(b"\0")
                self._open = None
            if data:
                return data
        return b""

    def close(self) -> None:
        self._open = None
