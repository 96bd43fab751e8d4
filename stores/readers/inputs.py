"""One delivery's file before a reader is chosen."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa

from stores.readers.expanding import Expanding, examine, expanded_file

HEAD_BYTES = 65_536
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zstd")


def content_name(uri: str) -> str:
    """The last part of the name that a delivery came under, without a compressor's suffix."""
    name = PurePosixPath(uri).name
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in _COMPRESSED else name


@dataclass(frozen=True)
class Input:
    """`path` is the spooled copy; `uri` the name it came under; `head` the first bytes of its content, expanded."""

    path: Path
    uri: str
    head: bytes
    max_expansion: float
    chunk_rows: int

    @staticmethod
    def examined(path: Path, *, uri: str, max_expansion: float, chunk_rows: int) -> "Input":
        head = examine(path, uri=uri, max_expansion=max_expansion, head_bytes=HEAD_BYTES)
        return Input(path, uri, head, max_expansion, chunk_rows)

    @property
    def name(self) -> str:
        return content_name(self.uri)

    @contextmanager
    def content(self) -> Iterator[Expanding]:
        """The content from its start, as a stream."""
        source = Expanding(self.path, uri=self.uri, max_expansion=self.max_expansion)
        try:
            yield source
        finally:
            source.close()

    @contextmanager
    def file(self) -> Iterator[pa.NativeFile]:
        """The content as a file that can be sought in."""
        file = expanded_file(self.path, uri=self.uri, max_expansion=self.max_expansion)
        try:
            yield file
        finally:
            file.close()
