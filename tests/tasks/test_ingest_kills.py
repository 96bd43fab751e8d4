"""Kill -9 at every fail point, then the same command: the same counts and digests as without the kill."""

import json
import multiprocessing
import random
import runpy
import shutil
import signal
import time
from datetime import UTC, datetime, timedelta
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest

from relations.schemas import SCHEMAS
from stores.failpoints import INGEST
from stores.home import Home
from stores.lake import Lake
from stores.pseudonyms import Keys

SCRIPT = str(Path(__file__).with_name("ingest_process.py"))
NOW = datetime(2026, 3, 1, tzinfo=UTC)
USER = "p1_" + "0" * 32


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Children fork from a server that has imported Great Expectations once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["great_expectations", "pandas", "ibis", "tasks.ingesting", "pyarrow.dataset"])
    return context


def command(
    context: ForkServerContext, home: Path, *, file: str = "", fail_at: str = "", after: float = 0.0
) -> int | None:
    """Run one ingest; its exit code. `after`: seconds until it is killed from outside."""
    given = {"root": str(home), "fail_at": fail_at, "file": file, "now": NOW.isoformat()}
    process = context.Process(target=runpy.run_path, args=(SCRIPT,), kwargs={"init_globals": given})
    process.start()
    if after:
        time.sleep(after)
        process.kill()
    process.join(timeout=120)
    return process.exitcode


def told(home: Path) -> dict[str, Any]:
    """Everything that a kill must not change."""
    lake = Lake(home / "lake")
    return {
        "totals": lake.totals(),
        "digests": {table: lake.content_digest(table) for table in SCHEMAS},
        "versions": lake.versions(),
        "receipts": sorted(lake.read("deliveries").column("delivery_id").to_pylist()),
        "staging": sorted(path.name for path in (home / "staging").iterdir()),
        "landing": sorted(path.name for path in (home / "landing").rglob("*.jsonl")),
    }


def rows(prefix: str) -> str:
    """60 rows for every table: fine ones, one twice, late ones, broken ones."""
    times = [NOW - timedelta(minutes=number) for number in range(40)] + [
        NOW - timedelta(days=9, minutes=n) for n in range(9)
    ]
    events: list[dict[str, object]] = [
        {"event_id": f"{prefix}{number}", "user": USER, "item_id": f"i{number % 5}", "behaviour": "click",
         "event_time": moment.isoformat()}
        for number, moment in enumerate(times)
    ]  # fmt: skip
    broken = [{**events[0], "event_id": f"{prefix}b{number}", "behaviour": "hover"} for number in range(10)]
    return "".join(json.dumps(row) + "\n" for row in [*events, events[3], *broken])


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose landing folders hold two deliveries: a file that sets the watermark, and two that go together."""
    home = Home.create(tmp_path_factory.mktemp("kills") / "home", simulation=True)
    Keys.write_derived(home.keys, seed=7)
    (home.landing / "feedback" / "1.jsonl").write_text(rows("a"))
    (home.landing / "feedback" / "2.jsonl").write_text(rows("b"))
    (home.landing / "events" / "0.csv").write_text(
        f"user_id,item_id,behaviour,event_time\nu,i,view,{NOW.isoformat()}\n"
    )
    return home.root


@pytest.fixture(scope="module")
def undisturbed(before: Path, processes: ForkServerContext) -> dict[str, Any]:
    home = before.with_name("undisturbed")
    shutil.copytree(before, home)
    assert command(processes, home) == 0
    found = told(home)
    assert found["totals"] == {"delivered": 121, "accepted": 81, "quarantined": 20, "duplicate": 2, "late": 18}
    assert found["landing"] == found["staging"] == []
    return found


def test_landing_killed_at_each_point_in_turn(
    before: Path, undisturbed: dict[str, Any], processes: ForkServerContext
) -> None:
    home = before.with_name("each-point")
    shutil.copytree(before, home)
    for point in INGEST:
        assert command(processes, home, fail_at=point) == -signal.SIGKILL, point
    assert command(processes, home) == 0
    assert told(home) == undisturbed


def test_landing_killed_at_random_times(
    before: Path, undisturbed: dict[str, Any], processes: ForkServerContext
) -> None:
    home = before.with_name("random-times")
    shutil.copytree(before, home)
    draw = random.Random(11)
    for _ in range(5):
        command(processes, home, after=draw.uniform(0.05, 1.2))
    assert command(processes, home) == 0
    assert told(home) == undisturbed


def test_a_killed_command_and_its_repetition_are_one_delivery(tmp_path: Path, processes: ForkServerContext) -> None:
    file = tmp_path / "e.csv"
    lines = [f"u{n},i{n % 7},{'view' if n % 9 else 'hover'},2026-02-01T00:00:{n:02d}Z" for n in range(60)]
    file.write_text("\n".join(["user_id,item_id,behaviour,event_time", *lines]))
    calm, cut = (Home.create(tmp_path / name, simulation=True) for name in ("calm", "cut"))
    for home in (calm, cut):
        Keys.write_derived(home.keys, seed=7)
    assert command(processes, calm.root, file=str(file)) == 0
    for point in ("ingest.spooled", "ingest.accepted", "ingest.quarantine", "ingest.receipt"):
        assert command(processes, cut.root, file=str(file), fail_at=point) == -signal.SIGKILL, point
    assert command(processes, cut.root, file=str(file)) == 0
    assert told(cut.root) == told(calm.root)
    assert command(processes, cut.root, file=str(file)) == 0  # a command of its own: one more receipt
    assert Lake(cut.lake).totals() == {"delivered": 120, "accepted": 53, "quarantined": 7, "duplicate": 60, "late": 0}
