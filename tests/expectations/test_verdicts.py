"""Row verdicts: exactly the rows that break an expectation, each with every one it broke."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from expectations import verdicts
from expectations.pages import KEPT, write_page
from expectations.verdicts import Judgement, judge
from relations.schemas import SCHEMAS

NOW = datetime(2026, 3, 1, tzinfo=UTC)
USER = "p1_" + "0" * 32
IN_SET, BETWEEN = "expect_column_values_to_be_in_set", "expect_column_values_to_be_between"
NOT_NULL, LENGTH = "expect_column_values_to_not_be_null", "expect_column_value_lengths_to_be_between"
REGEX = "expect_column_values_to_match_regex"


def verdict(kind: str, rows: list[dict[str, Any]], **more: Any) -> Judgement:
    fields = [field.with_nullable(True) for field in SCHEMAS[kind]]
    table = pa.Table.from_pylist(rows, schema=pa.schema(fields))
    given: dict[str, Any] = {"unreadable": {}, "untyped": {}, "latest": NOW, **more}
    return judge(table, kind=kind, **given)


def event(**more: Any) -> dict[str, Any]:
    return {"user": USER, "item_id": "i", "behaviour": "view", "event_time": datetime(2026, 1, 1, tzinfo=UTC), **more}


def broken(judgement: Judgement) -> dict[int, set[tuple[str, str]]]:
    return {row: {(why.expectation, why.column) for why in reasons} for row, reasons in judgement.failures.items()}


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
        12: {(LENGTH, "exposure_id")},
    }


def test_messages_say_why_and_what_but_never_who() -> None:
    judgement = verdict("events", [event(behaviour="hover"), event(user="alice@example.org")])
    assert "map others with [sources.NAME] behaviours; saw 'hover'" in judgement.failures[0][0].message
    assert "alice" not in judgement.failures[1][0].message


def test_exposures_items_and_users() -> None:
    texts = ("exposure_id", "request_id", "item_id", "policy", "surface", "assignment_reason", "digest", "served_by")
    exposure = {
        **dict.fromkeys((*texts, "candidate_set_hash"), "x"), "user": USER, "position": 1, "propensity": 1.0,
        "propensity_kind": "exact", "variant": "champion", "allocation": 0.5, "champion_epoch": 1, "model_version": 1,
        "explored": False, "is_shadow": False, "is_bot": False, "latency_ms": 0.0,
        "shown_time": datetime(2026, 1, 1, tzinfo=UTC),
    }  # fmt: skip
    faults = [{}, {"position": 0}, {"propensity": 0.0}, {"propensity": 1.01}, {"variant": "b"}, {"digest": None}]
    assert broken(verdict("exposures", [{**exposure, **fault} for fault in faults])) == {
        1: {(BETWEEN, "position")},
        2: {(BETWEEN, "propensity")},
        3: {(BETWEEN, "propensity")},
        4: {(IN_SET, "variant")},
        5: {(NOT_NULL, "digest")},
    }
    item = {"item_id": "i", "title": "t", "valid_from": datetime(1970, 1, 1, tzinfo=UTC), "available": True}
    assert broken(verdict("items", [item, {**item, "title": " "}, {**item, "price": -1.0}])) == {
        1: {(REGEX, "title")},
        2: {(BETWEEN, "price")},
    }
    assert broken(verdict("users", [{"user": USER, "valid_from": NOW}, {"user": None, "valid_from": NOW}])) == {
        1: {(NOT_NULL, "user")}
    }


def test_what_could_not_be_read_has_that_one_reason() -> None:
    rows = [event(), {}, event(event_time=None, behaviour="hover")]
    judgement = verdict("events", rows, unreadable={1: "not JSON"}, untyped={2: [("event_time", "'x' is not a time")]})
    assert broken(judgement) == {1: {("readable", "")}, 2: {("typed", "event_time"), (IN_SET, "behaviour")}}


def test_nothing_readable_needs_no_engine() -> None:
    assert verdict("events", [{}], unreadable={0: "not JSON"}).result is None


def test_an_expectation_that_raises_is_our_bug_and_no_rows_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = [name for name in verdicts.checked_columns("events") if name != "behaviour"]
    monkeypatch.setattr(verdicts, "checked_columns", lambda kind: checked)
    with pytest.raises(RuntimeError, match=r"on events\.behaviour"):
        verdict("events", [event()])


def test_pages_show_what_a_source_sent_without_obeying_it(tmp_path: Path) -> None:
    script = "<script>alert(1)</script> $behaviour {{ 7 * 7 }}"
    judgement = verdict(
        "events", [event(behaviour=script), {}], untyped={1: [("event_time", f"{script} is not a time")]}
    )
    text = write_page(tmp_path, name="d-0", result=judgement.result).read_text()
    assert "<script>alert" not in text
    assert text.count("&lt;script&gt;alert(1)") >= 2
    assert judgement.result.results[1].result["unexpected_list"]  # the verdict itself keeps its lists


def test_pages_say_what_failed_and_old_ones_go(tmp_path: Path) -> None:
    result = verdict("events", [event(), event(behaviour="hover")]).result
    page = write_page(tmp_path, name="d-0", result=result)
    text = page.read_text()
    assert "hover" in text
    assert "behaviour" in text
    for number in range(KEPT + 3):
        (tmp_path / f"old-{number}.html").touch()
    write_page(tmp_path, name="d-1", result=None)
    assert len(list(tmp_path.glob("*.html"))) == KEPT + 1  # and the index
    assert 'href="d-1.html"' in (tmp_path / "index.html").read_text()
