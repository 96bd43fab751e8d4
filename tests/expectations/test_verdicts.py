"""Row verdicts of Great Expectations: exactly the rows that break an expectation, each with every one it broke."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from expectations import verdicts
from expectations.verdicts import Reason, RowVerdict, judge, validate
from relations.schemas import SCHEMAS

NOW = datetime(2026, 3, 1, tzinfo=UTC)
USER = "p1_" + "0" * 32
IN_SET, BETWEEN = "expect_column_values_to_be_in_set", "expect_column_values_to_be_between"
NOT_NULL, LENGTH = "expect_column_values_to_not_be_null", "expect_column_value_lengths_to_be_between"
NULL, REGEX = "expect_column_values_to_be_null", "expect_column_values_to_match_regex"
EQUAL = "expect_column_pair_values_to_be_equal"


def table(kind: str, rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=pa.schema([field.with_nullable(True) for field in SCHEMAS[kind]]))


def verdict(kind: str, rows: list[dict[str, Any]], **more: Any) -> RowVerdict:
    given: dict[str, Any] = {"unreadable": {}, "untyped": {}, "latest": NOW, **more}
    return judge(table(kind, rows), kind=kind, **given)


def event(**more: Any) -> dict[str, Any]:
    return {"user": USER, "item_id": "i", "behaviour": "view", "event_time": datetime(2026, 1, 1, tzinfo=UTC), **more}


def broken(found: RowVerdict) -> dict[int, set[tuple[str, str]]]:
    return {row: {(why.expectation, why.column) for why in reasons} for row, reasons in found.failing.items()}


def test_events() -> None:
    rows = [
        event(),
        event(item_id="🦉", behaviour="rating", value=4.5),
        event(behaviour="hover"),
        event(behaviour="rating", value=11.0),
        event(behaviour="rating"),
        event(behaviour="purchase", value=1e13),
        event(event_time=datetime(2026, 3, 2, tzinfo=UTC)),
        event(event_time=datetime(1969, 12, 31, tzinfo=UTC)),
        event(item_id="x" * 513),
        event(item_id=" \t"),
        event(user="alice"),
        event(item_id=None, behaviour=None),
        event(exposure_id=""),
        event(exposure_id="r:3"),
        event(behaviour="search", query="owls", item_id=None),
        event(behaviour="search", query="owls"),
        event(behaviour="search"),
        event(behaviour="search", query="\u200b"),
        event(query="owls"),
        event(behaviour="dwell", value=-0.5),
        event(behaviour="dwell", value=0.0),
        event(context={"device": "x" * 65_530}),
        event(context={"device": "x" * 65_531}),
    ]
    assert broken(verdict("events", rows)) == {
        2: {(IN_SET, "behaviour")},
        3: {(BETWEEN, "value")},
        4: {(NOT_NULL, "value")},
        5: {(BETWEEN, "value")},
        6: {(BETWEEN, "event_time")},
        7: {(BETWEEN, "event_time")},
        8: {(LENGTH, "item_id")},
        9: {(REGEX, "item_id")},
        10: {(REGEX, "user")},
        11: {(NOT_NULL, "item_id"), (NOT_NULL, "behaviour")},
        12: {(LENGTH, "exposure_id"), (REGEX, "exposure_id")},
        16: {(NOT_NULL, "query")},
        17: {(REGEX, "query")},
        19: {(BETWEEN, "value")},
        22: {(BETWEEN, "context")},  # 6 + 65,531 characters
    }


def test_messages_say_why_and_what_but_never_who() -> None:
    failing = verdict("events", [event(behaviour="hover"), event(user="alice@example.org")]).failing
    assert "map others with [sources.NAME] behaviours; saw 'hover'" in failing[0][0].message
    assert "alice" not in failing[1][0].message


def test_exposures_items_and_users() -> None:
    texts = ("item_id", "policy", "surface", "assignment_reason", "digest", "served_by", "candidate_set_hash")
    exposure = {
        **dict.fromkeys(texts, "x"), "exposure_id": "r:1", "request_id": "r", "user": USER, "position": 1,
        "propensity": 1.0, "propensity_kind": "exact", "variant": "champion", "allocation": 0.5, "champion_epoch": 1,
        "model_version": 1, "explored": False, "is_shadow": False, "is_bot": False, "latency_ms": 0.0,
        "shown_time": datetime(2026, 1, 1, tzinfo=UTC),
    }  # fmt: skip
    faults: list[dict[str, Any]] = [
        {},
        {"position": 0, "exposure_id": "r:0"},
        {"propensity": 0.0},
        {"propensity": 1.01},
        {"variant": "b"},
        {"digest": None},
        {"variant": "logged", "propensity_kind": "unusable", "propensity": 0.0},
        {"exposure_id": "r:2"},
        {"exposure_id": "r1"},
        {"shown_time": datetime(2026, 3, 1, 0, 0, 1, tzinfo=UTC)},
        {"request_id": None},
    ]
    assert broken(verdict("exposures", [{**exposure, **fault} for fault in faults])) == {
        1: {(BETWEEN, "position")},
        2: {(BETWEEN, "propensity")},
        3: {(BETWEEN, "propensity")},
        4: {(IN_SET, "variant")},
        5: {(NOT_NULL, "digest")},
        7: {(EQUAL, "exposure_id")},
        8: {(EQUAL, "exposure_id")},
        9: {(BETWEEN, "shown_time")},
        10: {(NOT_NULL, "request_id")},
    }
    item = {"item_id": "i", "title": "t", "valid_from": datetime(1970, 1, 1, tzinfo=UTC), "available": True}
    items = [item, {**item, "title": " "}, {**item, "price": -1.0}, {**item, "description": ""}]
    assert broken(verdict("items", items)) == {1: {(REGEX, "title")}, 2: {(BETWEEN, "price")}}
    assert broken(verdict("users", [{"user": USER, "valid_from": NOW}, {"user": None, "valid_from": NOW}])) == {
        1: {(NOT_NULL, "user")}
    }


def test_what_could_not_be_read_has_that_one_reason() -> None:
    rows = [event(), {}, event(event_time=None, behaviour="hover")]
    found = verdict("events", rows, unreadable={1: "not JSON"}, untyped={2: [("event_time", "'x' is not a time")]})
    assert broken(found) == {1: {("readable", "")}, 2: {("typed", "event_time"), (IN_SET, "behaviour")}}
    assert found.counts == {"readable": 1, "typed event_time": 1, f"{IN_SET} behaviour": 1}
    assert found.failing[2][0] == Reason("typed", "event_time", "'x' is not a time")


def test_what_the_whole_batch_lacks_is_no_rows_fault() -> None:
    assert broken(verdict("events", [event(user=None), event(user=None, item_id="")], skipped=["user"])) == {
        1: {(LENGTH, "item_id"), (REGEX, "item_id")}
    }


def test_a_warning_is_counted_and_its_row_passes() -> None:
    found = verdict("events", [event(query="owls"), event(), event(query="owls", user=None)])
    assert broken(found) == {2: {(NOT_NULL, "user")}}
    assert found.warnings == Counter({(NULL, "query", "only a search has a query; this one is kept and not used"): 2})


def test_nothing_readable_needs_no_engine() -> None:
    assert validate(table("events", [{}]), kind="events", unreadable={0: "not JSON"}, untyped={}, latest=NOW) is None
    assert broken(verdict("events", [{}], unreadable={0: "not JSON"})) == {0: {("readable", "")}}


def test_an_expectation_that_raises_is_our_bug_and_no_rows_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = verdicts.checked
    monkeypatch.setattr(verdicts, "checked", lambda rows, kind: checked(rows, kind=kind).drop_columns(["behaviour"]))
    with pytest.raises(RuntimeError, match=r"on events\.\w+ raised: .*behaviour"):
        verdict("events", [event()])
