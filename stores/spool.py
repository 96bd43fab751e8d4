"""The spool: what a run measures goes to its own disk first, and to a tracking server when that answers.

A spooled run is a folder: `run.json` says which run it is, `metrics.jsonl` holds one point a line, and `sent.json` how
far a server has it (`stores/replay.py`). Only one process writes a spool; any may read it meanwhile.
"""

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

RUN, POINTS = "run.json", "metrics.jsonl"
FLUSH_POINTS, FLUSH_SECONDS = 500, 2.0

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
"""MLflow's words."""


@dataclass(frozen=True)
class SpooledRun:
    """What the tracking server is to know of a run beside its points. `key` is the run's alone, in the whole home.

    `parent`: the folder of the run that it is nested in, relative to the home; empty for none.
    """

    key: str
    name: str
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    parent: str = ""
    status: Status = "RUNNING"


@dataclass(frozen=True)
class Point:
    """`time_ms`: when it was measured, in milliseconds since 1970. It travels with the point: sent twice, it is one."""

    key: str
    step: int
    value: float
    time_ms: int


class Spool:
    """Appends points to the spool of `folder`; they outlast a kill from the next `flush` on.

    A point whose key and step are there already is left out: a training that was killed and goes on from its
    checkpoint takes some steps again. Values that are not finite are left out too, as MLflow shows none.
    """

    def __init__(self, folder: Path, run: SpooledRun) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.run = run
        write_whole(folder / RUN, asdict(run))
        file = folder / POINTS
        found, whole = read_points(folder)
        self._steps: dict[str, set[int]] = {}
        for point in found:
            self._steps.setdefault(point.key, set()).add(point.step)
        self._file = file.open("ab")
        self._file.truncate(whole)  # a kill inside a write left half a line
        self._buffer: list[str] = []
        self._flushed = time.monotonic()

    def add(self, key: str, *, step: int, value: float) -> None:
        """Take a point. It is written with others: after some hundred of them, or some seconds."""
        steps = self._steps.setdefault(key, set())
        if step in steps:
            return
        steps.add(step)
        if math.isfinite(value):
            self._buffer.append(json.dumps([key, step, float(value), time.time_ns() // 1_000_000]) + "\n")
        if len(self._buffer) >= FLUSH_POINTS or time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """What was added is on the disk when this returns."""
        if self._buffer:
            self._file.write("".join(self._buffer).encode())
            self._file.flush()
            os.fsync(self._file.fileno())
            self._buffer.clear()
        self._flushed = time.monotonic()

    def end(self, status: Status, *, tags: Mapping[str, str] | None = None) -> None:
        """`tags` are added to those of the run."""
        self.flush()
        self.run = replace(self.run, status=status, tags={**self.run.tags, **(tags or {})})
        write_whole(self._folder / RUN, asdict(self.run))

    def __enter__(self) -> "Spool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.flush()
        else:
            self.end("FAILED" if issubclass(kind, Exception) else "KILLED")
        self._file.close()


def read_run(folder: Path) -> SpooledRun | None:
    """None where nothing was spooled."""
    try:
        return SpooledRun(**json.loads((folder / RUN).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def read_points(folder: Path, *, begin: int = 0, most: int | None = None) -> tuple[list[Point], int]:
    """Points from byte `begin` on, `most` at most, and the byte after the last of them. Half a line is not read."""
    found: list[Point] = []
    try:
        with (folder / POINTS).open("rb") as file:
            file.seek(begin)
            for line in file:
                if not line.endswith(b"\n") or len(found) == most:
                    break
                found.append(Point(*json.loads(line)))
                begin += len(line)
    except FileNotFoundError:
        return [], 0
    return found, begin


def write_whole(file: Path, value: Mapping[str, Any]) -> None:
    """Whole or not at all, and on the disk."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as out:
        json.dump(value, out, ensure_ascii=False)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(file)
