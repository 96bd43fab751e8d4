"""Masks and Great Expectations agree: row for row, expectation for expectation, message for message."""

import math
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.masks import measure_masks
from expectations import masks
from expectations.masks import RowContract, expression
from expectations.suites import checked
from expectations.verdicts import Reason, RowVerdict, Rule, broken_rows, rules, settle, validate
from relations.schemas import BEHAVIOURS, SCHEMAS, TIME

KINDS = ("events", "items", "users", "exposures")
LATEST = datetime(2026, 3, 1, tzinfo=UTC)
THEN = datetime(2026, 1, 1, tzinfo=UTC)
LATEST_US = 1_772_323_200_000_000
USER = "p1_" + "0" * 32
SOUND: dict[str, dict[str, Any]] = {
    "events": {"user": USER, "item_id": "i", "behaviour": "view", "event_time": THEN},
    "items": {"item_id": "i", "title": "t", "valid_from": THEN, "available": True, "categories": []},
    "users": {"user": USER, "valid_from": THEN},
    "exposures": {
        **dict.fromkeys(("policy", "surface", "assignment_reason", "digest", "served_by", "candidate_set_hash"), "x"),
        "exposure_id": "r:1", "request_id": "r", "user": USER, "item_id": "i", "position": 1, "propensity": 1.0,
        "propensity_kind": "exact", "variant": "logged", "allocation": 0.5, "champion_epoch": 1, "model_version": 1,
        "explored": False, "is_shadow": False, "is_bot": False, "latency_ms": 0.0, "shown_time": THEN,
    },
}  # fmt: skip
BLANK = ("", " ", "\t", "\x00", "\x0b", "\x1c\x1f", "\x85", "\xa0", "\u1680\u2003", "\u200b", "\u3000", "\ufeff \u2060")
TEXTS: list[str | None] = [
    None, *BLANK, "i", "é", "e\u0301", "🦉", "x\n", "\nx", "a\0b", "\u200bx", "\u0600", "it's", '"', "\\", "$behaviour",
    "nan", "None", "x" * 512, "x" * 513, "🦉" * 512, "🦉" * 513, "\u2028" * 600,
    USER, f"{USER}\n", USER.replace("p", "P"), "p1_" + "٣" * 32, "p٣_" + "0" * 32, "p12_" + "af" * 16, " " + USER,
    "r:1", "r:1\n", "r:0", "r:01", "r:2147483647", "r:12345678901", ":1", " :1", "é:1", "r:١", "r:-1", "🦉:3",
    "\u200b:2", *BEHAVIOURS, "View", "search ", "exact", "unusable", "logged", "champion",
]  # fmt: skip
LONG = ["x" * 65_536, "é" * 65_537]
FREE = [(name, pa.string()) for name in ("title", "description", "surface", "context", "query")]
FLOATS = [
    None, math.nan, math.inf, -math.inf, -0.0, 0.0, 5e-324, -5e-324, 0.5, 1.0, math.nextafter(1, 2), 10.0,
    math.nextafter(10, 11), -1e-9, 1e12, math.nextafter(1e12, math.inf), -1e12,
    -math.nextafter(1e12, math.inf), 1.7e308,
]  # fmt: skip
MICROS = [
    None,
    0,
    -1,
    1,
    LATEST_US,
    LATEST_US + 1,
    LATEST_US - 1,
    253_402_300_800_000_000,
    -(2**63),
    2**63 - 1,
    -(10**17),
]
WHOLES = [None, 0, 1, -1, 2, 3, 10_000, 10_001, 2**31 - 1, -(2**31)]


@cache
def contract(kind: str) -> RowContract:
    return RowContract(kind, latest=LATEST, threads=1)


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Any:
    yield
    for kind in KINDS:
        contract(kind).close()
    contract.cache_clear()


def table(kind: str, rows: list[dict[str, Any]]) -> pa.Table:
    fields = [field.with_nullable(True) for field in SCHEMAS[kind]]
    return pa.Table.from_pylist(rows, schema=pa.schema(fields))


def by_rule(found: list[tuple[Rule, Any]], *, among: Any) -> dict[Reason, list[int]]:
    hits = {rule.reason: np.intersect1d(rows, among).tolist() for rule, rows in found}
    return {reason: rows for reason, rows in hits.items() if rows}


def agreed(
    kind: str,
    rows: pa.Table,
    *,
    unreadable: dict[int, str] | None = None,
    untyped: dict[int, list[tuple[str, str]]] | None = None,
    skipped: Sequence[str] = (),
) -> tuple[RowVerdict, dict[Reason, list[int]]]:
    """(the verdict, which readable rows break which rule); both must say the same."""
    doubtful, faults = unreadable or {}, untyped or {}
    columns = checked(rows, kind=kind)
    readable = np.setdiff1d(np.arange(rows.num_rows), [*doubtful])
    ours = by_rule(contract(kind).broken_rows(columns), among=readable)
    result = validate(rows, kind=kind, unreadable=doubtful, untyped=faults, latest=LATEST)
    found = [] if result is None else broken_rows(result, kind=kind, readable=readable)
    assert ours == by_rule(found, among=readable)
    verdict = contract(kind).judge(rows, unreadable=doubtful, untyped=faults, skipped=skipped)
    assert verdict == settle(columns, found, unreadable=doubtful, untyped=faults, skipped=skipped)
    return verdict, ours


def nasty(kind: str) -> list[dict[str, Any]]:
    """Sound rows with one column each set to each nasty value; what a rule depends on, under each of its conditions."""
    found: list[dict[str, Any]] = [SOUND[kind], {}]
    for field in SCHEMAS[kind]:
        found += [{**SOUND[kind], field.name: value} for value in values_of(field.type)]
        found += [{**SOUND[kind], field.name: value} for value in LONG if (field.name, field.type) in FREE]
    conditions = {
        "events": [("behaviour", name, ("item_id", "query", "value")) for name in ("search", "rating", "dwell", None)],
        "exposures": [("propensity_kind", name, ("propensity",)) for name in ("unusable", None)],
    }
    for column, stated, names in conditions.get(kind, []):
        for name in names:
            values = values_of(SCHEMAS[kind].field(name).type)
            found += [{**SOUND[kind], "query": "q", column: stated, name: value} for value in values]
    fields = SCHEMAS[kind].names
    return [{name: value for name, value in row.items() if name in fields} for row in found]


def values_of(kind: pa.DataType) -> list[Any]:
    if kind == pa.string():
        return list(TEXTS)
    if kind == pa.float64():
        return list(FLOATS)
    if kind == TIME:
        return list(MICROS)
    if pa.types.is_integer(kind):
        return [value for value in WHOLES if value is None or kind.bit_width > 31]
    if pa.types.is_boolean(kind):
        return [None, True, False]
    if kind == pa.list_(pa.string()):
        return [None, [], ["a", None], ["x" * 40_000, "y" * 25_537]]
    if kind == pa.map_(pa.string(), pa.string()):
        return [None, {}, {"k": None}, {"é": "x" * 65_535}, {"kk": "x" * 65_535}]
    return [None]


@pytest.mark.parametrize("kind", KINDS)
def test_both_agree_on_nasty_rows_and_every_expectation_is_broken_once(kind: str) -> None:
    rows = table(kind, nasty(kind))
    verdict, found = agreed(kind, rows)
    assert found.keys() == {rule.reason for rule in rules(kind)}
    assert 0 not in verdict.failing  # the sound row
    assert len({why.message for reasons in verdict.failing.values() for why in reasons}) > len(found)  # with values


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_both_agree_on_any_rows(kind: str, data: st.DataObject) -> None:
    texts = st.one_of(st.sampled_from(TEXTS), st.text(max_size=4))
    floats = st.one_of(st.sampled_from(FLOATS), st.none(), st.floats())
    row = {}
    for field in SCHEMAS[kind]:
        drawn = texts if field.type == pa.string() else st.sampled_from(values_of(field.type))
        drawn = floats if field.type == pa.float64() else drawn
        sound = st.just(SOUND[kind].get(field.name))
        row[field.name] = st.one_of(sound, sound, drawn)
    rows = data.draw(st.lists(st.fixed_dictionaries(row), min_size=1, max_size=40))
    doubtful = st.dictionaries(st.integers(0, len(rows) - 1), st.just("not JSON"), max_size=2)
    columns = st.lists(st.sampled_from(SCHEMAS[kind].names), min_size=1, max_size=2, unique=True)
    faults = st.dictionaries(st.integers(0, len(rows) - 1), columns.map(lambda names: [(name, "?") for name in names]))
    skipped = data.draw(st.lists(st.sampled_from(SCHEMAS[kind].names), max_size=1))
    agreed(kind, table(kind, rows), unreadable=data.draw(doubtful), untyped=data.draw(faults), skipped=skipped)


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_one_row_and_rows_of_nulls(kind: str) -> None:
    assert contract(kind).judge(table(kind, []), unreadable={}, untyped={}) == RowVerdict({}, Counter(), Counter())
    assert agreed(kind, table(kind, [SOUND[kind]]))[1] == {}
    assert set(agreed(kind, table(kind, [{}, {}]))[0].failing) == {0, 1}


def test_chunks_add_up() -> None:
    rows = table("events", nasty("events"))
    whole = contract("events").judge(rows, unreadable={}, untyped={})
    failing, counts, warnings = {}, Counter[str](), Counter[tuple[str, str, str]]()
    for first in range(0, rows.num_rows, 97):
        part = contract("events").judge(rows.slice(first, 97), unreadable={}, untyped={})
        failing |= {first + row: reasons for row, reasons in part.failing.items()}
        counts.update(part.counts)
        warnings.update(part.warnings)
    assert (failing, warnings, counts) == (whole.failing, whole.warnings, whole.counts)


def test_ten_megabytes_in_one_cell() -> None:
    endless = "é" * 5_000_000
    stated = [
        {"item_id": endless},
        {"query": endless, "behaviour": "search"},
        {"user": endless},
        {"exposure_id": endless},
    ]
    verdict, _ = agreed("events", table("events", [{**SOUND["events"], **each} for each in stated]))
    assert set(verdict.failing) == {0, 1, 2, 3}
    assert all(len(why.message) < 300 for reasons in verdict.failing.values() for why in reasons)


def test_bad_utf8_is_judged_without_a_traceback() -> None:
    rows = table("events", [SOUND["events"]] * 2)
    broken = pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff" * 600, b"i"]).buffers())
    verdict = contract("events").judge(
        rows.set_column(rows.column_names.index("item_id"), "item_id", broken), unreadable={}, untyped={}
    )
    assert set(verdict.failing) <= {0}


def test_warnings_are_counted_and_their_rows_pass() -> None:
    rows = [{"query": "late"}, {"query": ""}, {"behaviour": "dwell"}, {"behaviour": "dwell", "query": "q"}, {}]
    verdict, _ = agreed("events", table("events", [{**SOUND["events"], **each} for each in rows]))
    assert verdict.failing == {}
    assert {(column, rows) for (_, column, _), rows in verdict.warnings.items()} == {("query", 2), ("value", 2)}


def test_messages_name_the_value_and_its_time_however_far() -> None:
    rows = [{"event_time": 2**63 - 1}, {"event_time": LATEST_US + 1}, {"value": 1e13}]
    failing = agreed("events", table("events", [{**SOUND["events"], **each} for each in rows]))[0].failing
    said = [reason.message.rpartition("; saw ")[2] for reasons in failing.values() for reason in reasons]
    assert said == [
        "9223372036854775807 microseconds since 1970",
        "2026-03-01T00:00:00.000001+00:00",
        "10000000000000.0",
    ]


def rule(expectation: str, **arguments: Any) -> Rule:
    return Rule(Reason(expectation, "value", "why"), "value", True, {"column": "value", **arguments})


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        (rule("expect_column_values_to_be_unique"), "no mask for expect_column_values_to_be_unique on events.value"),
        (rule("expect_column_values_to_be_null", mostly=0.9), "events.value: no mask knows the argument mostly"),
        (rule("expect_column_values_to_be_between", min_value={"$PARAMETER": "x"}), "the one parameter is latest"),
        (rule("expect_column_values_to_match_regex", regex=r"\S"), "different ways"),
        (rule("expect_column_values_to_match_regex", regex="x$"), "different ways"),
        (rule("expect_column_values_to_be_in_set", value_set=[None]), "no SQL for None"),
        (
            rule("expect_column_values_to_be_null", row_condition={"type": "pass_through", "pass_through_filter": "a"}),
            "no mask for the row condition",
        ),
    ],
)  # fmt: skip
def test_what_has_no_translation_is_named_before_any_row_is_judged(broken: Rule, named: str) -> None:
    with pytest.raises(NotImplementedError, match=named.replace("$", r"\$")):
        expression(broken, kind="events", latest=LATEST)


def test_a_contract_without_a_translation_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(masks._COMPILERS, "expect_column_values_to_be_in_set")
    with pytest.raises(NotImplementedError, match=r"expect_column_values_to_be_in_set on events\.behaviour"):
        RowContract("events", latest=LATEST)


def test_more_expectations_than_a_word_has_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = checked(table("exposures", nasty("exposures")), kind="exposures")
    places = np.arange(columns.num_rows)
    wide = contract("exposures").broken_rows(columns)
    monkeypatch.setattr(masks, "_BITS", 7)
    assert len(rules("exposures")) > 5 * 7
    with RowContract("exposures", latest=LATEST) as narrow:
        assert by_rule(narrow.broken_rows(columns), among=places) == by_rule(wide, among=places)


def test_the_benchmark_finds_no_difference() -> None:
    rows = measure_masks(2_000)
    assert [row["unit"] for row in rows] == ["s", "s", "×", "rows"]
    assert rows[-1]["measured"] == 0
    assert all(set(row) == {"name", "measured", "unit", "bar", "holds"} for row in rows)


def corrupted(rows: pa.Table, *, seed: int) -> pa.Table:
    """One cell in two hundred of each column is some nasty value."""
    rng = np.random.default_rng(seed)
    for place, field in enumerate(rows.schema):
        hit = rng.random(rows.num_rows) < 0.005
        values = values_of(field.type)
        drawn = pa.array([values[index] for index in rng.integers(0, len(values), hit.sum())], field.type)
        whole = pa.concat_arrays([*rows.column(place).chunks, drawn])
        index = np.arange(rows.num_rows)
        index[hit] = rows.num_rows + np.arange(hit.sum())
        rows = rows.set_column(place, field, whole.take(pa.array(index)))
    return rows


def typed(kind: str, columns: dict[str, Any], *, rows: int) -> pa.Table:
    fields = [field.with_nullable(True) for field in SCHEMAS[kind]]
    arrays = [columns.get(field.name, pa.nulls(rows, field.type)) for field in fields]
    return pa.table(
        [pa.array(each).cast(field.type) for each, field in zip(arrays, fields, strict=True)], names=SCHEMAS[kind].names
    )


@pytest.mark.realdata
def test_both_agree_on_movielens(realdata: Path) -> None:
    names = pa.csv.ReadOptions(column_names=["user", "item", "rating", "time"])
    data = pa.csv.read_csv(realdata / "ml-100k" / "u.data", names, pa.csv.ParseOptions(delimiter="\t"))
    rows = typed(
        "events",
        {
            "user": [f"p1_{user:032x}" for user in data["user"].to_pylist()],
            "item_id": data["item"].combine_chunks(),
            "behaviour": ["rating"] * len(data),
            "value": data["rating"].combine_chunks(),
            "event_time": np.array(data["time"], np.int64) * 1_000_000,
        },
        rows=len(data),
    )
    assert agreed("events", rows)[1] == {}
    broken, _ = agreed("events", corrupted(rows, seed=1))
    assert 1_000 < len(broken.failing) < 5_000  # .005 of nine columns is 4,500 cells, more than half of them bad


@pytest.mark.realdata
def test_both_agree_on_amazon(realdata: Path) -> None:
    data = pa.parquet.read_table(realdata / "amazon2023" / "items.parquet")
    columns = {"item_id": data["item_id"], "title": data["title"], "price": data["price"]}
    columns = {name: values.combine_chunks() for name, values in columns.items()}
    fixed = {"valid_from": np.zeros(len(data), np.int64), "available": [True] * len(data)}
    rows = typed("items", {**columns, **fixed, "categories": [[]] * len(data)}, rows=len(data))
    agreed("items", rows)
    agreed("items", corrupted(rows, seed=2))
    data = pa.parquet.read_table(realdata / "amazon2023" / "interactions.parquet")
    rows = typed(
        "events",
        {
            "user": [f"p2_{abs(hash(user)):032x}" for user in data["user_id"].to_pylist()],
            "item_id": data["item_id"].combine_chunks(),
            "behaviour": ["rating"] * len(data),
            "value": data["rating"].combine_chunks(),
            "event_time": np.array(data["timestamp"], np.int64) * 1_000,
        },
        rows=len(data),
    )
    assert agreed("events", rows)[1] == {}
    agreed("events", corrupted(rows, seed=3))
