"""Content digests: blind to order, sharp to content."""

from datetime import UTC, datetime

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from relations.digest import content_digest, row_digests

TEXTS = st.one_of(st.none(), st.text(max_size=8))
ROWS = st.lists(st.tuples(TEXTS, TEXTS, st.one_of(st.none(), st.floats(allow_nan=False))), max_size=12)
SCHEMA = pa.schema([("a", pa.string()), ("b", pa.string()), ("x", pa.float64())])


def table(rows: list[tuple[str | None, str | None, float | None]]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip("abx", row, strict=True)) for row in rows], schema=SCHEMA)


@given(ROWS, st.randoms())
def test_order_and_chunks_say_nothing(rows: list[tuple[str | None, str | None, float | None]], random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    pieces = pa.concat_tables([table(shuffled[:3]), table(shuffled[3:])])
    assert content_digest(pieces) == content_digest(table(rows))


@given(ROWS, ROWS)
def test_different_rows_have_different_digests(
    left: list[tuple[str | None, str | None, float | None]], right: list[tuple[str | None, str | None, float | None]]
) -> None:
    def key(row: tuple[str | None, str | None, float | None]) -> tuple[str, ...]:
        return tuple(repr(value + 0.0 if isinstance(value, float) else value) for value in row)

    same = sorted(map(key, left)) == sorted(map(key, right))
    assert (content_digest(table(left)) == content_digest(table(right))) is same


def test_absent_empty_and_separators_are_three_things() -> None:
    rows = [(None, "b", None), ("", "b", None), ("\x1e", "b", None), ("\x1d1e", "b", None), ("\x1fb", "", None)]
    assert len(set(row_digests(table(rows), columns=["a", "b", "x"]))) == len(rows)


def test_a_repeated_row_counts() -> None:
    one = [("a", "b", 1.0)]
    assert content_digest(table(one)) != content_digest(table(one * 2))


def test_outside_columns_and_nested_values() -> None:
    kind = pa.map_(pa.string(), pa.string())
    schema = pa.schema([("tags", pa.list_(pa.string())), ("said", kind), ("at", pa.timestamp("us", tz="UTC"))])
    early, late = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    first = pa.Table.from_pylist([{"tags": ["x", "y"], "said": [("a", "1"), ("b", "2")], "at": early}], schema=schema)
    second = pa.Table.from_pylist([{"tags": ["x", "y"], "said": [("b", "2"), ("a", "1")], "at": late}], schema=schema)
    third = pa.Table.from_pylist([{"tags": ["y", "x"], "said": [("a", "1"), ("b", "2")], "at": early}], schema=schema)
    assert content_digest(first, outside=["at"]) == content_digest(second, outside=["at"])
    assert content_digest(first) != content_digest(second)
    assert content_digest(first) != content_digest(third)  # a list's order says something
