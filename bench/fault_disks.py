"""Full disks: a small tmpfs under each writer, filled up but for a little room.

Each trial writes until the disk refuses, then gives room and repeats: the result must be that of a disk with room from
the beginning. Needs the right to mount; without it the row is skipped, with the reason.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from bench.fault_homes import NOW, USER, Workers, make_home, record, unaccounted, write
from bench.rows import Row, at_least, at_most
from relations.errors import RatchetError
from stores.home import Home
from stores.lake import Lake
from stores.landing_log import LandingLog
from stores.settings import Settings
from stores.sqlite_state import SqliteState
from tasks.ingesting import ingest_landing
from tasks.refreshing import refresh_serving

SIZE_MIB = 16
ROOMS_KIB = (0, 4, 16, 40, 100, 250, 600)
TABLES = ("events", "late", "quarantine")
_FILLER = "filler.bin"
ROWS = 2_000


@dataclass(frozen=True)
class Writer:
    """`folder`: what of the home the small disk holds. `work` is a worker's whole work: home, and where to answer."""

    name: str
    folder: str
    work: Callable[[str, str], None]


def _answering(answer: str, work: Callable[[], object]) -> None:
    """`exit`: 0, or that of the error; 1 for one that is not ours."""
    found: dict[str, object] = {"exit": 0}
    try:
        found["said"] = work()
    except RatchetError as error:
        found = {"exit": error.exit_code, "error": str(error)}
    except Exception as error:
        found = {"exit": 1, "error": f"{type(error).__name__}: {error}"}
    Path(answer).write_text(json.dumps(found))


def ingest(root: str, answer: str) -> None:
    _answering(answer, lambda: len(ingest_landing(home=Home.open(Path(root)), settings=Settings(), now=NOW)))


def refresh(root: str, answer: str) -> None:
    home = Home.open(Path(root))

    def work() -> int:
        ingest_landing(home=home, settings=Settings(), now=NOW)
        return refresh_serving(home, Settings())

    _answering(answer, work)


def log(root: str, answer: str) -> None:
    """Append as serving does; the answer says how many lines were acknowledged, in this process."""
    line = {"user": USER, "item_id": "i", "behaviour": "click", "event_time": NOW.isoformat()}
    kept = Path(answer).with_suffix(".lines")
    number = int(kept.read_text()) if kept.exists() else 0

    def work() -> None:
        nonlocal number
        appended = LandingLog(Home.open(Path(root)).landing / "feedback", flush_seconds=60, flush_rows=ROWS)
        while number < ROWS:
            rows = [json.dumps({**line, "event_id": f"f{number + n}"}).encode() + b"\n" for n in range(20)]
            appended.append(rows)
            number += 20
        appended.hand_over()

    _answering(answer, work)
    kept.write_text(str(number))


WRITERS = (
    Writer("staging", "staging", ingest),
    Writer("tables", "lake", ingest),
    Writer("quarantine", "lake/quarantine", ingest),
    Writer("reports", "reports", ingest),
    Writer("landing log", "landing/feedback", log),
    Writer("user state", "serving", refresh),
)


def may_mount(folder: Path) -> str | None:
    """Why a tmpfs cannot be mounted here; None where it can."""
    place = folder / "may-mount"
    place.mkdir(parents=True)
    try:
        with small_disk(place):
            return None
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        return f"no right to mount a tmpfs ({said.strip()})"


@contextmanager
def small_disk(place: Path) -> Iterator[None]:
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "tmpfs", str(place)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True, capture_output=True)


def fill(place: Path, *, room_kib: int) -> None:
    """Leave so much room on the disk at `place`."""
    free = os.statvfs(place)
    bytes_free = free.f_bavail * free.f_bsize - room_kib * 1024
    with (place / _FILLER).open("wb") as file:
        file.write(bytes(max(0, bytes_free)))


def measure_full_disk(folder: Path, *, workers: Workers, rooms_kib: tuple[int, ...] = ROOMS_KIB) -> list[Row]:
    """Each writer at each room. Raises CalledProcessError where mounting is refused."""
    wanted = _calm(folder, workers)
    refused = unclear = stuck = wrong = 0
    for writer in WRITERS:
        for room in rooms_kib:
            home = make_home(folder / f"disk-{writer.name}-{room}")
            answer = str(folder / f"answer-{writer.name}-{room}.json")
            place = home.root / writer.folder
            place.mkdir(exist_ok=True)
            with small_disk(place):
                _deliver(home)
                fill(place, room_kib=room)
                first = _ask(workers, writer, home, answer)
                refused += first["exit"] != 0
                unclear += first["exit"] not in (0, 6)
                (place / _FILLER).unlink()
                second = _ask(workers, writer, home, answer)
                stuck += second["exit"] != 0
                if writer.work is log:
                    stuck += _ask(workers, Writer("", "", ingest), home, answer)["exit"] != 0
                wrong += _told(home) != wanted[writer.work] or bool(unaccounted(home)) or any(home.staging.iterdir())
    return [
        at_least(
            f"full disk, {len(WRITERS)} writers × {len(rooms_kib)} rooms: refusals met",
            refused,
            len(WRITERS),
            unit="refusals",
        ),
        at_most("full disk: refusals without a clear exit", unclear, 0, unit="refusals"),
        at_most("full disk: not resumed with space", stuck, 0, unit="homes"),
        at_most("full disk: lost, doubled or corrupt", wrong, 0, unit="homes"),
    ]


def _calm(folder: Path, workers: Workers) -> dict[object, dict[str, object]]:
    """What each work leaves where there is room."""
    found: dict[object, dict[str, object]] = {}
    for work in (ingest, log, refresh):
        home, answer = make_home(folder / f"disk-calm-{work.__name__}"), str(folder / f"answer-{work.__name__}.json")
        _deliver(home)
        for each in (work, ingest):
            said = _ask(workers, Writer("", "", each), home, answer)
            assert said["exit"] == 0, said
        found[work] = _told(home)
    return found


def _deliver(home: Home) -> None:
    """A file with rows for every table: broken, late, twice."""
    rows = [record(number) for number in range(ROWS)]
    broken = [{**row, "event_id": f"b{n}", "behaviour": "hover"} for n, row in enumerate(rows[:200])]
    late = [record(ROWS + n, at=NOW - timedelta(days=9, seconds=n)) for n in range(100)]
    write(home.landing / "events" / "0.jsonl", rows[:1])  # sets the watermark
    write(home.landing / "events" / "1.jsonl", [*rows, *broken, *late, *rows[:50]])


def _ask(workers: Workers, writer: Writer, home: Home, answer: str) -> dict[str, object]:
    Path(answer).unlink(missing_ok=True)
    ended = workers.run(writer.work, str(home.root), answer)
    if not Path(answer).exists():
        return {"exit": ended.exit or 1, "error": "the process died"}
    said: dict[str, object] = json.loads(Path(answer).read_text())
    return said


def _told(home: Home) -> dict[str, object]:
    lake = Lake(home.lake)
    state = 0
    if home.user_state.exists():
        users = set(lake.read("events", columns=["user"]).column(0).to_pylist())
        with_state = SqliteState(home.user_state)
        state = sum(len(with_state.newest(user, 1_000)) for user in users)
        with_state.close()
    totals = lake.totals()
    return {
        "digests": [lake.content_digest(table) for table in TABLES],
        "placed": [totals[count] for count in ("accepted", "quarantined", "late")],
        "state": state,
    }
