"""A forgotten user leaves nothing but a receipt that names nobody, wherever the process is killed."""

import gzip
import json
import multiprocessing
import runpy
import shutil
import signal
from datetime import UTC, datetime, timedelta
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from relations.errors import DependencyFailed, UsageError
from relations.schemas import SCHEMAS
from stores.delivery import ingest_lock
from stores.failpoints import PRIVACY
from stores.home import Home
from stores.lake import Lake
from stores.landing_log import LandingLog
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.privacy import WITH_USERS
from stores.pseudonyms import Keys
from stores.settings import Settings
from stores.sqlite_state import SqliteState
from tasks.forgetting import descended, forget_users, models_to_retire
from tasks.ingesting import ingest_file

SCRIPT = str(Path(__file__).with_name("privacy_process.py"))
NOW = datetime(2026, 3, 1, tzinfo=UTC)
CANARY, OTHER = "canary-4711", "robin-42"
SETTINGS = Settings()
DAY_US = 86_400_000_000


def csv(folder: Path, *rows: str, name: str = "events.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(["user_id,item_id,behaviour,event_time", *rows]) + "\n")
    return path


def row_of(table: str, user: str, number: int) -> dict[str, Any]:
    """A row of any table with a value in each column that must have one."""
    samples: dict[Any, Any] = {
        pa.string(): f"x{number}",
        pa.int64(): number,
        pa.int32(): 1,
        pa.float64(): 0.5,
        pa.bool_(): False,
        pa.binary(): b"{}",
        pa.timestamp("us", tz="UTC"): NOW,
    }
    row = {field.name: samples.get(field.type, []) for field in SCHEMAS[table] if not field.nullable}
    return {**row, "user": user}


def hits(root: Path, *texts: str) -> list[str]:
    """Files below `root`, keys apart, that hold one of `texts`: as bytes, decoded from Parquet, or unzipped."""
    found = []
    for path in sorted(path for path in root.rglob("*") if path.is_file() and path.parent.name != "keys"):
        data = path.read_bytes()
        if data.startswith(b"PAR1"):
            data += str(pq.read_table(path).to_pylist()).encode()
        elif data.startswith(b"\x1f\x8b"):
            data += gzip.decompress(data)
        if any(text.encode() in data for text in texts):
            found.append(str(path.relative_to(root)))
    return found


def version(home: Home, number: int, *, events_version: int, cutoff: datetime, parent: int | None = None) -> None:
    Ledger.of(home, SETTINGS).record_version(
        VersionRecord(
            version=number,
            digest=f"{number:064x}",
            mode="full" if parent is None else "incremental",
            parent=parent,
            events_version=events_version,
            items_version=-1,
            cutoff_us=round(cutoff.timestamp() * 1e6),
            offline_passed=True,
            metrics={},
            run_id=f"run {number}",
            created=NOW - timedelta(days=2),
            checkpoint=f"checkpoints/full-{number}/fitted",
        )
    )


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the canary is everywhere: in each table, twelve times in the events, and in what is derived."""
    folder = tmp_path_factory.mktemp("forget")
    home = Home.create(folder / "home", simulation=True)
    Keys.write_derived(home.keys, seed=7)
    names = {user: Keys.load(home.keys).user(user) for user in (CANARY, OTHER)}
    rows = (f"{CANARY},lamp,view,2026-02-01", f"{OTHER},lamp,view,2026-02-02", f"{CANARY},lamp,hover,2026-02-03")
    ingest_file(csv(folder, *rows), home=home, settings=SETTINGS, now=NOW)
    lake = Lake(home.lake)
    for table in WITH_USERS:
        for number in range(11 if table == "events" else 2):
            rows = [row_of(table, name, number) for name in names.values()]
            lake.append(table, pa.Table.from_pylist(rows, schema=SCHEMAS[table]), transaction=f"{table}-{number}")
    unread = {**row_of("quarantine", "", 99), "user": None, "raw": f"{CANARY};lamp;?".encode()}
    others = {**unread, "row": 100, "raw": f"{CANARY}0;lamp;?".encode()}
    lake.append("quarantine", pa.Table.from_pylist([unread, others], SCHEMAS["quarantine"]), transaction="unread")
    state = SqliteState(home.user_state)
    state.absorb((name, f"{name}{n}", "lamp", "view", n) for name in names.values() for n in range(3))
    state.close()
    (home.rejected / "a.csv.gz").write_bytes(gzip.compress(f"{CANARY}\0".encode() * 9))
    (home.rejected / "b.bin").write_bytes(b"\xff\0\xff")
    (home.reports / "page.html").write_text(f"<td>{names[CANARY]}</td><td>{names[OTHER]}</td>")
    (home.root / "sequences").mkdir(exist_ok=True)
    (home.root / "sequences" / "users.arrow").write_text(names[CANARY])
    (home.landing / "events" / "waiting.csv").write_bytes(
        csv(folder, f"{CANARY},vase,view,2026-02-27", name="w.csv").read_bytes()
    )
    # Three models: trained before the canary came, on it, and on that one's weights.
    version(home, 1, events_version=0, cutoff=NOW)
    version(home, 2, events_version=12, cutoff=NOW)
    version(home, 3, events_version=0, cutoff=NOW, parent=2)
    return home.root


def copied(full: Path, folder: Path) -> Home:
    shutil.copytree(full, folder / "home")
    return Home.open(folder / "home")


def forget(home: Home, *users: str) -> dict[str, Any]:
    return forget_users(home, SETTINGS, users, actor="ada", reason="letter of 1 March", now=NOW)


def test_nothing_of_a_forgotten_user_is_left(full: Path, tmp_path: Path) -> None:
    home = copied(full, tmp_path)
    pseudonym, other = Keys.load(home.keys).users([CANARY, OTHER])
    before = {table: Lake(home.lake).read(table).num_rows for table in WITH_USERS}
    assert len(hits(home.root, CANARY, pseudonym)) > 12 + 2 * len(WITH_USERS)
    receipt = forget(home, CANARY)
    # `canary-47110` is somebody else, whose row nobody could read.
    assert hits(home.root, pseudonym) == []
    assert [name for name in hits(home.root, CANARY) if not name.startswith("lake/quarantine/part")] == []
    assert hits(home.root, CANARY + ";", CANARY + ",") == []

    # Delivered, appended twelve times, waiting: 1 + 11 + 1. In quarantine the two that were appended and the hover.
    assert receipt["rows"] == {"events": 13, "users": 2, "exposures": 2, "quarantine": 3, "late": 2, "replay": 2}
    assert receipt["files"] == {"rejected": 1, "reports": 1}
    after = {table: Lake(home.lake).read(table).num_rows for table in WITH_USERS}
    # The event that waited was in no table before; the quarantined row that nobody could read goes too.
    gone = {table: before[table] - after[table] for table in WITH_USERS}
    assert gone == {"events": 12, "users": 2, "exposures": 2, "quarantine": 4, "late": 2, "replay": 2}
    assert other in (home.reports / "page.html").read_text()
    assert [path.name for path in home.rejected.iterdir()] == ["b.bin"]
    state = SqliteState(home.user_state)
    assert (len(state.newest(pseudonym, 9)), len(state.newest(other, 9))) == (0, 4)  # three, and one of the table
    state.close()


def test_the_receipt_names_models_and_dates_and_nobody(full: Path, tmp_path: Path) -> None:
    home = copied(full, tmp_path)
    receipt = forget(home, CANARY)
    assert [model["version"] for model in receipt["models"]] == [2, 3]
    assert receipt["retire_by"] == (NOW + timedelta(days=30)).isoformat()
    assert receipt["next_full_retrain"] == (NOW + timedelta(days=5)).isoformat()  # trained two days ago, every seven
    file = home.reports / "forget" / f"{receipt['id']}.json"
    assert json.loads(file.read_text()) == receipt
    ledger = Ledger.of(home, SETTINGS)
    entry = ledger.audit()[-1]
    assert (entry.actor, entry.action, entry.subject) == ("ada", "forget", f"forget {receipt['id']}")
    assert ledger.verify() == []
    assert [(m["version"], m["retire_by"]) for m in models_to_retire(home, SETTINGS)] == [
        (2, receipt["retire_by"]),
        (3, receipt["retire_by"]),
    ]


def test_forgetting_again_changes_nothing_and_others_stay(full: Path, tmp_path: Path) -> None:
    home = copied(full, tmp_path)
    forget(home, CANARY)
    digests = {table: Lake(home.lake).content_digest(table) for table in SCHEMAS}
    again = forget(home, CANARY, CANARY, "who is that?")
    assert (again["users"], set(again["rows"].values()), again["models"]) == (2, {0}, [])
    assert {table: Lake(home.lake).content_digest(table) for table in SCHEMAS} == digests
    # The same file again brings nobody back: its delivery is known.
    receipt = ingest_file(full.parent / "events.csv", home=home, settings=SETTINGS, now=NOW)
    assert (receipt.delivered, receipt.duplicate) == (3, 3)


def test_what_serving_has_open_is_waited_for(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.model_validate({"serving": {"flush_seconds": 0.01}})
    pseudonym = Keys.load(home.keys).user(CANARY)
    event = {"event_id": "e", "user": pseudonym, "item_id": "i", "behaviour": "click", "event_time": NOW.isoformat()}
    log = LandingLog(home.landing / "feedback", flush_seconds=0.01, flush_rows=100)
    log.append([json.dumps(event).encode() + b"\n"])
    monkeypatch.setattr("tasks.quieting.time.sleep", lambda _: log.hand_over())  # as the server's loop does
    receipt = forget_users(home, settings, [CANARY], actor="ada", reason="asked", now=NOW)
    assert receipt["rows"]["events"] == 1
    assert hits(home.root, CANARY, pseudonym) == []


def test_a_server_that_does_not_hand_over_is_named(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.model_validate({"serving": {"flush_seconds": 0.01}})
    log = LandingLog(home.landing / "feedback", flush_seconds=0.01, flush_rows=100)
    log.append([b"{}\n"])
    times = iter(range(0, 1000, 20))
    monkeypatch.setattr("tasks.quieting.time.monotonic", lambda: next(times))
    with pytest.raises(DependencyFailed, match="has not handed this over"):
        forget_users(home, settings, [CANARY], actor="ada", reason="asked", now=NOW)
    log.hand_over()


@pytest.mark.parametrize("users", [[], [""], ["ada", " \t"]])
def test_a_blank_user_is_refused(home: Home, users: list[str]) -> None:
    with pytest.raises(UsageError, match="not blank"):
        forget_users(home, SETTINGS, users, actor="ada", reason="asked", now=NOW)


def test_a_reason_that_names_the_user_is_refused(home: Home) -> None:
    with pytest.raises(UsageError, match="must not name"):
        forget_users(home, SETTINGS, [CANARY], actor="ada", reason=f"{CANARY} wrote to us", now=NOW)


def test_an_increment_inherits_and_a_full_retrain_does_not(home: Home) -> None:
    version(home, 1, events_version=0, cutoff=NOW)
    version(home, 2, events_version=0, cutoff=NOW, parent=1)
    version(home, 3, events_version=0, cutoff=NOW, parent=2)
    records = [*Ledger.of(home, SETTINGS).versions()]
    version(home, 4, events_version=0, cutoff=NOW)
    assert descended(records, {2}) == {2, 3}
    assert descended(records, {1}) == {1, 2, 3}
    assert descended(records, set()) == set()


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["great_expectations", "pandas", "ibis", "tasks.ingesting", "pyarrow.dataset"])
    return context


def killed(context: ForkServerContext, home: Home, order: str, fail_at: str) -> int | None:
    given = {"root": str(home.root), "order": order, "fail_at": fail_at, "now": NOW.isoformat()}
    process = context.Process(target=runpy.run_path, args=(SCRIPT,), kwargs={"init_globals": given})
    process.start()
    process.join(timeout=120)
    return process.exitcode


class Cut(BaseException):
    """As a kill, but for the lock, which a killed process lets go by itself."""


def test_cut_at_each_point_in_turn_and_finished_by_the_next(
    full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = copied(full, tmp_path)
    pseudonym = Keys.load(home.keys).user(CANARY)
    wanted = ""

    def reach(name: str) -> None:
        if name == wanted:
            raise Cut

    monkeypatch.setattr("stores.privacy.reach", reach)
    for wanted in PRIVACY:
        if wanted != "privacy.key":  # a rotation's
            # From the second on it is the order of the first that is gone on with, whatever is asked for.
            with pytest.raises(Cut):
                forget(home, CANARY)
    wanted = ""
    forget(home, "somebody")  # enters both receipts in the ledger
    assert hits(home.root, pseudonym, CANARY + ";", CANARY + ",", CANARY + '"') == []
    assert list(home.staging.iterdir()) == []
    filed = [json.loads(file.read_text()) for file in (home.reports / "forget").glob("*.json")]
    assert sorted(receipt["rows"]["events"] for receipt in filed) == [0, 13]
    assert [entry.action for entry in Ledger.of(home, SETTINGS).audit()][-2:] == ["forget", "forget"]


def test_killed_midway_the_next_to_take_the_lock_finishes(
    full: Path, tmp_path: Path, processes: ForkServerContext
) -> None:
    home = copied(full, tmp_path)
    pseudonym = Keys.load(home.keys).user(CANARY)
    assert killed(processes, home, f"forget {CANARY}", "privacy.table") == -signal.SIGKILL
    assert (home.staging / "order.json").stat().st_mode & 0o777 == 0o600
    with ingest_lock(home):
        pass
    assert hits(home.root, pseudonym, CANARY + ";", CANARY + ",", CANARY + '"') == []
