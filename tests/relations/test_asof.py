"""Point-in-time correctness: no training row sees its future, whatever order the rows arrived in."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import ibis
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relations.asof import training_rows, with_attributes
from relations.schemas import EVENTS, ITEMS, USERS

pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
Row = dict[str, Any]


def at(second: int) -> datetime:
    return NOON + timedelta(seconds=second)


def event(event_id: str, user: str, item: str | None, second: int, behaviour: str = "view") -> Row:
    stamps = {"received_time": NOON, "source": "test", "delivery_id": "d"}
    said = {"event_id": event_id, "user": user, "item_id": item, "behaviour": behaviour, "value": float(second)}
    return {**said, "event_time": at(second), **stamps}


def item(item_id: str, second: int, title: str, price: float | None = None) -> Row:
    stamps = {"received_time": NOON, "source": "test", "delivery_id": "d"}
    state = {
        "title": title,
        "price": price,
        "categories": ["c", title],
        "available": True,
        "attributes": [("t", title)],
    }
    return {"item_id": item_id, "valid_from": at(second), **state, **stamps}


def user(name: str, second: int, segment: str) -> Row:
    stamps = {"received_time": NOON, "source": "test", "delivery_id": "d"}
    return {"user": name, "valid_from": at(second), "attributes": [("segment", segment)], **stamps}


class Told:
    """Tables on a connection of their own, and the rows that the relations make of them, by event id."""

    def __init__(self) -> None:
        self.connection = ibis.duckdb.connect()
        self.connection.raw_sql("SET TimeZone = 'UTC'")
        self.compiled: dict[str, str] = {}  # the same question of other rows: compiling costs more than asking

    def training_rows(self, events: list[Row], items: list[Row], users: list[Row], **options: Any) -> dict[str, Row]:
        options = {"as_of": at(10_000), **options}
        return self._asked(lambda *tables: training_rows(*tables, **options), str(options), events, items, users)

    def with_attributes(self, events: list[Row], items: list[Row], users: list[Row]) -> dict[str, Row]:
        found = self._asked(with_attributes, "with_attributes", events, items, users)
        assert len(found) == len(events)
        return found

    def _asked(self, relation: Callable[..., Any], question: str, *rows: list[Row]) -> dict[str, Row]:
        named = dict(zip(("events", "items", "users"), zip(rows, (EVENTS, ITEMS, USERS), strict=True), strict=True))
        for name, (each, schema) in named.items():
            self.connection.con.register(name, pa.Table.from_pylist(each, schema=schema))
        if question not in self.compiled:
            self.compiled[question] = self.connection.compile(relation(*map(self.connection.table, named)))
        found = self.connection.con.sql(self.compiled[question]).to_arrow_table().to_pylist()
        assert len({row["event_id"] for row in found}) == len(found)
        return {row["event_id"]: row for row in found}


@pytest.fixture(scope="module")
def told() -> Iterator[Told]:
    made = Told()
    yield made
    made.connection.disconnect()


def history(row: Row) -> list[str]:
    return [step["item_id"] for step in row["history"] or []]


def test_a_row_sees_what_was_known_at_its_time(told: Told) -> None:
    events = [
        event("e1", "u", "a", 1),
        event("e3", "u", "c", 5),
        event("e2", "u", "b", 5),  # the same instant: neither sees the other
        event("e4", "u", "d", 7, "dislike"),  # context, never a target
        event("e5", "u", "a", 9),
        event("s1", "u", None, 8, "search"),  # no step of a history
        event("e6", "v", "a", 3),
        event("e7", "u", "z", 20),  # at the bound: not there yet
    ]
    items = [item("a", 1, "first", 1.0), item("a", 9, "second", 2.0), item("b", 6, "after its event")]
    users = [user("u", 0, "new"), user("u", 6, "old")]
    found = told.training_rows(events, items, users, as_of=at(20))
    assert {key: history(row) for key, row in found.items()} == {
        "e1": [],
        "e2": ["a"],
        "e3": ["a"],
        "e5": ["a", "b", "c", "d"],
        "e6": [],
    }
    assert [step["value"] for step in found["e5"]["history"]] == [1.0, 5.0, 5.0, 7.0]
    assert [found[key]["item_price"] for key in ("e1", "e6", "e5")] == [1.0, 1.0, 2.0]  # e5 is at the very instant
    assert found["e1"]["item_categories"] == ["c", "first"]
    assert found["e2"]["item_title"] is None  # nothing was known of it yet
    assert [found[key]["user_attributes"] for key in ("e1", "e5", "e6")] == [
        [("segment", "new")],
        [("segment", "old")],
        None,
    ]


def test_histories_keep_the_newest(told: Told) -> None:
    events = [event(f"e{n}", "u", f"i{n}", n) for n in range(6)]
    found = told.training_rows(events, [], [], length=2)
    assert [history(found[f"e{n}"]) for n in range(6)] == [
        [],
        ["i0"],
        ["i0", "i1"],
        ["i1", "i2"],
        ["i2", "i3"],
        ["i3", "i4"],
    ]


def test_nothing_in_nothing_out(told: Told) -> None:
    assert told.training_rows([], [], []) == {}
    assert told.with_attributes([], [item("a", 0, "x")], []) == {}


def test_a_naive_time_is_refused(told: Told) -> None:
    with pytest.raises(ValueError, match=r"as_of = 2026-03-01T00:00:00 has no time zone"):
        told.training_rows([], [], [], as_of=datetime(2026, 3, 1))  # noqa: DTZ001


SECOND = st.integers(0, 6)  # few of them, so that instants are shared
EVENT = st.tuples(
    st.sampled_from("uv"), st.sampled_from(["a", "b", "🦉"]), SECOND, st.sampled_from(["view", "dislike"])
)
STATE = st.tuples(st.sampled_from(["a", "b", "🦉", "u", "v"]), SECOND)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(EVENT, max_size=12), states=st.sets(STATE, max_size=10), as_of=st.integers(0, 7), data=st.data())
def test_no_training_row_sees_its_future(
    told: Told, rows: list[Any], states: set[tuple[str, int]], as_of: int, data: st.DataObject
) -> None:
    """A row is the same whether what comes after it, or at its instant, is there or not: so it cannot depend on it."""
    numbered = [(f"e{number:02d}", *row) for number, row in enumerate(rows)]
    events = [event(key, who, what, second, behaviour) for key, who, what, second, behaviour in numbered]
    items = [item(key, second, f"{key}{second}", float(second)) for key, second in states if key not in "uv"]
    users = [user(key, second, str(second)) for key, second in states if key in "uv"]
    shuffle = st.permutations
    found = told.training_rows(
        data.draw(shuffle(events)), data.draw(shuffle(items)), data.draw(shuffle(users)), as_of=at(as_of)
    )
    expected = {key for key, _, _, second, behaviour in numbered if second < as_of and behaviour != "dislike"}
    assert set(found) == expected
    for key, who, what, second, behaviour in numbered:
        if key not in expected:
            continue
        row = found[key]
        # the label is the event itself
        assert (row["user"], row["item_id"], row["behaviour"], row["event_time"]) == (who, what, behaviour, at(second))
        # the history: all that is strictly earlier, in order, and nothing else
        earlier = sorted((e for e in numbered if e[1] == who and e[3] < second), key=lambda e: (e[3], e[0]))
        steps = row["history"] or []
        assert [(step["event_time"], step["item_id"]) for step in steps] == [(at(e[3]), e[2]) for e in earlier]
        # the attributes: the newest state that is not later
        known = [s for k, s in states if k == what and s <= second]
        assert row["item_title"] == (f"{what}{max(known)}" if known else None)
        known = [s for k, s in states if k == who and s <= second]
        assert row["user_attributes"] == ([("segment", str(max(known)))] if known else None)


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(EVENT, min_size=1, max_size=10), states=st.sets(STATE, max_size=8), cut=SECOND)
def test_taking_the_future_away_changes_no_row_of_the_past(
    told: Told, rows: list[Any], states: set[tuple[str, int]], cut: int
) -> None:
    events = [event(f"e{number:02d}", *row) for number, row in enumerate(rows)]
    items = [item(key, second, f"{key}{second}") for key, second in states if key not in "uv"]
    users = [user(key, second, str(second)) for key, second in states if key in "uv"]
    whole = told.training_rows(events, items, users)
    past = [
        [row for row in table if row[name] <= at(cut)]
        for table, name in zip((events, items, users), ("event_time", "valid_from", "valid_from"), strict=True)
    ]
    then = told.training_rows(*past)
    assert then == {key: row for key, row in whole.items() if row["event_time"] <= at(cut)}
