"""Upkeep: fewer files, the same rows, and nothing young dropped."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from relations.schemas import SCHEMAS
from stores.home import Home
from stores.lake import Lake
from stores.settings import Settings
from tasks.maintaining import as_json, maintain_lake, report_markdown

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SETTINGS = Settings.model_validate({"lake": {"keep_days": 2}})
EVENT = {"event_id": "e", "user": "p1_" + "a" * 32, "item_id": "i", "behaviour": "view", "event_time": NOW,
         "received_time": NOW, "source": "s", "delivery_id": "d"}  # fmt: skip


def ten_appends(home: Home) -> Lake:
    lake = Lake(home.lake)
    for n in range(10):
        rows = pa.Table.from_pylist([{**EVENT, "event_id": f"e{n}"}], schema=SCHEMAS["events"])
        lake.append("events", rows, transaction=f"d{n}")
    return lake


def age(folder: Path, *, days: float) -> None:
    then = time.time() - days * 86_400
    for path in folder.rglob("*"):
        os.utime(path, (then, then))


def test_files_are_merged_and_old_ones_dropped(home: Home) -> None:
    lake = ten_appends(home)
    digest = lake.content_digest("events")
    (young,) = maintain_lake(home, SETTINGS)
    assert (young.table, young.files, young.dropped, young.log_entries) == ("events", (10, 1), 0, 0)
    assert lake.read("events", version=3).num_rows == 3
    (home.lake / "events" / "part-of-a-killed-writer.parquet").write_bytes(b"PAR1")
    age(home.lake, days=3)
    (old,) = maintain_lake(home, SETTINGS)
    # The ten small files left the table just now, and are kept for two days. Of the log, the creation, the ten
    # appends and the compaction make 0 … 11, and the first upkeep's checkpoint was of 11: the eleven before it go.
    assert (old.files, old.dropped, old.log_entries) == ((1, 1), 1, 11)
    assert not (home.lake / "events" / "part-of-a-killed-writer.parquet").exists()
    assert lake.content_digest("events") == digest
    rows = pa.Table.from_pylist([EVENT], schema=SCHEMAS["events"])
    assert lake.append("events", rows, transaction="d3") == lake.version("events")
    assert lake.content_digest("events") == digest  # seen before: the checkpoint remembers
    assert as_json([old])[0]["files"] == (1, 1)
    assert "| events | 1 → 1 |" in report_markdown(home, SETTINGS, [old])


def test_a_home_without_tables_needs_nothing(home: Home) -> None:
    assert maintain_lake(home, SETTINGS) == []
