# ruff: noqa: N802 -- shape suffixes are part of the names
"""Segments: immutable files with the whole sequences of some users, flat and sorted, made to be memory-mapped.

Shapes: N events, U users. A segment's folder holds one `.npy` a column, `user.npy` (UTF-8 bytes, ascending)
with `offset.npy` (user u owns [offset[u], offset[u + 1])), and as Arrow files `event_id.arrow` (N ids, which order the
events of one instant) and `item.arrow` (the items that this segment is the first to have, in the order of their codes).
"""

import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from relations.errors import DependencyFailed

COLUMNS: Mapping[str, Any] = {
    "item": np.dtype(np.int32),  # position in the store's list of items
    "behaviour": np.dtype(np.int8),  # position in model.sequences.BEHAVIOUR_NAMES
    "time": np.dtype(np.int64),  # microseconds since the epoch, UTC
    "value": np.dtype(np.float64),  # NaN where the event has none
    "arrived": np.dtype(np.int32),  # version of the events table at which the event was there
}
TEXT = pa.large_string()
_BLOCK = 1 << 20


class SegmentBroken(DependencyFailed):
    """A segment's files are not what was written: the store builds it again, and tells of it only if that fails too."""


@dataclass(frozen=True)
class SegmentRecord:
    """What the manifest says of a segment. `files`: name → (bytes, CRC-32)."""

    name: str
    users: int
    events: int
    items: int
    files: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Rows:
    """Whole sequences in memory: user u (of `user_U`, UTF-8 bytes) has the next `count_U[u]` entries.

    Entry n has the event id `ids[id_N[n]]`: texts are moved once, when they are written. Without ids both are empty.
    """

    user_U: np.ndarray
    count_U: np.ndarray
    columns: Mapping[str, np.ndarray]
    ids: pa.Array
    id_N: np.ndarray

    def __len__(self) -> int:
        return int(self.count_U.sum())


class SegmentWriter:
    """Writes one segment, block after block, in plain appends: on a full disk those raise, where a mapped file kills.

    Users come in ascending order; one whose events span two blocks is the last of the first and the first of the next.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._users: list[np.ndarray] = []
        self._counts: list[np.ndarray] = []
        self._events = 0
        self._closed = False
        self._files: dict[str, BinaryIO] = {name: (folder / f"{name}.npy").open("wb") for name in COLUMNS}
        for name, file in self._files.items():
            _write_header(file, COLUMNS[name], 0)
        self._ids = pa.ipc.new_file(str(folder / "event_id.arrow"), pa.schema([("event_id", TEXT)]))

    def append(self, rows: Rows) -> None:
        if not len(rows):
            return
        users, counts = rows.user_U, rows.count_U.astype(np.int64)
        if self._users and self._users[-1][-1] == users[0]:
            self._counts[-1][-1] += counts[0]
            users, counts = users[1:], counts[1:]
        if len(users):
            self._users.append(users)
            self._counts.append(counts)
        for name, file in self._files.items():
            file.write(np.ascontiguousarray(rows.columns[name], dtype=COLUMNS[name]).data)
        self._ids.write_table(pa.table({"event_id": rows.ids.take(pa.array(rows.id_N)).cast(TEXT)}))
        self._events += len(rows)

    def close(self, *, items: pa.Array) -> SegmentRecord:
        """Finish the files. `items`: those that no earlier segment has."""
        for name, file in self._files.items():
            file.seek(0)
            _write_header(file, COLUMNS[name], self._events)  # NumPy leaves room for a larger shape
            file.close()
        self._ids.close()
        self._closed = True
        users = np.concatenate(self._users) if self._users else np.zeros(0, dtype="S1")
        counts = np.concatenate(self._counts) if self._counts else np.zeros(0, dtype=np.int64)
        _save(self._folder / "user.npy", users)
        _save(self._folder / "offset.npy", np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
        with pa.ipc.new_file(str(self._folder / "item.arrow"), pa.schema([("item_id", TEXT)])) as file:
            file.write_table(pa.table({"item_id": items.cast(TEXT)}))
        files = {path.name: (path.stat().st_size, _crc(path)) for path in sorted(self._folder.iterdir())}
        return SegmentRecord(self._folder.name, len(users), self._events, len(items), files)

    def __enter__(self) -> "SegmentWriter":
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the files, whatever state a failure left them in."""
        for file in () if self._closed else (*self._files.values(), self._ids):
            with suppress(OSError):  # what is still buffered has no place on the disk either
                file.close()


class Segment:
    """One segment, opened: nothing is read before it is asked for. Raises SegmentBroken."""

    def __init__(self, folder: Path, record: SegmentRecord) -> None:
        self.folder, self.record = folder, record
        for name, (size, _) in record.files.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != size:
                raise SegmentBroken(f"{path}: missing or of another size than written; check the disk")

    def verify(self) -> None:
        """Read every byte and compare it with what was written."""
        for name, (_, crc) in self.record.files.items():
            if _crc(self.folder / name) != crc:
                raise SegmentBroken(
                    f"{self.folder / name}: its bytes have changed since they were written; check the disk"
                )

    @cached_property
    def user_U(self) -> np.ndarray:
        return self._map("user", self.record.users)

    @cached_property
    def offset_U1(self) -> np.ndarray:
        return self._map("offset", self.record.users + 1)

    def column(self, name: str) -> np.ndarray:
        return self._map(name, self.record.events)

    @cached_property
    def event_id_N(self) -> pa.ChunkedArray:
        return self._texts("event_id")

    @cached_property
    def items(self) -> pa.ChunkedArray:
        return self._texts("item")

    def find(self, user_W: np.ndarray) -> np.ndarray:
        """Each wanted user's position here, -1 where the segment does not have it."""
        if not self.record.users:
            return np.full(len(user_W), -1, dtype=np.int64)
        place_W = np.minimum(np.searchsorted(self.user_U, user_W), self.record.users - 1)
        return np.where(self.user_U[place_W] == user_W, place_W, -1)

    def _map(self, name: str, length: int) -> np.ndarray:
        path = self.folder / f"{name}.npy"
        try:
            found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise SegmentBroken(f"{path}: {error}") from error
        if found.shape != (length,):
            raise SegmentBroken(f"{path}: {found.shape} in place of {length} entries")
        return found

    def _texts(self, name: str) -> pa.ChunkedArray:
        path = self.folder / f"{name}.arrow"
        try:
            return pa.ipc.open_file(pa.memory_map(str(path))).read_all().column(0)
        except (OSError, pa.ArrowInvalid) as error:
            raise SegmentBroken(f"{path}: {error}") from error


@dataclass(frozen=True)
class Places:
    """Where the sequences of some users lie: segment number and position in it, for each user of `user_U`."""

    user_U: np.ndarray
    segment_U: np.ndarray
    place_U: np.ndarray

    def part(self, begin: int, end: int) -> "Places":
        return Places(self.user_U[begin:end], self.segment_U[begin:end], self.place_U[begin:end])


def places(segments: Sequence[Segment]) -> Places:
    """Every user once, ascending, in the newest segment that has it: the index of the store."""
    if not segments:
        return Places(np.zeros(0, dtype="S1"), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    newest = list(reversed(range(len(segments))))
    user_X = np.concatenate([segments[number].user_U for number in newest])
    segment_X = np.concatenate([np.full(segments[number].record.users, number) for number in newest])
    place_X = np.concatenate([np.arange(segments[number].record.users) for number in newest])
    user_U, first_U = np.unique(user_X, return_index=True)
    return Places(user_U, segment_X[first_U], place_X[first_U])


def find(segments: Sequence[Segment], user_W: np.ndarray) -> Places:
    """Those of the wanted users (ascending) that are known, without going through all the others."""
    segment_W, place_W = np.full(len(user_W), -1), np.full(len(user_W), -1)
    for number in reversed(range(len(segments))):
        left = np.flatnonzero(segment_W < 0)
        found = segments[number].find(user_W[left])
        segment_W[left[found >= 0]] = number
        place_W[left[found >= 0]] = found[found >= 0]
    known = segment_W >= 0
    return Places(user_W[known], segment_W[known], place_W[known])


def gather(segments: Sequence[Segment], at: Places, *, ids: bool, columns: Sequence[str] = tuple(COLUMNS)) -> Rows:
    """Copy the sequences at `at`, in the order of its users. `ids`: with the event ids."""
    count_U = np.zeros(len(at.user_U), dtype=np.int64)
    begin_U = np.zeros(len(at.user_U), dtype=np.int64)
    for number, segment in enumerate(segments):
        mine = at.segment_U == number
        offset = segment.offset_U1
        begin_U[mine] = offset[at.place_U[mine]]
        count_U[mine] = offset[at.place_U[mine] + 1] - begin_U[mine]
    source_N = spans(begin_U, count_U)
    segment_N = np.repeat(at.segment_U, count_U)
    taken = {name: np.empty(len(source_N), dtype=COLUMNS[name]) for name in columns}
    texts: list[pa.Array] = []
    id_N = np.zeros(len(source_N) if ids else 0, dtype=np.int64)
    for number in np.unique(at.segment_U):
        mine_N = np.flatnonzero(segment_N == number)
        segment, from_N = segments[number], source_N[mine_N]
        for name, values in taken.items():
            values[mine_N] = segment.column(name)[from_N]
        if ids:
            id_N[mine_N] = sum(map(len, texts)) + np.arange(len(mine_N))
            texts.append(flat(segment.event_id_N.take(pa.array(from_N))))
    return Rows(at.user_U, count_U, taken, pa.concat_arrays(texts) if texts else pa.array([], TEXT), id_N)


def spans(begin_U: np.ndarray, count_U: np.ndarray) -> np.ndarray:
    """The positions [begin, begin + count) of all, one after another."""
    ends_U = np.cumsum(count_U)
    total = int(ends_U[-1]) if len(ends_U) else 0
    return np.asarray(np.arange(total) + np.repeat(begin_U - (ends_U - count_U), count_U))


def flat(column: pa.ChunkedArray) -> pa.Array:
    joined = column.combine_chunks()
    return pa.concat_arrays(joined.chunks) if isinstance(joined, pa.ChunkedArray) else joined


def _save(path: Path, values: np.ndarray) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array(file, values, allow_pickle=False)


def _write_header(file: BinaryIO, dtype: Any, length: int) -> None:
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(file, described)


def _crc(path: Path) -> int:
    found = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found = zlib.crc32(block, found)
    return found
