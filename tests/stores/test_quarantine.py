"""The quarantine: counted, explained, shown, written out for a replay, settled once and never deleted."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import pyarrow as pa
import pytest

from relations.errors import UsageError
from relations.schemas import QUARANTINE
from stores.lake import Lake
from stores.quarantine import drop, explain, find, listing, open_deliveries, reason_counts, replay_lines, settle, show

NOW = datetime(2026, 3, 1, tzinfo=UTC)
HOVER = ("expect_column_values_to_be_in_set", "behaviour", "saw 'hover'")
SOON = ("typed", "event_time", "'soon' is not a time")


def held(delivery: str, *rows: tuple[str | None, Any, list[tuple[str, str, str]]], later: int = 0) -> pa.Table:
    """Rows of (pseudonym, a JSON object or illegible bytes, reasons)."""
    return pa.Table.from_pylist(
        [
            {
                "delivery_id": delivery,
                "row": 10 * number,
                "kind": "events",
                "user": user,
                "format": "csv" if isinstance(raw, bytes) else "json",
                "raw": raw if isinstance(raw, bytes) else json.dumps(raw).encode(),
                "reasons": [dict(zip(("expectation", "column", "message"), why, strict=True)) for why in reasons],
                "source": "shop",
                "received_time": NOW + timedelta(hours=later),
                "state": "open",
            }
            for number, (user, raw, reasons) in enumerate(rows)
        ],
        schema=QUARANTINE,
    )


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Two deliveries: `b-0`, the earlier, of four rows, and `a-0` of one."""
    made = Lake(tmp_path / "lake")
    first = held(
        "b-0",
        ("p1_a", {"action": "hover", "product": "é"}, [HOVER]),
        (None, {"uid": "zoe", "action": "hover", "ts": "soon"}, [HOVER, SOON]),
        (None, b"u,i\xff", [("readable", "", "not UTF-8 at byte 3 of the row")]),
        ("p1_b", {}, [SOON, SOON]),
    )
    made.append("quarantine", first, transaction="b-0")
    made.append("quarantine", held("a-0", ("p1_a", {"action": "hover"}, [HOVER]), later=1), transaction="a-0")
    return made


def test_an_empty_quarantine_is_no_fault(tmp_path: Path) -> None:
    empty = Lake(tmp_path / "lake")
    assert (listing(empty), listing(empty, settled=True), explain(empty), open_deliveries(empty)) == ([], [], [], [])
    assert reason_counts(QUARANTINE.empty_table()) == ()
    assert list(replay_lines(empty, "a-0")) == []
    assert settle(empty, "a-0", by="c-0", rows=[]) == 0
    with pytest.raises(UsageError, match="ratchet quarantine list"):
        find(empty, "a")


def test_rows_are_counted_by_delivery_in_the_order_of_arrival(lake: Lake) -> None:
    first, second = listing(lake)
    assert (first.delivery_id, first.rows, second.delivery_id, second.rows) == ("b-0", 4, "a-0", 1)
    # A row that broke one expectation twice broke it once.
    assert first.reasons == (
        ("expect_column_values_to_be_in_set behaviour", 2),
        ("typed event_time", 2),
        ("readable", 1),
    )
    assert [(each.delivery_id, each.legible, each.illegible, each.named) for each in open_deliveries(lake)] == [
        ("b-0", 3, 1, 2),
        ("a-0", 1, 0, 1),
    ]
    assert open_deliveries(lake, kind="items") == []


def test_explanations_give_the_first_message_and_examples(lake: Lake) -> None:
    hover, soon, unreadable = explain(lake)
    assert (hover.rows, hover.message, len(hover.examples)) == (3, "saw 'hover'", 3)
    assert (soon.rows, soon.examples[1]) == (2, b"{}")
    assert unreadable.examples == (b"u,i\xff",)
    assert [why.rows for why in explain(lake, "a-0")] == [1]


def test_rows_are_shown_whatever_became_of_them(lake: Lake) -> None:
    rows, total = show(lake, "b-0", limit=2)
    assert (rows.column("row").to_pylist(), total) == ([0, 10], 4)
    drop(lake, "b-0", by="ann", reason="noise", rows=[30])
    rows, total = show(lake, "b-0", rows=[30], limit=2)
    assert (rows.column("settled_by").to_pylist(), total) == (["ann: noise"], 1)
    with pytest.raises(UsageError, match="row 7 is not in quarantine"):
        show(lake, "b-0", rows=[7], limit=2)


def test_a_delivery_is_found_by_the_beginning_of_its_id(lake: Lake) -> None:
    assert (find(lake, "b"), find(lake, "a-0")) == ("b-0", "a-0")
    with pytest.raises(UsageError, match="begins 2 ids: a-0, b-0"):
        find(lake, "")
    with pytest.raises(UsageError, match="'c' names no delivery"):
        find(lake, "c")


def test_lines_of_a_replay_carry_the_pseudonym_once(lake: Lake) -> None:
    lines = b"".join(replay_lines(lake, "b-0")).splitlines()
    assert [json.loads(line) for line in lines] == [
        {"user": "p1_a", "action": "hover", "product": "é"},
        {"uid": "zoe", "action": "hover", "ts": "soon"},  # no pseudonym could be made: the raw id is still in it
        {"user": "p1_b"},
    ]
    clash = held("c-0", ("p1_c", {"user": "Zoe", "note": '"user"'}, [HOVER]), (None, {"user": "Zoe"}, [HOVER]))
    lake.append("quarantine", clash, transaction="c-0")
    lines = b"".join(replay_lines(lake, "c-0")).splitlines()
    assert [json.loads(line) for line in lines] == [{"user": "p1_c", "note": '"user"'}, {"user": "Zoe"}]
    assert lines[0].count(b'"user":') == 1


def test_settling_counts_lines_as_before_the_first_time(lake: Lake) -> None:
    version = lake.version("quarantine")
    assert settle(lake, "b-0", by="c-0", rows=[0, 2]) == 2
    assert settle(lake, "b-0", by="c-0", rows=[0, 2]) == 0  # a resumed delivery says the same again
    assert lake.version("quarantine") == version + 1
    assert [(each.rows, each.state, each.settled_by) for each in listing(lake, settled=True)] == [
        (2, "replayed", "c-0"),
        (2, "open", None),
        (1, "open", None),
    ]
    assert b"".join(replay_lines(lake, "b-0")).splitlines() == [
        b'{"uid": "zoe", "action": "hover", "ts": "soon"}',
    ]
    assert settle(lake, "b-0", by="d-0", rows=[0]) == 1
    assert [(each.legible, each.illegible) for each in open_deliveries(lake, "b-0")] == [(0, 1)]
    assert lake.read("quarantine").num_rows == 5


def test_dropping_needs_a_reason_and_touches_open_rows_alone(lake: Lake) -> None:
    settle(lake, "b-0", by="c-0", rows=[0])
    with pytest.raises(UsageError, match="--reason"):
        drop(lake, "b-0", by="ann", reason=" ")
    with pytest.raises(UsageError, match="row 11 is not in quarantine"):
        drop(lake, "b-0", by="ann", reason="noise", rows=[10, 11])
    assert drop(lake, "b-0", by="ann", reason="it's noise", rows=[0, 10]) == 1
    assert drop(lake, "b-0", by="bob", reason="the rest") == 2
    assert drop(lake, "b-0", by="bob", reason="the rest") == 0
    states = lake.read("quarantine").sort_by("row").to_pylist()
    assert [row["settled_by"] for row in states if row["delivery_id"] == "b-0"] == [
        "c-0",
        "ann: it's noise",
        "bob: the rest",
        "bob: the rest",
    ]


def test_a_hundred_thousand_rows_are_no_matter_of_python(tmp_path: Path) -> None:
    lake, rows = Lake(tmp_path / "lake"), 100_000
    one = held("b-0", ("p1_a", {"action": "hover"}, [HOVER, SOON])).to_batches()[0]
    many = pa.Table.from_batches([one]).take(pa.array([0] * rows))
    many = many.set_column(1, QUARANTINE.field("row"), pa.array(range(rows)))
    lake.append("quarantine", many, transaction="b-0")
    start = perf_counter()
    assert [(each.rows, each.reasons[0][1]) for each in listing(lake)] == [(rows, rows)]
    assert [why.rows for why in explain(lake)] == [rows, rows]
    assert sum(lines.count(b"\n") for lines in replay_lines(lake, "b-0")) == rows
    assert settle(lake, "b-0", by="c-0", rows=range(0, rows, 2)) == rows // 2
    assert drop(lake, "b-0", by="ann", reason="noise") == rows // 2
    assert perf_counter() - start < 10  # 1.5 s on two busy cores; row by row it would be minutes
