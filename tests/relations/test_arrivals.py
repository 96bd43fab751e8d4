"""What was there at which version, told by receipts alone: late rows, the held-out slice, unfinished deliveries."""

from datetime import UTC, datetime
from typing import Any

import ibis
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relations.arrivals import arrivals, newest_version, trained_on, visible

pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")


def events(rows: list[tuple[str, int, str]]) -> Any:
    """Rows (event id, microsecond, delivery)."""
    times = pa.array([time for _, time, _ in rows], pa.timestamp("us", tz="UTC"))
    columns = {"event_id": [row[0] for row in rows], "delivery_id": [row[2] for row in rows]}
    return ibis.memtable(
        pa.table({name: pa.array(texts, pa.string()) for name, texts in columns.items()} | {"event_time": times})
    )


def receipts(versions: dict[str, list[tuple[str, int]]]) -> Any:
    said = pa.array(list(versions.values()), pa.map_(pa.string(), pa.int64()))
    return ibis.memtable(pa.table({"delivery_id": pa.array(list(versions), pa.string()), "table_versions": said}))


def ids(expression: Any) -> list[str]:
    return sorted(expression.event_id.to_pyarrow().to_pylist())


ROWS = [
    ("old", 10, "d1"),
    ("edge", 20, "d1"),
    ("held", 25, "d1"),
    ("late", 5, "d2"),
    ("later", 30, "d2"),
    ("open", 1, "d3"),
]
RECEIPTS = {
    "d1": [("events", 4), ("items", 9)],
    "i1": [("events", 4), ("items", 10)],  # a delivery of items
    "d2": [("events", 6)],  # 5 was a compaction
    "none": [],  # unreadable, before there was any table
}


def test_a_version_is_told_by_receipts() -> None:
    rows, said = events(ROWS), receipts(RECEIPTS)
    found = arrivals(rows, said).to_pyarrow()
    assert dict(zip(found["event_id"].to_pylist(), found["arrived"].to_pylist(), strict=True)) == {
        "old": 4,
        "edge": 4,
        "held": 4,
        "late": 6,
        "later": 6,
    }  # `open` has no receipt: its delivery is not finished
    for version, expected in ((3, []), (4, ["edge", "held", "old"]), (5, ["edge", "held", "old"])):
        assert ids(visible(rows, said, version=version)) == expected
    assert ids(visible(rows, said, version=6)) == ["edge", "held", "late", "later", "old"]
    assert newest_version(said).to_pyarrow().as_py() == 6
    assert newest_version(said, table="items").to_pyarrow().as_py() == 10
    assert newest_version(said, table="users").to_pyarrow().as_py() == -1
    assert newest_version(receipts({})).to_pyarrow().as_py() == -1


def test_a_model_was_trained_on_what_was_there_before_its_cutoff() -> None:
    rows, said = events(ROWS), receipts(RECEIPTS)
    assert ids(trained_on(rows, said, version=4, cutoff_us=20)) == ["old"]  # strictly before the cutoff
    assert ids(trained_on(rows, said, version=6, cutoff_us=20)) == ["late", "old"]


def test_microseconds_count() -> None:
    us = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
    rows = events([("before", us - 1, "d1"), ("at", us, "d1")])
    assert ids(trained_on(rows, receipts(RECEIPTS), version=4, cutoff_us=us)) == ["before"]


@settings(deadline=None, max_examples=15)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=12), st.integers(0, 4), st.integers(0, 10))
def test_versions_only_grow(drawn: list[tuple[int, int]], version: int, cutoff: int) -> None:
    rows = events([(f"e{number}", time, f"d{delivery}") for number, (time, delivery) in enumerate(drawn)])
    said = receipts({f"d{number}": [("events", number + 1)] for number in range(4)})
    assert set(ids(visible(rows, said, version=version))) <= set(ids(visible(rows, said, version=version + 1)))
    trained = set(ids(trained_on(rows, said, version=version, cutoff_us=cutoff)))
    assert trained == {f"e{n}" for n, (time, delivery) in enumerate(drawn) if delivery + 1 <= version and time < cutoff}
