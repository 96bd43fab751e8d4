"""What is put before the door to break it: odd names, pipes, files that vanish or change, values nobody thought of."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import tasks.ingesting as door
from relations.errors import DataRejected, DependencyFailed, UsageError
from stores.delivery import UNREADABLE, Request, ingest_lock
from stores.home import Home
from stores.lake import Lake
from stores.pseudonyms import Keys
from stores.remote import opened
from stores.settings import Settings
from tasks.forgetting import forget_users
from tasks.ingesting import ingest_file, ingest_landing, kinds_in
from tasks.refreshing import refresh_serving

NOW = datetime(2026, 3, 1, tzinfo=UTC)
HEAD = b"user_id,item_id,behaviour,event_time\n"
ROW = b"u,i,view,2026-02-28T00:00:00Z\n"
NAMES = (
    b"\xff\xfe.csv",
    b"n" * 251 + b".csv",
    b"a\nb.csv",
    b"=cmd|' .csv",
    b"%2e%2e%2fx.csv",
    b"-rf.csv",
    b"a::b#c.csv",
)


def totals(home: Home) -> dict[str, int]:
    lake = Lake(home.lake)
    found = lake.totals()
    assert found["delivered"] == found["accepted"] + found["quarantined"] + found["duplicate"] + found["late"]
    tables = {"accepted": "events", "quarantined": "quarantine", "late": "late"}
    assert {count: lake.read(table).num_rows for count, table in tables.items()} == {
        count: found[count] for count in tables
    }
    assert list(home.staging.iterdir()) == []
    return found


def put(home: Home, name: bytes, data: bytes) -> None:
    Path(os.fsdecode(os.fsencode(home.landing / "events") + b"/" + name)).write_bytes(data)


def landing(home: Home) -> list[str]:
    return [receipt.state for receipt in ingest_landing(home=home, settings=Settings(), now=NOW)]


def test_no_file_name_closes_the_door(home: Home) -> None:
    for number, name in enumerate(NAMES):
        put(home, name, HEAD + b"u%d" % number + ROW)
    assert landing(home) == ["committed"] * len(NAMES)
    for name in NAMES:
        put(home, name, b"PAR1 and no more " + name)
    assert landing(home) == ["unreadable"] * len(NAMES)
    assert len(list(home.rejected.iterdir())) == len(NAMES)
    assert landing(home) == []
    assert totals(home)["accepted"] == len(NAMES)


def test_two_ingests_at_once_take_each_row_in_once(tmp_path: Path, home: Home) -> None:
    for number in range(3):
        put(
            home,
            b"%d.csv" % number,
            HEAD + b"".join(b"u%d,i,view,2026-02-28T00:00:%02dZ\n" % (n, number) for n in range(9)),
        )
    (tmp_path / "e.csv").write_bytes((home.landing / "events" / "0.csv").read_bytes())

    def explicit(_: Home) -> list[str]:
        return [ingest_file(tmp_path / "e.csv", home=home, settings=Settings(), now=NOW).state]

    with ThreadPoolExecutor(3) as pool:
        states = [each.result() for each in [pool.submit(work, home) for work in (landing, explicit, landing)]]
    assert sorted(len(each) for each in states) == [0, 1, 3]
    assert totals(home) == {"delivered": 36, "accepted": 27, "quarantined": 0, "duplicate": 9, "late": 0}


def test_a_home_may_lie_anywhere(tmp_path: Path) -> None:
    """Its path comes to Delta, DuckDB and Arrow, each with an escape of its own."""
    home = Home.create(tmp_path / "a bé *?#'", simulation=True)
    Keys.write_derived(home.keys, seed=7)
    put(home, b"1.csv", HEAD + ROW)
    put(home, b"2.csv", HEAD + ROW + ROW.replace(b"view", b"hover"))
    assert landing(home) == ["committed"] * 2
    assert refresh_serving(home, Settings()) == 1
    forget_users(home, Settings(), ["u"], actor="ada", reason="asked", now=NOW)
    assert [Lake(home.lake).read(table).num_rows for table in ("events", "quarantine")] == [0, 0]
    for odd in ("a[b", "a%20b"):
        with pytest.raises(UsageError, match="cannot lie below a path with"):
            Home.create(tmp_path / odd)


def test_a_report_that_finds_no_room_is_written_later(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    put(home, b"1.csv", HEAD + ROW)
    with monkeypatch.context() as patch:
        patch.setattr(door, "write_page", full)
        with pytest.raises(DependencyFailed, match=r"1\.csv was cut off: .* No space left on device; make space"):
            landing(home)
    assert landing(home) == ["committed"]
    assert totals(home) == {"delivered": 1, "accepted": 1, "quarantined": 0, "duplicate": 0, "late": 0}


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, home: Home) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    os.mkfifo(home.landing / "events" / "pipe.csv")
    with pytest.raises(UsageError, match="is a pipe or a device; write what it gives to a file"):
        kinds_in(tmp_path / "pipe.csv", settings=Settings(), source="file", format="auto")
    for place in (tmp_path / "pipe.csv", "/dev/null", tmp_path):
        with pytest.raises(UsageError, match="is a "):
            ingest_file(place, home=home, settings=Settings(), now=NOW)
    assert landing(home) == []
    assert totals(home)["delivered"] == 0


def test_a_source_without_a_printable_name_is_refused(tmp_path: Path, home: Home) -> None:
    (tmp_path / "e.csv").write_bytes(HEAD + ROW)
    for source in ("", "\udcff", "a\nb"):
        with pytest.raises(UsageError, match="give the feed a name"):
            ingest_file(tmp_path / "e.csv", home=home, settings=Settings(), source=source, now=NOW)


def test_a_file_that_is_taken_away_stops_no_other(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(home, b"1.csv", HEAD + ROW)
    put(home, b"2.csv", HEAD + ROW.replace(b"u", b"v"))
    taken = home.landing / "events" / "1.csv"
    spool = door.spool

    def late(streams: Any, *, home: Home) -> Any:
        taken.unlink(missing_ok=True)  # between the listing and the copy
        return spool(streams, home=home)

    monkeypatch.setattr(door, "spool", late)
    with caplog.at_level(logging.WARNING):
        assert landing(home) == ["committed"]
    assert "1.csv: no such file" in caplog.text
    assert totals(home)["accepted"] == 1


def test_a_file_that_is_replaced_while_it_is_ingested_is_ingested_too(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(home, b"1.csv", HEAD + ROW)
    judge, other = door.judge_delivery, HEAD + ROW + ROW.replace(b"u", b"v")

    def replaced(*given: Any, **more: Any) -> Any:
        put(home, b"1.new", other)
        (home.landing / "events" / "1.new").replace(home.landing / "events" / "1.csv")
        return judge(*given, **more)

    monkeypatch.setattr(door, "judge_delivery", replaced)
    assert landing(home) == ["committed"]
    monkeypatch.undo()
    assert (home.landing / "events" / "1.csv").read_bytes() == other
    assert landing(home) == ["committed"]
    assert totals(home) == {"delivered": 3, "accepted": 2, "quarantined": 0, "duplicate": 1, "late": 0}
    assert not list((home.landing / "events").iterdir())


def test_times_beyond_pythons_are_their_rows_fault(tmp_path: Path, home: Home) -> None:
    rows = {"user_id": ["u"] * 30, "item_id": [f"i{n}" for n in range(30)], "behaviour": ["view"] * 30}
    times = pa.array([*(NOW.timestamp() - n for n in range(29)), 2**62], pa.int64()).cast(pa.timestamp("s"))
    zone = pa.array([0] * 30, pa.timestamp("us", tz="No/Where"))
    table = pa.table({**rows, "event_time": times, "other": zone})
    with pa.OSFile(str(tmp_path / "e.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    receipt = ingest_file(tmp_path / "e.arrow", home=home, settings=Settings(), now=NOW)
    assert (receipt.accepted, receipt.quarantined) == (29, 1)
    held = Lake(home.lake).read("quarantine").to_pylist()[0]
    assert (held["row"], b"4611686018427387904" in held["raw"]) == (29, True)


def test_half_a_surrogate_pair_in_a_name_is_its_rows_fault(tmp_path: Path, home: Home) -> None:
    line = b'{"user_id": "u", "item_id": "i%d", "behaviour": "view", "event_time": "2026-02-28"%s}\n'
    lines = [line % (number, b"" if number else b', "\\ud800": 1') for number in range(25)]
    (tmp_path / "e.jsonl").write_bytes(b"".join(lines))
    receipt = ingest_file(tmp_path / "e.jsonl", home=home, settings=Settings(), now=NOW)
    assert (receipt.accepted, receipt.quarantined, receipt.reasons) == (24, 1, (("readable", 1),))
    assert totals(home)["delivered"] == 25


def test_a_bug_of_ours_closes_the_door_for_one_file_alone(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(home, b"1.csv", HEAD + ROW)
    put(home, b"2.csv", HEAD + ROW.replace(b"u", b"v"))
    judge = door.judge_delivery

    def breaks(intent: Any, **more: Any) -> Any:
        if intent.request.uri.endswith("1.csv"):
            raise KeyError("ada@example.org")
        return judge(intent, **more)

    monkeypatch.setattr(door, "judge_delivery", breaks)
    assert landing(home) == ["unreadable", "committed"]
    assert "landing/events/1.csv: a bug of ours, please report it: KeyError at test_faults_door.py:" in caplog.text
    assert "ada@" not in caplog.text
    assert totals(home)["accepted"] == 1
    (kept,) = home.rejected.iterdir()
    assert kept.read_bytes() == HEAD + ROW


def test_messages_that_cannot_be_read_are_kept(
    tmp_path: Path, home: Home, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A topic is read on from behind them."""

    def breaks(*_: Any, **__: Any) -> None:
        raise DataRejected("no rows in there")

    monkeypatch.setattr(door, "judge_delivery", breaks)
    (tmp_path / "m").write_bytes(b"{}\n")
    request = Request("kafka://b:1/t", "events", "t", "jsonl", True, False, offsets={"kafka:t:t:0": 1})

    with ingest_lock(home):
        receipt = door.deliver(
            [partial(opened, str(tmp_path / "m"), {})], request, home=home, settings=settings, now=NOW
        )
    assert receipt.state == UNREADABLE
    assert [path.read_bytes() for path in home.rejected.iterdir()] == [b"{}\n"]


def test_the_command_says_that_a_file_is_no_data(tmp_path: Path, home: Home) -> None:
    (tmp_path / "e.csv").write_bytes(bytes(5_000))
    with pytest.raises(DataRejected, match="binary from offset 0"):
        ingest_file(tmp_path / "e.csv", home=home, settings=Settings(), now=NOW)
    assert totals(home)["delivered"] == 0
