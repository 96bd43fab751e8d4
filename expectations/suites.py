"""The suites: what a row of each kind must be, and why. One suite a kind, as code.

The first part is derived from the table's schema: what may not be null is present, ids have a length. The second is
written by hand, each check with its reason in `notes`, which becomes the message of every row that breaks it.

Bounds that depend on the delivery are parameters: `latest` (the newest time allowed) and `delivered` (rows).
"""

from datetime import UTC, datetime
from functools import cache
from typing import Any

import pyarrow as pa

from expectations.engine import great_expectations
from relations.schemas import BEHAVIOURS, SCHEMAS, TIME

PSEUDONYM = r"^p\d+_[0-9a-f]{32}$"
ID_LENGTH = 512
TEXT_LENGTH = 65_536
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
UNTYPED = "untyped"
"""The frame's extra column: names the columns of a row whose stated value could not be read as their type."""

# Stamped at the door on rows that pass, or derived from the rest of the row.
_AFTERWARDS = ("received_time", "source", "delivery_id")
_DERIVED = {"events": ("event_id",)}
_IDS = ("event_id", "user", "item_id", "exposure_id", "request_id")
# Texts that a client or a catalogue may fill with anything.
_FREE_TEXTS = ("title", "description", "surface", "context")


def checked_columns(kind: str) -> list[str]:
    """Columns that the suite looks at: scalars only, nested values were judged when they were read."""
    return [field.name for field in _fields(kind) if not pa.types.is_nested(field.type)]


@cache
def suite(kind: str) -> Any:
    """The suite of `kind`: events, items, users or exposures."""
    gx = great_expectations()
    checks = [_counted(gx), _typed(gx), *_from_schema(gx, kind), *_BY_HAND[kind](gx)]
    return gx.ExpectationSuite(name=kind, expectations=checks)


def _fields(kind: str) -> list[pa.Field]:
    return [field for field in SCHEMAS[kind] if field.name not in _AFTERWARDS]


def _counted(gx: Any) -> Any:
    return gx.expectations.ExpectTableRowCountToEqual(
        value={"$PARAMETER": "delivered"},
        notes="every delivered row could be taken apart; the rest are quarantined as `readable`",
    )


def _typed(gx: Any) -> Any:
    return gx.expectations.ExpectColumnValuesToBeNull(
        column=UNTYPED, notes="each value can be read as its column's type without changing it"
    )


def _from_schema(gx: Any, kind: str) -> list[Any]:
    expect = gx.expectations
    checks = []
    for field in _fields(kind):
        if pa.types.is_nested(field.type):
            continue
        if not field.nullable and field.name not in _DERIVED.get(kind, ()):
            checks.append(expect.ExpectColumnValuesToNotBeNull(column=field.name, notes=f"{field.name} must be given"))
        if field.name in (*_IDS, *_FREE_TEXTS):
            limit = ID_LENGTH if field.name in _IDS else TEXT_LENGTH
            checks.append(
                expect.ExpectColumnValueLengthsToBeBetween(
                    column=field.name, min_value=1, max_value=limit, notes=f"{field.name} has 1 to {limit} characters"
                )
            )
        elif field.type == TIME:
            checks.append(
                expect.ExpectColumnValuesToBeBetween(
                    column=field.name,
                    min_value=EARLIEST,
                    max_value={"$PARAMETER": "latest"},
                    notes=f"{field.name} lies between 1970 and the newest time that this delivery may hold",
                )
            )
    return checks


def _pseudonym(gx: Any) -> Any:
    return gx.expectations.ExpectColumnValuesToMatchRegex(
        column="user", regex=PSEUDONYM, notes="user is a pseudonym, p<key version>_<32 hex digits>; raw ids stay out"
    )


def _visible(gx: Any, column: str) -> Any:
    return gx.expectations.ExpectColumnValuesToMatchRegex(
        column=column, regex=r"\S", notes=f"{column} is not blank: blank ids of different things would be one thing"
    )


def _events(gx: Any) -> list[Any]:
    from great_expectations.expectations.row_conditions import Column as column  # noqa: N813

    expect = gx.expectations
    ratings = {"row_condition": column("behaviour") == "rating"}
    return [
        _pseudonym(gx),
        _visible(gx, "item_id"),
        expect.ExpectColumnValuesToBeInSet(
            column="behaviour",
            value_set=list(BEHAVIOURS),
            notes=f"behaviour is one of {', '.join(BEHAVIOURS)}; map others with [sources.NAME] behaviours",
        ),
        expect.ExpectColumnValuesToNotBeNull(column="value", notes="a rating without a value says nothing", **ratings),
        expect.ExpectColumnValuesToBeBetween(
            column="value", min_value=0, max_value=10, notes="ratings run from 0 to 10 at most", **ratings
        ),
        expect.ExpectColumnValuesToBeBetween(
            column="value", min_value=-1e12, max_value=1e12, notes="beyond this no price, dwell time or rating is real"
        ),
    ]  # fmt: skip


def _items(gx: Any) -> list[Any]:
    expect = gx.expectations
    return [
        _visible(gx, "item_id"),
        _visible(gx, "title"),
        expect.ExpectColumnValuesToBeBetween(column="price", min_value=0, notes="a price is not negative"),
    ]


def _users(gx: Any) -> list[Any]:
    return [_pseudonym(gx)]


def _exposures(gx: Any) -> list[Any]:
    expect = gx.expectations
    return [
        _pseudonym(gx),
        _visible(gx, "item_id"),
        expect.ExpectColumnValuesToBeBetween(
            column="position", min_value=1, max_value=10_000, notes="positions count from 1"
        ),
        expect.ExpectColumnValuesToBeBetween(
            column="propensity",
            min_value=0,
            strict_min=True,
            max_value=1,
            notes="propensity is a probability in (0, 1]: what was shown had a chance to be shown",
        ),
        expect.ExpectColumnValuesToBeInSet(
            column="propensity_kind",
            value_set=["exact", "estimated", "unusable"],
            notes="propensity_kind is exact, estimated or unusable",
        ),
        expect.ExpectColumnValuesToBeInSet(
            column="variant",
            value_set=["champion", "challenger", "popularity"],
            notes="variant is champion, challenger or popularity",
        ),
        expect.ExpectColumnValuesToBeBetween(
            column="allocation", min_value=0, max_value=1, notes="allocation is a share of users"
        ),
        expect.ExpectColumnValuesToBeBetween(
            column="latency_ms", min_value=0, notes="nothing is answered before it is asked"
        ),
    ]


_BY_HAND = {"events": _events, "items": _items, "users": _users, "exposures": _exposures}
