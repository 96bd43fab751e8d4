"""A rotated key: the same users, the same events, none accepted twice, wherever the process is killed."""

import json
import multiprocessing
import random
import runpy
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from relations.errors import GateRefused, UsageError
from stores.delivery import Receipt, ingest_lock
from stores.failpoints import PRIVACY
from stores.home import Home
from stores.lake import Lake
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.privacy import WITH_USERS
from stores.pseudonyms import Keys
from stores.settings import Settings
from stores.sqlite_state import SqliteState
from tasks.ingesting import ingest_file, ingest_landing
from tasks.refreshing import refresh_serving
from tasks.repairing import replay_rows
from tasks.rotating import rotate_keys

SCRIPT = str(Path(__file__).with_name("privacy_process.py"))
NOW = datetime(2026, 3, 1, tzinfo=UTC)
SETTINGS = Settings.model_validate({"serving": {"poll_seconds": 0.01}})
USERS = [f"u{n % 5}" for n in range(20)]


def delivered(home: Home, folder: Path, name: str, *, ids: bool) -> Receipt:
    """Twenty events of five users, one of them broken, in an order of the file's own: other bytes, the same rows."""
    rows = [
        {"user_id": user, "item_id": "i", "behaviour": "view" if n else "hover", "event_time": f"2026-02-01T00:{n:02}"}
        for n, user in enumerate(USERS)
    ]
    stated = [{**row, **({"event_id": f"e{n}"} if ids else {})} for n, row in enumerate(rows)]
    random.Random(name).shuffle(stated)
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in stated))
    return ingest_file(file, home=home, settings=SETTINGS, now=NOW)


def counts(receipt: Receipt) -> tuple[int, ...]:
    return receipt.delivered, receipt.accepted, receipt.quarantined, receipt.duplicate


def rotate(home: Home) -> dict[str, Any]:
    return rotate_keys(home, SETTINGS, actor="ada", reason="yearly", now=NOW)


def people(home: Home) -> dict[str, set[str]]:
    """User → event ids."""
    found: dict[str, set[str]] = {}
    events = Lake(home.lake).read("events")
    for user, event in zip(events["user"].to_pylist(), events["event_id"].to_pylist(), strict=True):
        found.setdefault(user, set()).add(event)
    return found


@pytest.mark.parametrize("ids", [True, False], ids=["given ids", "derived ids"])
def test_no_event_is_accepted_twice_through_a_rotation(tmp_path: Path, home: Home, ids: bool) -> None:
    assert counts(delivered(home, tmp_path, "first", ids=ids)) == (20, 19, 1, 0)
    former = people(home)
    before = {table: Lake(home.lake).read(table).num_rows for table in WITH_USERS}
    assert rotate(home)["key_version"] == 2
    keys = Keys.load(home.keys)
    assert people(home) == {keys.lift(user): events for user, events in former.items()}
    assert set(people(home)) == set(keys.users(USERS))
    assert counts(delivered(home, tmp_path, "second", ids=ids)) == (20, 0, 0, 20)
    rotate(home)
    assert counts(delivered(home, tmp_path, "third", ids=ids)) == (20, 0, 0, 20)
    assert {table: Lake(home.lake).read(table).num_rows for table in WITH_USERS} == before
    assert Lake(home.lake).totals() == {"delivered": 60, "accepted": 19, "quarantined": 1, "duplicate": 40, "late": 0}


def test_a_row_repaired_after_the_rotation_is_the_event_that_the_source_repairs(tmp_path: Path, home: Home) -> None:
    """The quarantine has the pseudonym alone; the id derived from it is the one that the raw id gives."""
    delivered(home, tmp_path, "first", ids=False)
    rotate(home)
    (repair,) = replay_rows(None, home=home, settings=SETTINGS, now=NOW, behaviours={"hover": "view"})
    assert repair.replayed == 1
    (tmp_path / "repaired.csv").write_text("user_id,item_id,behaviour,event_time\nu0,i,view,2026-02-01T00:00\n")
    assert counts(ingest_file(tmp_path / "repaired.csv", home=home, settings=SETTINGS, now=NOW)) == (1, 0, 0, 1)


def test_no_file_holds_an_older_pseudonym_and_the_state_follows(tmp_path: Path, home: Home) -> None:
    delivered(home, tmp_path, "first", ids=False)
    refresh_serving(home, SETTINGS)
    old = Keys.load(home.keys).user("u1")
    rotate(home)
    refresh_serving(home, SETTINGS)
    state = SqliteState(home.user_state)
    assert (len(state.newest(old, 9)), len(state.newest(Keys.load(home.keys).user("u1"), 9))) == (0, 4)
    state.close()
    lake = [path for path in home.lake.rglob("*") if path.is_file()]
    assert [path for path in lake if old.encode() in path.read_bytes()] == []


def test_rows_of_a_server_that_has_not_seen_the_key_are_lifted(home: Home) -> None:
    old = Keys.load(home.keys).user("u1")
    rotate(home)
    event = {"event_id": "e", "user": old, "item_id": "i", "behaviour": "click", "event_time": NOW.isoformat()}
    (home.landing / "feedback" / "1.jsonl").write_text(json.dumps(event) + "\n")
    (receipt,) = ingest_landing(home=home, settings=SETTINGS, now=NOW)
    assert receipt.accepted == 1
    assert set(people(home)) == {Keys.load(home.keys).user("u1")}


def test_an_open_trial_keeps_its_arms(home: Home) -> None:
    ledger = Ledger.of(home, SETTINGS)
    record = VersionRecord(
        version=1, digest="1" * 64, mode="full", parent=None, events_version=0, items_version=0, cutoff_us=0,
        offline_passed=True, metrics={}, run_id="r", created=NOW, checkpoint="",
    )  # fmt: skip
    ledger.record_version(record)
    ledger.record_version(VersionRecord(**{**vars(record), "version": 2, "digest": "2" * 64}))
    ledger.bootstrap(1, actor="ada", reason="first", now=NOW)
    ledger.open_trial("trial-1", {}, challengers=[2], salt="s", allocation=0.5, actor="flow", now=NOW)
    with pytest.raises(GateRefused, match=r"trial-1 is open.*ratchet trial stop trial-1"):
        rotate(home)
    assert Keys.load(home.keys).version == 1
    ledger.stop_trial("trial-1", actor="ada", reason="rotation", now=NOW)
    rotate(home)
    assert Keys.load(home.keys).version == 2
    entry = ledger.audit()[-1]
    assert (entry.actor, entry.action, entry.subject) == ("ada", "rotate", "rotate key-2")
    assert ledger.verify() == []


def test_a_rotation_names_who_and_why(home: Home) -> None:
    with pytest.raises(UsageError, match="--as"):
        rotate_keys(home, SETTINGS, actor="ada", reason=" ", now=NOW)


class Cut(BaseException):
    """As a kill, but for the lock, which a killed process lets go by itself."""


def test_cut_at_each_point_in_turn_and_finished_by_the_next(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivered(home, tmp_path, "first", ids=False)
    refresh_serving(home, SETTINGS)
    former, wanted = people(home), ""

    def reach(name: str) -> None:
        if name == wanted:
            raise Cut

    monkeypatch.setattr("stores.privacy.reach", reach)
    for wanted in PRIVACY:
        if wanted != "privacy.files":  # a forgetting's
            with pytest.raises(Cut):
                rotate(home)
    wanted = ""
    assert counts(delivered(home, tmp_path, "second", ids=False)) == (20, 0, 0, 20)
    keys = Keys.load(home.keys)
    assert keys.version == 2  # one order, however often it was gone on with
    assert people(home) == {keys.lift(user): events for user, events in former.items()}


def test_killed_midway_the_next_delivery_finishes(tmp_path: Path, home: Home) -> None:
    delivered(home, tmp_path, "first", ids=False)
    former = people(home)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["great_expectations", "pandas", "ibis", "tasks.ingesting", "pyarrow.dataset"])
    given = {"root": str(home.root), "order": "rotate", "fail_at": "privacy.table", "now": NOW.isoformat()}
    process = context.Process(target=runpy.run_path, args=(SCRIPT,), kwargs={"init_globals": given})
    process.start()
    process.join(timeout=120)
    assert process.exitcode == -signal.SIGKILL
    with ingest_lock(home):
        pass
    assert people(home) == {Keys.load(home.keys).lift(user): events for user, events in former.items()}
    assert [path.name for path in (home.reports / "rotate").iterdir()] == ["key-2.json"]
