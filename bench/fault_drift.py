"""Thirty mutations of a feed's columns, as its rows come to the door in each format.

A mutation whose rows cannot be converted is held under `coerce` too: every row fails. In CSV, a source of texts, an id
of digits and a note of digits are no change.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, get_args

from bench.fault_homes import NOW, Record
from relations.evolution import Policy

FORMATS = ("csv", "jsonl", "parquet")
COLUMNS = {"item_id": "product", "behaviour": "action", "event_time": "ts", "value": "stars"}
"""Ratchet's column → the feed's; its users are in `user_id`."""
Expected = tuple[str, str, str]
HELD, WARNED, CALM = "held", "warned", "unremarked"
_H, _W, _C = HELD, WARNED, CALM
_NONE: Expected = (_C, _C, _C)
_UNUSED: Expected = (_H, _W, _W)
_CONVERTED: Expected = (_H, _H, _W)
_ALL: Expected = (_H, _H, _H)


@dataclass(frozen=True)
class Mutation:
    """`change`: column → its new value, made from the row, or None where the column goes. `expected`: what `strict`,
    `additive` and `coerce` make of it; `of_texts`: in CSV, where that differs. `column`: which one a message names."""

    what: str
    change: Mapping[str, Callable[[Record], Any] | None]
    column: str
    expected: Expected
    of_texts: Expected | None = None


def feed(rows: int = 25) -> list[Record]:
    return [
        {
            "user_id": f"u{number % 5}",
            "product": f"i{number}",
            "action": "view",
            "ts": (NOW - timedelta(minutes=number)).isoformat(),
            "stars": 0.5 + number % 5,
            "note": "fine",
            "n": number,
        }
        for number in range(rows)
    ]


def apply(mutation: Mutation) -> list[Record]:
    gone = {name for name, make in mutation.change.items() if make is None}
    rows = feed()
    changed = [{name: make(row) for name, make in mutation.change.items() if make is not None} for row in rows]
    return [
        {name: value for name, value in {**row, **new}.items() if name not in gone}
        for row, new in zip(rows, changed, strict=True)
    ]


def expected(mutation: Mutation, *, policy: Policy, suffix: str) -> str:
    said = mutation.of_texts if suffix == "csv" and mutation.of_texts is not None else mutation.expected
    return said[get_args(Policy).index(policy)]


def _number(row: Record) -> int:
    return int(row["product"][1:])


def _epoch(row: Record) -> int:
    return int(datetime.fromisoformat(row["ts"]).timestamp())


MUTATIONS = (
    Mutation("the user's column is gone", {"user_id": None}, "user_id", _ALL),
    Mutation("the item's column is gone", {"product": None}, "item_id", _ALL),
    Mutation("the behaviour's column is gone", {"action": None}, "behaviour", _ALL),
    Mutation("the time's column is gone", {"ts": None}, "event_time", _ALL),
    Mutation("the value's column is gone", {"stars": None}, "stars", _CONVERTED),
    Mutation("a column that nothing uses is gone", {"note": None}, "note", _UNUSED),
    Mutation("another that nothing uses is gone", {"n": None}, "n", _UNUSED),
    Mutation("the item's column is renamed", {"product": None, "sku": lambda row: row["product"]}, "item_id", _ALL),
    Mutation("a new text", {"page": lambda row: "home"}, "page", _UNUSED),
    Mutation("a new number", {"price": lambda row: 1.5}, "price", _UNUSED),
    Mutation("a new object", {"device": lambda row: {"os": "x"}}, "device", _UNUSED),
    Mutation("a new, empty column", {"later": lambda row: None}, "later", _UNUSED),
    Mutation("a new column with one of our names", {"exposure_id": lambda row: "x1:1"}, "exposure_id", _UNUSED),
    Mutation("times to epochs", {"ts": _epoch}, "ts", _CONVERTED),
    Mutation("times to words", {"ts": lambda row: "soon"}, "ts", _ALL),
    Mutation("values to words", {"stars": lambda row: "many"}, "stars", _ALL),
    Mutation("values, half of them words", {"stars": lambda row: "many" if _number(row) % 2 else "1.5"}, "stars", _ALL),
    Mutation("values to truths", {"stars": lambda row: True}, "stars", _ALL),
    Mutation("values to lists", {"stars": lambda row: [1.5]}, "stars", _ALL),
    Mutation("values to objects", {"stars": lambda row: {"of": 5}}, "stars", _ALL),
    Mutation("items to whole numbers", {"product": _number}, "product", _CONVERTED, _NONE),
    Mutation("users to whole numbers", {"user_id": _number}, "user_id", _CONVERTED, _NONE),
    Mutation("items to fractions", {"product": lambda row: _number(row) + 0.5}, "product", _ALL, _NONE),
    Mutation("behaviours to codes", {"action": lambda row: 7}, "action", _ALL),
    Mutation("notes to numbers", {"note": lambda row: 7}, "note", _UNUSED, _NONE),
    Mutation("what nothing uses to words", {"n": lambda row: "few"}, "n", _UNUSED),
    Mutation("what nothing uses to objects", {"n": lambda row: {"of": 5}}, "n", _UNUSED),
    Mutation("whole numbers to fractions", {"n": lambda row: row["n"] + 0.5}, "n", (_H, _C, _C)),
    Mutation("fractions to whole numbers", {"stars": lambda row: 3}, "stars", _NONE),
    Mutation("a column of ours without a value", {"stars": lambda row: None}, "stars", _NONE),
)
OURS = {theirs: ours for ours, theirs in COLUMNS.items()}
