"""The suites: what a row of each kind must be, and why. One suite a kind, as code.

The first part is derived from the table's schema: what may not be null is present, texts have a length, times lie in
a range. The second is written by hand, each check with its reason in `notes`, which becomes the message of every row
that breaks it. A check of severity `critical` quarantines its rows; one of severity `warning` marks the batch.

Bounds that depend on the delivery are parameters: `latest` (the newest time allowed) and `delivered` (rows). What
spans columns or measures a nested one is a column of its own, made by `checked`, so that every engine reads the same
value. Keys are unique by deduplication, which knows the tables; inside a batch alone it would say little.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from expectations.engine import great_expectations
from relations.schemas import BEHAVIOURS, SCHEMAS, TIME

# `\Z` and spelt-out classes: `$`, `\d` and `\S` mean something else in each regex engine.
PSEUDONYM = r"^p[0-9]+_[0-9a-f]{32}\Z"
# Controls, spaces and zero-width characters.
BLANKS = (
    "\\x00-\\x20\\x7f-\u00a0\u00ad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180e\u2000-\u200f\u2028-\u202f"
    "\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0"
)
VISIBLE = f"[^{BLANKS}]"
EXPOSURE_ID = r"[^\x00-\x20]:[1-9][0-9]{0,9}\Z"
ID_LENGTH = 512
TEXT_LENGTH = 65_536
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
UNTYPED = "untyped"
"""The frame's extra column: names the columns of a row whose stated value could not be read as their type."""
CRITICAL, WARNING = "critical", "warning"

# Stamped at the door on rows that pass, or derived from the rest of the row.
_AFTERWARDS = ("received_time", "source", "delivery_id")
_DERIVED = {"events": ("event_id",)}
_IDS = ("event_id", "user", "item_id", "exposure_id", "request_id")
# Texts that a client or a catalogue may fill with anything.
_FREE_TEXTS = ("title", "description", "surface", "context", "query")
_SLOT = "slot"


def checked(rows: pa.Table, *, kind: str) -> pa.Table:
    """The columns that the suite looks at: scalars as they are, nested ones as their `_length` in characters.

    `rows`: the typed columns of `kind`. An exposure's `slot` is "<request_id>:<position>", null where either is.
    """
    columns: dict[str, Any] = {}
    for field in _fields(kind):
        values = rows.column(field.name)
        if values.type != field.type:
            raise TypeError(f"{kind}.{field.name} is {values.type}, not {field.type}: rows are typed before judgement")
        if not pa.types.is_nested(field.type):
            columns[field.name] = values
        elif _is_texts(field.type):
            columns[f"{field.name}_length"] = _characters(values)
    if kind == "exposures":
        position = columns["position"].cast(pa.string())
        columns[_SLOT] = pc.binary_join_element_wise(columns["request_id"], position, ":")
    return pa.table(columns)


@cache
def checked_types(kind: str) -> dict[str, pa.DataType]:
    """Name → type of what `checked` gives."""
    empty = pa.schema([field.with_nullable(True) for field in SCHEMAS[kind]]).empty_table()
    return {field.name: field.type for field in checked(empty, kind=kind).schema}


def stated_column(name: str) -> str:
    """The column of the table that a checked column speaks of."""
    return "exposure_id" if name == _SLOT else name.removesuffix("_length")


@cache
def suite(kind: str) -> Any:
    """The suite of `kind`: events, items, users or exposures."""
    gx = great_expectations()
    checks = [_columns(gx, kind), _counted(gx), _typed(gx), *_from_schema(gx, kind), *_BY_HAND[kind](gx)]
    return gx.ExpectationSuite(name=kind, expectations=checks)


def _fields(kind: str) -> list[pa.Field]:
    return [field for field in SCHEMAS[kind] if field.name not in _AFTERWARDS]


def _is_texts(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind.item_type if pa.types.is_map(kind) else kind.value_type))


def _characters(texts: pa.ChunkedArray) -> pa.Array:
    """Characters in each row's list of texts, or map from text to text; null where the row has none."""
    nested = pa.concat_arrays(texts.chunks) if texts.num_chunks else pa.array([], texts.type)
    offsets = nested.offsets.to_numpy()
    first, last = int(offsets[0]), int(offsets[-1])  # of a slice, its own
    whole = [nested.keys, nested.items] if pa.types.is_map(nested.type) else [nested.values]
    parts = [pc.fill_null(pc.utf8_length(each.slice(first, last - first)), 0).to_numpy() for each in whole]
    sums = np.concatenate([[0], np.cumsum(np.sum(parts, axis=0, dtype=np.int64))])[offsets - first]
    absent = nested.is_null().to_numpy(zero_copy_only=False)
    return pa.array(np.diff(sums), pa.int64(), mask=absent)


def _columns(gx: Any, kind: str) -> Any:
    return gx.expectations.ExpectTableColumnsToMatchOrderedList(
        column_list=[*checked_types(kind), UNTYPED], notes=f"the columns of {kind}, bound and typed"
    )


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
    required = [field.name for field in _fields(kind) if not field.nullable]
    checks = []
    for name, type_ in checked_types(kind).items():
        if name in required and name not in _DERIVED.get(kind, ()):
            checks.append(expect.ExpectColumnValuesToNotBeNull(column=name, notes=f"{name} must be given"))
        if name in _IDS or (name in _FREE_TEXTS and name in required):
            limit = ID_LENGTH if name in _IDS else TEXT_LENGTH
            checks.append(
                expect.ExpectColumnValueLengthsToBeBetween(
                    column=name, min_value=1, max_value=limit, notes=f"{name} has 1 to {limit} characters"
                )
            )
        elif name in _FREE_TEXTS:
            checks.append(
                expect.ExpectColumnValueLengthsToBeBetween(
                    column=name, max_value=TEXT_LENGTH, notes=f"{name} has at most {TEXT_LENGTH} characters"
                )
            )
        elif name.endswith("_length"):
            said = f"{stated_column(name)} has at most {TEXT_LENGTH} characters in all"
            checks.append(expect.ExpectColumnValuesToBeBetween(column=name, max_value=TEXT_LENGTH, notes=said))
        elif type_ == TIME:
            checks.append(
                expect.ExpectColumnValuesToBeBetween(
                    column=name,
                    min_value=EARLIEST,
                    max_value={"$PARAMETER": "latest"},
                    notes=f"{name} lies between 1970 and the newest time that this delivery may hold",
                )
            )
    return checks


def _pseudonym(gx: Any) -> Any:
    return gx.expectations.ExpectColumnValuesToMatchRegex(
        column="user", regex=PSEUDONYM, notes="user is a pseudonym, p<key version>_<32 hex digits>; raw ids stay out"
    )


def _visible(gx: Any, columns: Sequence[str]) -> list[Any]:
    return [
        gx.expectations.ExpectColumnValuesToMatchRegex(
            column=name, regex=VISIBLE, notes=f"{name} is not blank: blank ones of different things would be one thing"
        )
        for name in columns
    ]


def _events(gx: Any) -> list[Any]:
    from great_expectations.expectations.row_conditions import Column as column  # noqa: N813

    expect = gx.expectations
    searches, others = column("behaviour") == "search", column("behaviour") != "search"
    ratings, dwells = column("behaviour") == "rating", column("behaviour") == "dwell"
    return [
        _pseudonym(gx),
        *_visible(gx, ["item_id"]),
        expect.ExpectColumnValuesToBeInSet(
            column="behaviour",
            value_set=list(BEHAVIOURS),
            notes=f"behaviour is one of {', '.join(BEHAVIOURS)}; map others with [sources.NAME] behaviours",
        ),
        expect.ExpectColumnValuesToNotBeNull(
            column="item_id", row_condition=others, notes="item_id must be given unless behaviour is search"
        ),
        expect.ExpectColumnValuesToNotBeNull(
            column="query", row_condition=searches, notes="a search without its query says nothing"
        ),
        expect.ExpectColumnValuesToMatchRegex(
            column="query", regex=VISIBLE, row_condition=searches, notes="the query of a search is not blank"
        ),
        expect.ExpectColumnValuesToBeNull(
            column="query",
            row_condition=others & (column("query") != ""),
            severity=WARNING,
            notes="only a search has a query; this one is kept and not used",
        ),
        expect.ExpectColumnValuesToNotBeNull(
            column="value", row_condition=ratings, notes="a rating without a value says nothing"
        ),
        expect.ExpectColumnValuesToBeBetween(
            column="value", min_value=0, max_value=10, row_condition=ratings, notes="ratings run from 0 to 10 at most"
        ),
        expect.ExpectColumnValuesToNotBeNull(
            column="value", row_condition=dwells, severity=WARNING, notes="a dwell without its seconds is a mere look"
        ),
        expect.ExpectColumnValuesToBeBetween(
            column="value", min_value=0, row_condition=dwells, notes="a dwell's value is seconds, not negative"
        ),
        expect.ExpectColumnValuesToBeBetween(
            column="value", min_value=-1e12, max_value=1e12, notes="beyond this no price, dwell time or rating is real"
        ),
        expect.ExpectColumnValuesToMatchRegex(
            column="exposure_id", regex=EXPOSURE_ID, notes="exposure_id is <request_id>:<position>, as it was logged"
        ),
    ]


def _items(gx: Any) -> list[Any]:
    expect = gx.expectations
    return [
        *_visible(gx, ["item_id", "title"]),
        expect.ExpectColumnValuesToBeBetween(
            column="price", min_value=0, max_value=1e12, notes="a price is not negative, nor beyond 1e12"
        ),
    ]


def _users(gx: Any) -> list[Any]:
    return [_pseudonym(gx)]


def _exposures(gx: Any) -> list[Any]:
    from great_expectations.expectations.row_conditions import Column as column  # noqa: N813

    expect = gx.expectations
    return [
        _pseudonym(gx),
        *_visible(gx, ["item_id", "request_id"]),
        expect.ExpectColumnPairValuesToBeEqual(
            column_A="exposure_id",
            column_B=_SLOT,
            ignore_row_if="either_value_is_missing",
            notes="exposure_id is <request_id>:<position> of its own row; outcomes find their exposure by it",
        ),
        expect.ExpectColumnValuesToBeBetween(
            column="position", min_value=1, max_value=10_000, notes="positions count from 1"
        ),
        expect.ExpectColumnValuesToBeBetween(
            column="propensity",
            min_value=0,
            strict_min=True,
            max_value=1,
            row_condition=column("propensity_kind") != "unusable",
            notes="propensity is a probability in (0, 1]: what was shown had a chance to be shown",
        ),
        expect.ExpectColumnValuesToBeBetween(
            column="propensity",
            min_value=0,
            max_value=1,
            row_condition=column("propensity_kind") == "unusable",
            notes="an unusable propensity is a number in [0, 1] too",
        ),
        expect.ExpectColumnValuesToBeInSet(
            column="propensity_kind",
            value_set=["exact", "estimated", "unusable"],
            notes="propensity_kind is exact, estimated or unusable",
        ),
        expect.ExpectColumnValuesToBeInSet(
            column="variant",
            value_set=["champion", "challenger", "interleaved", "popularity", "logged"],
            notes="variant is champion, challenger, interleaved, popularity, or logged for what another system showed",
        ),
        expect.ExpectColumnValuesToBeBetween(
            column="allocation", min_value=0, max_value=1, notes="allocation is a share of users"
        ),
        expect.ExpectColumnValuesToBeBetween(
            column="latency_ms", min_value=0, notes="nothing is answered before it is asked"
        ),
    ]


_BY_HAND = {"events": _events, "items": _items, "users": _users, "exposures": _exposures}
