"""The suites: a sound row of each kind passes, each expectation has its own reason, and blanks are what nobody sees."""

import re
import sys
import unicodedata
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from expectations.suites import BLANKS, VISIBLE, checked, checked_types, stated_column, suite
from expectations.verdicts import rules
from relations.schemas import SCHEMAS

KINDS = ("events", "items", "users", "exposures")
TEXTS = pa.map_(pa.string(), pa.string())


def rows(kind: str, stated: list[dict[str, object]]) -> pa.Table:
    fields = [field.with_nullable(True) for field in SCHEMAS[kind]]
    return pa.Table.from_pylist(stated, schema=pa.schema(fields))


@pytest.mark.parametrize("kind", KINDS)
def test_each_expectation_says_why_and_no_two_say_the_same(kind: str) -> None:
    reasons = [rule.reason for rule in rules(kind)]
    assert len(set(reasons)) == len(reasons)
    assert all(check.notes for check in suite(kind).expectations)
    assert {rule.reason.column for rule in rules(kind)} <= set(SCHEMAS[kind].names)


def test_severities() -> None:
    assert {rule.reason.message for kind in KINDS for rule in rules(kind) if not rule.critical} == {
        "only a search has a query; this one is kept and not used",
        "a dwell without its seconds is a mere look",
    }


def test_nested_columns_are_measured_in_characters() -> None:
    contexts = [{"device": "phone"}, None, {}, {"größe": "🦉", "x": None}]
    lengths = checked(rows("events", [{"context": each} for each in contexts]), kind="events").column("context_length")
    assert lengths.to_pylist() == [11, None, 0, 7]  # 6 + 5; absent; none; 5 + 1 + 1 + 0
    assert stated_column("context_length") == "context"
    categories = [["a", "bc"], None, [], [None, "d"]]
    lengths = checked(rows("items", [{"categories": each} for each in categories]), kind="items")
    assert lengths.column("categories_length").to_pylist() == [3, None, 0, 1]


def test_measures_of_a_slice_are_the_slices_own() -> None:
    table = rows("events", [{"context": {"k": "v" * size}} for size in range(6)])
    assert checked(table.slice(2, 3), kind="events").column("context_length").to_pylist() == [3, 4, 5]
    twice = pa.concat_tables([table.slice(4), table.slice(0, 1)])
    assert checked(twice, kind="events").column("context_length").to_pylist() == [5, 6, 1]


def test_an_exposures_slot_is_its_request_and_position() -> None:
    stated = [{"request_id": "é", "position": 3}, {"request_id": None, "position": 3}, {"request_id": "r"}]
    assert checked(rows("exposures", stated), kind="exposures").column("slot").to_pylist() == ["é:3", None, None]
    assert stated_column("slot") == "exposure_id"


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_have_the_checked_types(kind: str) -> None:
    schema = checked(rows(kind, []), kind=kind).schema
    assert {field.name: field.type for field in schema} == checked_types(kind)


def test_rows_of_another_type_are_our_fault_and_named() -> None:
    table = rows("users", [{"user": "u", "valid_from": datetime(2026, 1, 1, tzinfo=UTC)}])
    with pytest.raises(TypeError, match=r"users\.user is large_string, not string"):
        checked(table.set_column(0, "user", table.column("user").cast(pa.large_string())), kind="users")


def test_blank_is_what_nobody_sees() -> None:
    assert re.fullmatch(f"[{BLANKS}]+", "\t\n\x00\x7f\x85\xa0\u2003\u200b\u3000\ufeff")
    for code in range(sys.maxunicode + 1):
        if 0xD800 <= code < 0xE000:
            continue  # surrogates are no characters
        character = chr(code)
        category = unicodedata.category(character)
        if category[0] == "Z" or category == "Cc" or character.isspace():
            assert not re.search(VISIBLE, character), hex(code)
        if category[0] in "NPS" or category in ("Lu", "Ll"):
            assert code == 0x2800 or re.search(VISIBLE, character), hex(code)  # the Braille blank is a symbol
