"""Who may not be learnt from: the newest statement decides, and silence says nothing."""

from typing import Any

import ibis
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relations.consent import opted_out

pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")

Said = tuple[str, int, dict[str, str] | None]  # user, valid from, attributes


def out(rows: list[Said]) -> set[str]:
    table = pa.table(
        {
            "user": pa.array([user for user, _, _ in rows], pa.string()),
            "valid_from": pa.array([time for _, time, _ in rows], pa.timestamp("us", tz="UTC")),
            "attributes": pa.array(
                [None if said is None else list(said.items()) for _, _, said in rows], pa.map_(pa.string(), pa.string())
            ),
        }
    )
    found: Any = opted_out(ibis.memtable(table)).to_pyarrow()
    assert found.column_names == ["user"]
    assert len(set(found["user"].to_pylist())) == len(found)
    return set(found["user"].to_pylist())


def test_the_newest_statement_decides() -> None:
    rows: list[Said] = [
        ("out", 1, {"opt_out": "true"}),
        ("out", 2, {"age": "30"}),  # says nothing about it
        ("out", 3, None),
        ("back", 1, {"opt_out": "true"}),
        ("back", 2, {"opt_out": "false"}),
        ("again", 3, {"opt_out": "true"}),
        ("again", 2, {"opt_out": "false"}),  # older, though it arrived later
        ("never", 1, {"opt_out": "false", "age": "4"}),
        ("silent", 1, {"age": "5"}),
        ("dée 🦉", 1, {"opt_out": "TRUE", "age": "5"}),
        ("unclear", 1, {"opt_out": "perhaps"}),
        ("number", 1, {"opt_out": "1"}),
        ("torn", 1, {"opt_out": "yes"}),  # at one time both: yes counts
        ("torn", 1, {"opt_out": "no"}),
    ]
    assert out(rows) == {"out", "again", "dée 🦉", "number", "torn"}
    assert out([]) == set()


@settings(deadline=None, max_examples=15)
@given(st.lists(st.tuples(st.sampled_from("uv"), st.sampled_from(["true", "false", "", None])), max_size=8), st.data())
def test_the_order_of_arrival_says_nothing(said: list[tuple[str, str | None]], data: st.DataObject) -> None:
    rows: list[Said] = [
        (user, time, None if word is None else {"opt_out": word}) for time, (user, word) in enumerate(said)
    ]
    expected = {user: word for user, word in said if word in ("true", "false")}  # the last of each user stays
    assert out(data.draw(st.permutations(rows))) == {user for user, word in expected.items() if word == "true"}
