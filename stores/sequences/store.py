"""The sequences that training reads, kept up to date from the events table without reading it again.

Log-structured: a base segment with everybody's sequence, and delta segments that hold the complete sequences of just
the users who had new events. A user's newest segment counts. When deltas have grown beyond a share of the base, all are
merged into a new base. `current.json` names the segments and the events version that they have absorbed, and moves by
one rename: a kill leaves the old state or the new one, and at worst files that the next update sweeps away.

The lake stays the truth. A store that is lost, broken, or older than a deletion in the events table is built again.
Kill -9 safe, by test; after a power cut checksums tell what is broken.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout

from relations.errors import DependencyFailed
from stores.failpoints import reach
from stores.lake import Lake
from stores.sequences.absorbing import Codes, Source, merged, rows_of
from stores.sequences.arrays import Sequences
from stores.sequences.segments import (
    TEXT,
    Places,
    Rows,
    Segment,
    SegmentBroken,
    SegmentRecord,
    SegmentWriter,
    find,
    flat,
    gather,
    places,
)

FORMAT = 1
MERGE_SHARE = 1.0
"""Deltas with more events than this share of the base's are merged into a new base."""
MERGE_SEGMENTS = 16
"""So are more deltas than this, however small: each read looks into all of them."""
BLOCK = 1 << 20
"""Events that a rebuild or a merge holds in memory at a time."""
FAIL_POINTS = ("sequences.written", "sequences.named", "sequences.current")
"""Where a test kills: the files are there, their folder has its name, the manifest has moved."""
_MANIFEST = "current.json"
_LOCK = ".lock"
Found = TypeVar("Found")


@dataclass(frozen=True)
class Manifest:
    """`table` and `examined`: the Delta table's id, and the version up to which it is known to have only grown; it then
    had `rows`."""

    absorbed: int
    table: str
    examined: int
    rows: int
    next_number: int
    segments: tuple[SegmentRecord, ...]

    def as_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)})

    @staticmethod
    def of_json(text: str) -> "Manifest":
        """Raises ValueError, KeyError, TypeError or AttributeError for what `as_json` has not written."""
        said = json.loads(text)
        if said.pop("format") != FORMAT:
            raise ValueError("another format")
        segments = [
            SegmentRecord(**{**each, "files": {name: (*pair,) for name, pair in each["files"].items()}})
            for each in said.pop("segments")
        ]
        return Manifest(**said, segments=(*segments,))


class SequenceStore:
    """One folder. Every method brings it up to date with the lake first, one process at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def update(self, lake: Lake) -> int:
        """Absorb the deliveries since the last time; the events version absorbed, -1 before the first event.

        Raises DependencyFailed when the disk fails, or when another process holds the store for five minutes.
        """
        with self._locked():
            return self._brought_up(lake, lambda manifest: manifest).absorbed

    def rebuild(self, lake: Lake) -> int:
        """Build everything again."""
        with self._locked():
            return self._rebuilt(lake).absorbed

    def discard(self) -> None:
        """Let go of everything, as a deletion in the lake asks for at once; the next reading builds it again."""
        with self._locked():
            for path in self.root.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != _LOCK:
                    path.unlink()

    def read(self, lake: Lake) -> Sequences:
        """All sequences, updated, their bytes checked. Nothing is copied where the base alone holds them."""
        with self._locked():
            return self._brought_up(lake, self._read)

    def _brought_up(self, lake: Lake, take: Callable[[Manifest], Found]) -> Found:
        """What `take` makes of the updated store; from a rebuilt one where the old one proves broken on the way."""
        manifest = self._current()
        try:
            if manifest is not None:
                return take(self._updated(lake, manifest))
        except SegmentBroken:
            pass
        return take(self._rebuilt(lake))

    def _updated(self, lake: Lake, manifest: Manifest) -> Manifest:
        source = Source.of(lake)
        if source.rewritten(table=manifest.table, since=manifest.examined) or source.newest < manifest.absorbed:
            return self._rebuilt(lake)
        if source.newest == manifest.absorbed:
            return manifest
        if source.rows - manifest.rows > max(BLOCK, manifest.rows):
            return self._rebuilt(lake)  # no dearer than an update with so much, and in flat memory
        segments = self._open(manifest)
        fresh = source.since(manifest.absorbed)
        manifest = replace(manifest, absorbed=source.newest, examined=source.version, rows=source.rows)
        if fresh.num_rows:
            codes = Codes(_items(segments))
            added = rows_of(fresh, codes)
            old = gather(segments, find(segments, added.user_U), ids=True)
            manifest = self._write(manifest, [merged(old, added)], items=lambda: codes.added)
        base, *deltas = manifest.segments or (None,)
        if base and (sum(each.events for each in deltas) > MERGE_SHARE * base.events or len(deltas) > MERGE_SEGMENTS):
            manifest = self._merged(manifest)
        self._publish(manifest)
        return manifest

    def _merged(self, manifest: Manifest) -> Manifest:
        """Everything in one new base. What is broken must not get a new checksum, so it is read whole first."""
        segments = self._open(manifest)
        for segment in segments:
            segment.verify()
        everyone = places(segments)
        blocks = (gather(segments, each, ids=True) for each in _blocks(segments, everyone))
        return self._write(replace(manifest, segments=()), blocks, items=lambda: _items(segments))

    def _rebuilt(self, lake: Lake) -> Manifest:
        source = Source.of(lake)
        before = self._current()
        number = before.next_number if before else 0
        manifest = Manifest(source.newest, source.table, source.version, source.rows, number, ())
        codes = Codes(pa.array([], TEXT))
        blocks = (rows_of(pa.Table.from_batches([batch]), codes) for batch in source.batches(BLOCK))
        manifest = self._write(manifest, blocks, items=lambda: codes.added)
        self._publish(manifest)
        return manifest

    def _write(self, manifest: Manifest, blocks: Iterable[Rows], *, items: Callable[[], pa.Array]) -> Manifest:
        """One more segment, which the manifest returned names and the one on the disk does not yet.

        `items` are asked for once the blocks have been taken: those that the segments before it do not have.
        """
        folder = self.root / f".new-{manifest.next_number:08d}"
        shutil.rmtree(folder, ignore_errors=True)
        with SegmentWriter(folder) as writer:
            for rows in blocks:
                writer.append(rows)
            record = writer.close(items=items())
        reach("sequences.written")
        name = f"segment-{manifest.next_number:08d}"
        shutil.rmtree(self.root / name, ignore_errors=True)
        folder.replace(self.root / name)
        reach("sequences.named")
        segments = (*manifest.segments, replace(record, name=name))
        return replace(manifest, segments=segments, next_number=manifest.next_number + 1)

    def _publish(self, manifest: Manifest) -> None:
        path = self.root / _MANIFEST
        temporary = path.with_suffix(".part")
        temporary.write_text(manifest.as_json(), encoding="utf-8")
        temporary.replace(path)
        reach("sequences.current")
        self._sweep(manifest)

    def _sweep(self, manifest: Manifest) -> None:
        """Delete what the manifest does not name. A reader that has it mapped keeps it until it lets go."""
        named = {each.name for each in manifest.segments}
        for path in self.root.iterdir():
            if path.is_dir() and path.name not in named:
                shutil.rmtree(path)

    def _current(self) -> Manifest | None:
        try:
            return Manifest.of_json((self.root / _MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _open(self, manifest: Manifest) -> list[Segment]:
        return [Segment(self.root / record.name, record) for record in manifest.segments]

    def _read(self, manifest: Manifest) -> Sequences:
        segments = self._open(manifest)
        for segment in segments:
            segment.verify()
        if len(segments) == 1:
            (base,) = segments
            return _sequences(manifest, segments, base.user_U, base.offset_U1, base.column)
        rows = gather(segments, places(segments), ids=False)
        offsets_U1 = np.concatenate([[0], np.cumsum(rows.count_U)]).astype(np.int64)
        return _sequences(manifest, segments, rows.user_U, offsets_U1, rows.columns.__getitem__)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / _LOCK, timeout=300):
                yield
        except Timeout:
            raise DependencyFailed(
                f"{self.root}: another process has been working on the sequences for 5 minutes; wait for it or end it, "
                "then repeat (a killed one lets go by itself)"
            ) from None
        except OSError as error:
            raise DependencyFailed(
                f"{self.root}: cannot bring the sequences up to date: {error}; make space or mend the disk, then repeat"
            ) from error


def _items(segments: list[Segment]) -> pa.Array:
    return flat(pa.chunked_array([chunk for segment in segments for chunk in segment.items.chunks], type=TEXT))


def _blocks(segments: list[Segment], everyone: Places) -> Iterator[Places]:
    """Users in runs of about BLOCK events."""
    count_U = np.zeros(len(everyone.user_U), dtype=np.int64)
    for number, segment in enumerate(segments):
        mine = everyone.segment_U == number
        count_U[mine] = np.diff(segment.offset_U1)[everyone.place_U[mine]]
    run_U = np.cumsum(count_U) // BLOCK
    edges = [0, *(np.flatnonzero(np.diff(run_U)) + 1).tolist(), len(run_U)]
    return (everyone.part(begin, end) for begin, end in pairwise(edges))


def _sequences(
    manifest: Manifest,
    segments: list[Segment],
    user_U: np.ndarray,
    offsets_U1: np.ndarray,
    column: Callable[[str], np.ndarray],
) -> Sequences:
    return Sequences(
        absorbed=manifest.absorbed,
        user_U=user_U,
        items=_items(segments),
        offsets_U1=offsets_U1,
        item_N=column("item"),
        behaviour_N=column("behaviour"),
        time_N=column("time"),
        value_N=column("value"),
        arrived_N=column("arrived"),
    )
