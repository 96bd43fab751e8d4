"""Files of an append: one commit names them all, and a retry writes over what a killed try left."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

import stores.parts
from relations.schemas import EVENTS
from stores.lake import Lake

START = datetime(2026, 3, 1, microsecond=1_500, tzinfo=UTC)


def events(first: int, rows: int) -> pa.RecordBatch:
    said = [
        {
            "event_id": f"e{number}", "user": "p1_" + "0" * 32, "item_id": "i", "behaviour": "view",
            "event_time": START + timedelta(seconds=number), "received_time": START, "source": "s", "delivery_id": "d",
        }
        for number in range(first, first + rows)
    ]  # fmt: skip
    return pa.RecordBatch.from_pylist(said, schema=EVENTS)


def reader(sizes: list[int]) -> pa.RecordBatchReader:
    batches = [events(sum(sizes[:place]), rows) for place, rows in enumerate(sizes)]
    return pa.RecordBatchReader.from_batches(EVENTS, iter(batches))


def test_many_files_are_one_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores.parts, "PART_ROWS", 10)
    lake = Lake(tmp_path / "lake")
    assert lake.append("events", reader([4, 0, 7, 9, 3]), transaction="one") == 1
    table = DeltaTable(str(tmp_path / "lake" / "events"))
    assert len(table.file_uris()) == 2  # closed when full: 4 + 0 + 7 = 11, 9 + 3 = 12
    assert sorted(lake.read("events").column("event_id").to_pylist()) == sorted(f"e{number}" for number in range(23))
    assert lake.append("events", reader([5]), transaction="one") == 1  # seen: nothing changes


def test_the_log_holds_bounds_of_times_and_of_nothing_else(tmp_path: Path) -> None:
    Lake(tmp_path / "lake").append("events", reader([3]), transaction="one")
    log = (tmp_path / "lake" / "events" / "_delta_log" / f"{1:020d}.json").read_text().splitlines()
    stats = json.loads(next(json.loads(line)["add"]["stats"] for line in log if "add" in line))
    assert stats == {
        "numRecords": 3,
        "minValues": {"event_time": "2026-03-01T00:00:00.001Z", "received_time": "2026-03-01T00:00:00.001Z"},
        # 2.0015 s, rounded up to the next millisecond
        "maxValues": {"event_time": "2026-03-01T00:00:02.002Z", "received_time": "2026-03-01T00:00:00.002Z"},
    }


def test_a_retry_leaves_no_file_of_the_try_before(tmp_path: Path) -> None:
    def cut() -> Iterator[pa.RecordBatch]:
        yield events(0, 5)
        raise RuntimeError("killed")

    lake, folder = Lake(tmp_path / "lake"), tmp_path / "lake" / "events"
    with pytest.raises(RuntimeError, match="killed"):
        lake.append("events", pa.RecordBatchReader.from_batches(EVENTS, cut()), transaction="one")
    assert lake.version("events") == 0  # made, and empty
    lake.append("events", reader([5]), transaction="one")
    assert lake.read("events").num_rows == 5
    assert len(list(folder.glob("*.parquet"))) == 1
