from datetime import UTC, datetime, timedelta

import ibis
import pyarrow as pa
import pytest

from relations.schemas import EVENTS
from relations.sequences import COLUMNS, user_histories

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)


def event(event_id: str, user: str, item: str, *, seconds: int) -> dict[str, object]:
    return {
        "event_id": event_id,
        "user": user,
        "item_id": item,
        "behaviour": "view",
        "value": None,
        "event_time": NOON + timedelta(seconds=seconds),
        "received_time": NOON,
        "source": "test",
        "exposure_id": None,
        "delivery_id": "d",
    }


EVENTS_TABLE = pa.Table.from_pylist(
    [
        event("e4", "b", "z", seconds=0),
        event("e3", "a", "y", seconds=5),  # the same instant as e2: the event id decides
        event("e2", "a", "x", seconds=5),
        event("e1", "a", "w", seconds=9),
        event("e0", "a", "v", seconds=1),
    ],
    schema=EVENTS,
)


def items(**options: datetime) -> list[tuple[str, str]]:
    found = user_histories(ibis.memtable(EVENTS_TABLE), **options).to_pyarrow()
    assert found.column_names == list(COLUMNS)
    return list(zip(found["user"].to_pylist(), found["item_id"].to_pylist(), strict=True))


def test_order_is_user_then_time_then_event_id() -> None:
    assert items() == [("a", "v"), ("a", "x"), ("a", "y"), ("a", "w"), ("b", "z")]


def test_before_is_strict() -> None:
    assert items(before=NOON + timedelta(seconds=5)) == [("a", "v"), ("b", "z")]
    assert items(before=NOON) == []


def test_more_columns_come_after() -> None:
    found = user_histories(ibis.memtable(EVENTS_TABLE), also=("event_id", "source")).to_pyarrow()
    assert found.column_names == [*COLUMNS, "event_id", "source"]
    assert found["event_id"].to_pylist() == ["e0", "e2", "e3", "e1", "e4"]


def test_a_search_without_an_item_is_no_step() -> None:
    searched = {**event("e9", "a", "", seconds=3), "item_id": None, "behaviour": "search", "query": "owl"}
    with_search = pa.concat_tables([EVENTS_TABLE, pa.Table.from_pylist([searched], schema=EVENTS)])
    assert len(user_histories(ibis.memtable(with_search)).to_pyarrow()) == len(EVENTS_TABLE)


def test_a_naive_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        user_histories(ibis.memtable(EVENTS_TABLE), before=datetime(2024, 3, 1))  # noqa: DTZ001
