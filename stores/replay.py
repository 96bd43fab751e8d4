"""From the spool to the tracking server: every point once, however often it is tried and wherever it was killed."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from relations.errors import DependencyFailed
from stores.home import Home
from stores.mlflow_client import translated
from stores.registry import Registry
from stores.spool import POINTS, SpooledRun, read_points, read_run, write_whole
from stores.tracked_run import BATCH, TrackedRun

SENT = "sent.json"
LOCK_SECONDS = 30.0


@dataclass(frozen=True)
class Sent:
    """How far the server at `uri` has a spool. `sure`: no request was under way when this was written.

    When one was, the server may have more than `end_byte` says, and is asked before anything is sent again.
    """

    uri: str
    run_id: str
    end_byte: int = 0
    status: str = "RUNNING"
    sure: bool = True


def read_sent(folder: Path, *, uri: str) -> Sent | None:
    """None when that server was sent nothing yet."""
    try:
        found = Sent(**json.loads((folder / SENT).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    return found if found.uri == uri else None


def left(folder: Path, *, uri: str) -> bool:
    """Whether the spool of `folder` holds what the server at `uri` has not been sent."""
    run, sent = read_run(folder), read_sent(folder, uri=uri)
    if run is None:
        return False
    return sent is None or sent.status != run.status or bool(read_points(folder, begin=sent.end_byte, most=1)[0])


def replay(folder: Path, *, home: Home, registry: Registry) -> int:
    """Send what the server does not have of the spool in `folder`; returns the number of points sent.

    The run is found by its key or made; a point is known by run, key and step. Safe against kills at any place, and
    against a server that did what it gave no answer to. Raises DependencyFailed when the server does not answer, or
    another process is at this spool; the next call goes on.
    """
    run = read_run(folder)
    if run is None or not left(folder, uri=registry.uri):
        return 0
    try:
        with FileLock(folder / "sent.lock", timeout=LOCK_SECONDS), translated(registry.uri):
            return _send(folder, run, home=home, registry=registry)
    except Timeout as error:
        raise DependencyFailed(f"{folder}: another process has been sending it for {LOCK_SECONDS:.0f} s") from error


def _send(folder: Path, run: SpooledRun, *, home: Home, registry: Registry) -> int:
    tracked, sent = _open(folder, run, home=home, registry=registry)
    present: dict[str, set[int]] = {}
    count = 0
    while True:
        points, end = read_points(folder, begin=sent.end_byte, most=BATCH)
        if not points:
            break
        if not sent.sure:
            for key in {point.key for point in points} - present.keys():
                present[key] = tracked.steps(key)
            points = [point for point in points if point.step not in present[point.key]]
        _write(folder, Sent(registry.uri, tracked.run_id, sent.end_byte, sent.status, sure=False))
        tracked.log_points([(point.key, point.step, point.value, point.time_ms) for point in points])
        count += len(points)
        # Sure of what follows only if nothing was in doubt: what the server did unseen may reach beyond this batch.
        sent = Sent(registry.uri, tracked.run_id, end, sent.status, sure=sent.sure)
        _write(folder, sent)
    if run.status != sent.status:
        tracked.set_tags(run.tags)
        tracked.set_status(run.status)
    _write(folder, Sent(registry.uri, tracked.run_id, sent.end_byte, run.status))
    return count


def _open(folder: Path, run: SpooledRun, *, home: Home, registry: Registry) -> tuple[TrackedRun, Sent]:
    sent = read_sent(folder, uri=registry.uri)
    if sent is not None:
        known = registry.run(sent.run_id)
        if known is not None:
            return known, sent
    parent = ""
    if run.parent:
        replay(home.root / run.parent, home=home, registry=registry)
        found = read_sent(home.root / run.parent, uri=registry.uri)
        parent = found.run_id if found else ""
    tracked = registry.open_run(run.name, tags=run.tags, params=run.params, key=run.key, parent=parent)
    # A run of this key may have been made and filled by a process that was killed before it could say so here.
    sent = Sent(registry.uri, tracked.run_id, sure=False)
    _write(folder, sent)
    return tracked, sent


def _write(folder: Path, sent: Sent) -> None:
    write_whole(folder / SENT, asdict(sent))


def spools(*roots: Path) -> list[Path]:
    """Every folder below `roots` that holds a spool, oldest first."""
    files = [file for root in roots for file in root.rglob(POINTS)]
    return [file.parent for file in sorted(files, key=lambda file: file.stat().st_mtime)]
