"""Kills in the middle of an ingest: at every named fail point, and at random times spread over the whole run.

SIGKILL ends a process as a crash or the memory killer does; it does not prove safety against power loss, for what the
process wrote is still in the operating system's memory.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from bench.fault_homes import NOW, USER, Ended, Workers, make_home, unaccounted, write
from bench.rows import Row, at_least, at_most
from stores.failpoints import INGEST, VARIABLE
from stores.home import Home
from stores.lake import Lake
from stores.settings import Settings

POINTS = ("ingest.created", *(point for point in INGEST if point != "ingest.created"))
"""In a new home first the point that only a new table reaches."""
FRESH = 2 * len(POINTS)
"""Kills after which a new home is begun."""
SEED = 11


@dataclass
class Expected:
    """What the rounds put into a home so far."""

    home: Home
    rounds: int = 0
    accepted: set[str] = field(default_factory=set)
    late: set[str] = field(default_factory=set)
    broken: int = 0

    def put(self) -> None:
        """Landing files of a round.

        Before the first round the one that sets the watermark; then two files that are delivered together, each of 40
        events, 9 late ones, 10 broken ones and one repeated.
        """
        if not self.rounds:
            write(
                self.home.landing / "events" / "0.csv",
                [
                    {
                        "user_id": "u",
                        "item_id": "i",
                        "behaviour": "view",
                        "event_time": NOW.isoformat(),
                        "event_id": "first",
                    }
                ],
            )
            self.accepted.add("first")
        for part in "ab":
            head = f"{self.rounds}{part}"
            rows = [self._row(f"{head}{n}", minutes=n) for n in range(40)]
            late = [self._row(f"{head}{n}", minutes=9 * 1440 + n) for n in range(40, 49)]
            broken = [{**rows[0], "event_id": f"{head}b{n}", "behaviour": "hover"} for n in range(10)]
            write(self.home.landing / "feedback" / f"{head}.jsonl", [*rows, *late, rows[3], *broken])
            self.accepted |= {row["event_id"] for row in rows}
            self.late |= {row["event_id"] for row in late}
            self.broken += len(broken)
        self.rounds += 1

    def differences(self) -> tuple[int, int]:
        """Rows (lost, there twice); a row that the receipts do not account for counts as lost."""
        lake = Lake(self.home.lake)
        lost, doubled = unaccounted(self.home), 0
        for table, wanted in (("events", self.accepted), ("late", self.late)):
            found = Counter(lake.read(table, columns=["event_id"]).column(0).to_pylist())
            lost += len(wanted - found.keys())
            doubled += sum(found.values()) - len(found) + len(found.keys() - wanted)
        held = lake.read("quarantine", columns=["raw"]).column(0).to_pylist()
        lost += max(0, self.broken - len(set(held)))
        doubled += len(held) - len(set(held))
        return lost, doubled

    def _row(self, name: str, *, minutes: int) -> dict[str, str]:
        moment = (NOW - timedelta(minutes=minutes)).isoformat()
        return {
            "event_id": name,
            "user": USER,
            "item_id": f"i{minutes % 5}",
            "behaviour": "click",
            "event_time": moment,
        }


def ingest_waiting(root: str, fail_at: str = "") -> None:
    """A worker's whole work: what waits in the landing folders."""
    from tasks.ingesting import ingest_landing

    os.environ[VARIABLE] = fail_at
    ingest_landing(home=Home.open(Path(root)), settings=Settings(), now=NOW)


def measure_kills(folder: Path, *, kills: int, workers: Workers, cold: bool = True) -> list[Row]:
    """Kill, restart, compare; each third restart is killed too. `cold`: one more in a new interpreter.

    About 3 s a kill on two quiet cores.
    """
    draw = random.Random(SEED)
    state = Expected(make_home(folder / "kills-calm"))
    state.put()
    calm = workers.run(ingest_waiting, str(state.home.root))
    failed, restarts, killed, lost, doubled = int(calm.exit != 0), [], 0, 0, 0
    for attempt in range(3 * kills):
        if killed == kills:
            break
        if attempt % FRESH == 0:
            state = Expected(make_home(folder / f"kills-{attempt}"))
        if not any((state.home.landing / "feedback").iterdir()):
            state.put()
        root, point = str(state.home.root), POINTS[attempt // 2 % len(POINTS)]
        if attempt % 2 == 0:
            ended = workers.run(ingest_waiting, root, point)
        else:
            ended = workers.run(ingest_waiting, root, kill_after=draw.uniform(0, calm.seconds))
        killed += ended.exit == -signal.SIGKILL
        if attempt % 3 == 2 and (attempt + 1) % FRESH and killed < kills:
            continue  # the next kill hits the restart
        restart = workers.run(ingest_waiting, root)
        restarts.append(restart.seconds)
        failed += restart.exit != 0
        gone, twice = state.differences()
        lost, doubled = max(lost, gone), max(doubled, twice)
    return [
        at_least("kill -9 mid-ingest and mid-commit: kills", killed, kills, unit="kills"),
        at_most("kill -9: rows lost", lost, 0, unit="rows"),
        at_most("kill -9: rows counted twice", doubled, 0, unit="rows"),
        at_most("kill -9: restarts that failed", failed, 0, unit="restarts"),
        at_most("kill -9: slowest restart of a worker", round(max(restarts), 2), 10, unit="s"),
        *(_cold(folder, workers) if cold else ()),
    ]


def _cold(folder: Path, workers: Workers) -> list[Row]:
    """The restart as a new interpreter, its imports included."""
    state = Expected(make_home(folder / "kills-cold"))
    state.put()
    workers.run(ingest_waiting, str(state.home.root), "ingest.accepted")
    code = "import sys; from bench.fault_kills import ingest_waiting; ingest_waiting(sys.argv[1])"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, str(state.home.root)], cwd=Path(__file__).parents[1], check=False
    )
    ended = Ended(done.returncode, time.monotonic() - began)
    wrong = sum(state.differences()) + abs(ended.exit or 0)
    return [
        at_most("kill -9: restart in a new interpreter", round(ended.seconds, 2), 10, unit="s"),
        at_most("kill -9: wrong after it", wrong, 0, unit="rows"),
    ]
