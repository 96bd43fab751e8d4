"""Typed reading: right, or refused with a reason; never silently changed."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relations.parsing import Parsed, excerpt, parse
from relations.schemas import TIME

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def one(value: Any, kind: pa.DataType, **options: Any) -> Any:
    parsed = parse([value], kind, **options)
    assert not parsed.unread, parsed.unread
    return parsed.values[0].as_py()


def refused(value: Any, kind: pa.DataType, **options: Any) -> str:
    parsed = parse([value], kind, **options)
    assert parsed.values.null_count == 1
    return parsed.unread[0]


@pytest.mark.parametrize(
    "said",
    [
        "2026-03-01T12:00:00Z",
        "2026-03-01 14:00:00+02:00",
        "2026-03-01T12:00",  # no zone: UTC
        "1772366400",
        1772366400,
        1772366400.0,
        1772366400000,
        "1772366400000000",
        NOON,
    ],
)
def test_times(said: Any) -> None:
    assert one(said, TIME) == NOON


def test_old_epochs_and_stated_units() -> None:
    assert one("881250949", TIME) == datetime(1997, 12, 4, 15, 55, 49, tzinfo=UTC)  # nine digits, MovieLens
    assert one("20260301", TIME, time_unit="s") == datetime(1970, 8, 23, 11, 51, 41, tzinfo=UTC)  # 234 d 42,701 s
    assert one(1500, TIME, time_unit="ms") == datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
    assert one("1772366400.25", TIME) == NOON + timedelta(seconds=0.25)


@pytest.mark.parametrize(
    "said", ["yesterday", "now", "2026-13-01", "2026-02-30T00:00:00Z", "20260301", 12, True, [1], "∞"]
)
def test_no_times(said: Any) -> None:
    assert refused(said, TIME)


def test_times_of_many_shapes_in_one_column() -> None:
    parsed = parse(["2026-03-01", None, "1772366400", "junk", "1772366400.5"], TIME)
    midnight = datetime(2026, 3, 1, tzinfo=UTC)
    assert parsed.values.to_pylist() == [midnight, None, NOON, None, NOON + timedelta(seconds=0.5)]
    assert list(parsed.unread) == [3]
    assert "'junk'" in parsed.unread[3]


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2199, 1, 1)))  # noqa: DTZ001
def test_iso_times_come_back_to_the_microsecond(moment: datetime) -> None:
    assert one(moment.isoformat() + "Z", TIME) == moment.replace(tzinfo=UTC)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_numbers_come_back_exactly_from_text(numbers: list[float]) -> None:
    assert parse([repr(number) for number in numbers], pa.float64()).values.to_pylist() == numbers


@pytest.mark.parametrize(
    "said", ["nan", "inf", "-Infinity", float("nan"), float("inf"), 10**400, "1_000", "0x10", True, []]
)
def test_numbers_that_are_none(said: Any) -> None:
    assert "finite number" in refused(said, pa.float64())


def test_nan_among_good_numbers_costs_only_its_row() -> None:
    parsed = parse([1.5, float("nan"), 2], pa.float64())
    assert parsed.values.to_pylist() == [1.5, None, 2.0]
    assert list(parsed.unread) == [1]


def test_whole_numbers_are_not_cut() -> None:
    assert one("7", pa.int32()) == 7
    assert one(7.0, pa.int32()) == 7
    assert "not a whole number" in refused(1.5, pa.int32())
    assert "not a whole number" in refused(2**31, pa.int32())
    assert parse([1, 1.5], pa.int64()).values.to_pylist() == [1, None]


def test_texts() -> None:
    assert one("🦉 Ωmega\u2028", pa.string()) == "🦉 Ωmega\u2028"
    assert one(42, pa.string()) == "42"  # ids of whole numbers are the commonest there are
    assert "fraction" in refused(4.0, pa.string())
    assert "truth value" in refused(True, pa.string())
    assert "surrogate" in refused("\ud800", pa.string())


def test_flags() -> None:
    assert parse([True, "false", "1", 0, "YES", None], pa.bool_()).values.to_pylist() == [
        True,
        False,
        True,
        False,
        True,
        None,
    ]
    assert refused("maybe", pa.bool_())


def test_nested_values() -> None:
    labels, said = pa.list_(pa.string()), pa.map_(pa.string(), pa.string())
    vectors = pa.map_(pa.string(), pa.list_(pa.float32()))
    assert one("Drama| War |", labels) == ["Drama", "War"]
    assert one(["a", "b"], labels) == ["a", "b"]
    assert refused([1.5], labels)
    assert one('{"b": 2, "a": "x", "c": null}', said) == [("a", "x"), ("b", "2")]
    assert one({"text": [1, 0.5]}, vectors) == [("text", [1.0, 0.5])]
    assert "finite" in refused({"text": [1, float("nan")]}, vectors)
    assert refused("{", said)


@given(st.lists(st.one_of(st.none(), st.text(), st.integers(), st.floats(), st.booleans(), st.lists(st.integers()))))
def test_a_cell_is_absent_read_or_refused(values: list[Any]) -> None:
    for kind in (pa.string(), pa.float64(), pa.int32(), pa.bool_(), TIME, pa.list_(pa.string())):
        parsed: Parsed = parse(values, kind)
        assert parsed.values.type == kind
        for row, value in enumerate(values):
            assert parsed.values[row].is_valid + (row in parsed.unread) + (value is None) == 1


def test_arrow_columns_read_as_their_python_values_do() -> None:
    ids = pa.chunked_array([pa.array([1, 2]), pa.array([3])])
    assert parse(ids, pa.string()).values.to_pylist() == ["1", "2", "3"]
    naive = pa.chunked_array([pa.array([NOON.replace(tzinfo=None)], pa.timestamp("ns"))])
    assert parse(naive, TIME).values.to_pylist() == [NOON]
    fractions = pa.chunked_array([pa.array([1.0, float("nan")])])
    assert list(parse(fractions, pa.float64()).unread) == [1]


def test_messages_stay_short() -> None:
    assert len(excerpt("x" * 10_000_000)) <= 80
    assert excerpt("=cmd|' /C calc'!A0\n").isprintable()


def _clock_texts() -> st.SearchStrategy[str]:
    times = st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2199, 1, 1))  # noqa: DTZ001 -- naive texts
    zones = st.sampled_from(["", "Z", "z", "+02:00", "-0530"])
    iso = st.tuples(times, zones, st.sampled_from(["T", " "])).map(lambda said: said[0].isoformat(said[2]) + said[1])
    epochs = st.integers(min_value=0, max_value=10**18).map(str)
    odd = st.sampled_from(["01772366400", "2026-03-01", "2026-03-01T12", "2026-03-01T12:00:00,5Z", "٣٠٠٠٠٠٠٠٠٠", "1e9"])
    return st.one_of(iso, epochs, odd)


@given(st.lists(_clock_texts(), min_size=1, max_size=6), st.sampled_from(["auto", "s", "ms", "us"]))
def test_a_time_reads_alike_alone_and_in_any_company(texts: list[str], unit: str) -> None:
    alone = [parse([text], TIME, time_unit=unit) for text in texts]
    for stated in (texts, pa.chunked_array([pa.array(texts)])):
        together = parse(stated, TIME, time_unit=unit)
        assert together.values.to_pylist() == [parsed.values[0].as_py() for parsed in alone]
        assert sorted(together.unread) == [row for row, parsed in enumerate(alone) if parsed.unread]


@given(st.lists(st.integers(min_value=-(10**18), max_value=10**18), min_size=1, max_size=4))
def test_a_whole_number_of_time_reads_as_its_digits_do(numbers: list[int]) -> None:
    as_numbers = parse(pa.chunked_array([pa.array(numbers, pa.int64())]), TIME)
    as_texts = parse([str(number) for number in numbers], TIME)
    assert as_numbers.values.to_pylist() == as_texts.values.to_pylist()
    assert as_numbers.unread.keys() == as_texts.unread.keys()


def test_arrow_times_beyond_the_calendar_are_refused_and_not_wrapped() -> None:
    stated = pa.chunked_array([pa.array([0, 10**15, None, -(10**12)], pa.timestamp("s"))])
    parsed = parse(stated, TIME)
    assert parsed.values.to_pylist() == [datetime(1970, 1, 1, tzinfo=UTC), None, None, None]
    assert sorted(parsed.unread) == [1, 3]
