"""The lake: versions, exactly-once appends, digests, relations."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from relations.errors import UsageError
from relations.schemas import EVENTS, SCHEMAS
from stores.lake import Lake

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def events(numbers: range, *, delivery: str = "d") -> pa.Table:
    rows = [
        {
            "event_id": f"e{number}",
            "user": f"u{number % 3}",
            "item_id": "🦉",
            "behaviour": "view",
            "event_time": NOON + timedelta(minutes=number),
            "received_time": NOON,
            "source": "file",
            "delivery_id": delivery,
        }
        for number in numbers
    ]
    return pa.Table.from_pylist(rows, schema=EVENTS)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def test_absent_tables_read_as_empty_ones(lake: Lake) -> None:
    for table, schema in SCHEMAS.items():
        assert lake.version(table) == -1
        assert lake.read(table).schema == schema
        assert lake.relation(table).count().to_pyarrow().as_py() == 0
        assert lake.relation(table).schema().names == tuple(schema.names)
    assert lake.watermark() is None
    assert lake.totals() == dict.fromkeys(("delivered", "accepted", "quarantined", "duplicate", "late"), 0)
    with pytest.raises(UsageError, match="no such table"):
        lake.version("clicks")


def test_a_transaction_is_appended_once(lake: Lake) -> None:
    version = lake.append("events", events(range(3)), transaction="t1")
    assert lake.append("events", events(range(3)), transaction="t1") == version
    assert lake.append("events", events(range(0)), transaction="t2") == version  # no rows, no commit
    assert lake.append("events", events(range(3, 5)), transaction="t3") == version + 1
    assert lake.read("events").num_rows == 5
    assert lake.read("events").schema == EVENTS
    assert lake.read("events", version=version, columns=["event_id"]).num_rows == 3
    assert lake.version("events") == version + 1
    assert lake.watermark() == NOON + timedelta(minutes=4)
    assert lake.watermark(version=version) == NOON + timedelta(minutes=2)


def test_many_small_files_become_one_and_old_versions_stay(lake: Lake) -> None:
    versions = [lake.append("events", events(range(n, n + 1)), transaction=f"t{n}") for n in range(4)]
    before = lake.content_digest("events")
    lake.compact("events", above=4)
    assert lake.version("events") == versions[-1]
    lake.compact("events", above=3)
    assert lake.version("events") == versions[-1] + 1
    assert lake.content_digest("events") == before
    assert lake.append("events", events(range(1)), transaction="t0") == versions[-1] + 1  # still known
    assert lake.read("events", version=versions[1]).num_rows == 2
    assert lake.relation("events").count().to_pyarrow().as_py() == 4


def test_digests_tell_content_and_not_arrival(lake: Lake, tmp_path: Path) -> None:
    other = Lake(tmp_path / "other")
    lake.append("events", events(range(5)), transaction="a")
    other.append("events", events(range(3, 5), delivery="x"), transaction="b")
    assert lake.content_digest("events") != other.content_digest("events")
    other.append("events", events(range(3), delivery="y"), transaction="c")
    assert lake.content_digest("events") == other.content_digest("events")


def test_relations_of_a_lake_join_and_keep_to_their_version(lake: Lake) -> None:
    first = lake.append("events", events(range(4)), transaction="a")
    lake.append("events", events(range(4, 6)), transaction="b")
    then, now = lake.relation("events", version=first), lake.relation("events")
    assert then.count().to_pyarrow().as_py() == 4
    assert now.anti_join(then, "event_id").count().to_pyarrow().as_py() == 2
    assert now.event_time.max().to_pyarrow().as_py() == NOON + timedelta(minutes=5)
    assert now.inner_join(lake.relation("exposures"), "exposure_id").count().to_pyarrow().as_py() == 0
