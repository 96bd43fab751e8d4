"""What is new to a model: by its version and cutoff, late rows and the held-out slice included."""

from datetime import UTC, datetime
from typing import Any

import ibis
import pyarrow as pa
import pytest

from relations.arrivals import trained_on, unseen

pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")


def table(rows: list[tuple[str, int]]) -> Any:
    ids = [event for event, _ in rows]
    times = pa.array([time for _, time in rows], pa.timestamp("us", tz="UTC"))
    return ibis.memtable(pa.table({"event_id": pa.array(ids, pa.string()), "event_time": times}))


def ids(expression: Any) -> list[str]:
    return sorted(expression.event_id.to_pyarrow().to_pylist())


def test_held_out_late_and_later_rows_are_all_new() -> None:
    then = table([("old", 10), ("edge", 20), ("held", 25)])
    now = table([("old", 10), ("edge", 20), ("held", 25), ("late", 5), ("later", 30)])
    assert ids(trained_on(then, cutoff_us=20)) == ["old"]  # strictly before the cutoff
    assert ids(unseen(now, then, cutoff_us=20)) == ["edge", "held", "late", "later"]


def test_seen_and_unseen_make_the_whole() -> None:
    then, now = table([("a", 1), ("b", 2)]), table([("a", 1), ("b", 2), ("c", 3)])
    for cutoff in range(5):
        assert ids(trained_on(then, cutoff_us=cutoff)) + ids(unseen(now, then, cutoff_us=cutoff)) == ["a", "b", "c"]


def test_microseconds_count() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    us = int(moment.timestamp()) * 1_000_000
    then = table([("before", us - 1), ("at", us)])
    assert ids(trained_on(then, cutoff_us=us)) == ["before"]
