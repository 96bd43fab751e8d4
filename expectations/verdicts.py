"""Row verdicts: which rows broke which expectations. `judge` has them from Great Expectations on a pandas frame.

This is the evidence: the result of `validate` becomes the Data Docs page. The door itself takes its verdicts from the
same suites compiled to masks (`expectations.masks`); both end in `settle`, and a test holds them to each other.

The result format is COMPLETE with a RangeIndex: its index lists are whole. An expectation that raises looks like one
that failed, so its `exception_info` is read first: a raise is our fault, never a row's.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from expectations.engine import frame_definition
from expectations.suites import CRITICAL, EARLIEST, UNTYPED, checked, stated_column, suite
from relations.parsing import EXCERPT, excerpt

READABLE = "readable"
TYPED = "typed"
Rows = NDArray[np.int64]
"""Row numbers, from 0."""

# Their values are people; messages name the fault and not the value.
_PRIVATE = ("user", "user_id")
_TABLE = "expect_table_"
_BYTES = 4 * (EXCERPT + 1)  # a character takes at most four


@dataclass(frozen=True)
class Reason:
    """One expectation that one row broke. `column` is empty where the whole row is at fault."""

    expectation: str
    column: str
    message: str


@dataclass(frozen=True)
class Rule:
    """One expectation about rows. `reason` carries its note as message; `sees` is the checked column that it judges."""

    reason: Reason
    sees: str
    critical: bool
    settings: Mapping[str, Any]
    """The expectation's own arguments, as Great Expectations keeps them."""


@dataclass(frozen=True)
class RowVerdict:
    """`failing`: row → every critical expectation that it broke, in the suite's order, unreadable and untyped included.

    `warnings`: (expectation, column, its note) of severity warning → rows that it caught; they pass unless they fail
    elsewhere. `counts`: "expectation column" → breaches among the rows, of either severity. Chunks' add up.
    """

    failing: Mapping[int, tuple[Reason, ...]]
    warnings: Counter[tuple[str, str, str]]
    counts: Counter[str]


@cache
def rules(kind: str) -> tuple[Rule, ...]:
    """What the suite of `kind` says of each row by itself. The rest of it is about the table or the reader."""
    found = []
    for check in suite(kind).expectations:
        config = check.configuration
        sees = _column(config)
        if not config.type.startswith(_TABLE) and sees != UNTYPED:
            critical = config.severity == CRITICAL
            found.append(Rule(_reason(config), sees, critical, dict(config.kwargs)))
    return tuple(found)


def validate(
    rows: pa.Table,
    *,
    kind: str,
    unreadable: Mapping[int, str],
    untyped: Mapping[int, Sequence[tuple[str, str]]],
    latest: datetime,
) -> Any:
    """Great Expectations' result for `rows`, None when no row is readable; arguments as for `settle`.

    `latest`: the newest time allowed. Raises RuntimeError if an expectation raised: its columns are not there.
    """
    readable = _readable(rows, unreadable)
    if not len(readable):
        return None
    frame = _frame(checked(rows, kind=kind), readable=readable, untyped=untyped)
    result = (
        frame_definition(kind)
        .get_batch(batch_parameters={"dataframe": frame})
        .validate(
            suite(kind),
            result_format={"result_format": "COMPLETE", "return_unexpected_index_query": False},
            expectation_parameters={"latest": latest, "delivered": rows.num_rows},
        )
    )
    for outcome in result.results:
        config = outcome.expectation_config
        if raised := _raised(outcome.exception_info):
            raise RuntimeError(f"expectation {config.type} on {kind}.{_column(config)} raised: {raised}")
    return result


def broken_rows(result: Any, *, kind: str, readable: Rows) -> list[tuple[Rule, Rows]]:
    """Which rows break which rule, as Great Expectations found; `readable`: the rows that it saw, in order."""
    found = {}
    for outcome in result.results:
        if "unexpected_index_list" in outcome.result:
            found[_reason(outcome.expectation_config)] = readable[
                np.array(outcome.result["unexpected_index_list"], int)
            ]
    return [(rule, found[rule.reason]) for rule in rules(kind)]


def judge(
    rows: pa.Table,
    *,
    kind: str,
    unreadable: Mapping[int, str],
    untyped: Mapping[int, Sequence[tuple[str, str]]],
    latest: datetime,
    skipped: Sequence[str] = (),
) -> RowVerdict:
    """The verdict on `rows` by Great Expectations; arguments as for `settle`. `latest`: the newest time allowed."""
    result = validate(rows, kind=kind, unreadable=unreadable, untyped=untyped, latest=latest)
    found = [] if result is None else broken_rows(result, kind=kind, readable=_readable(rows, unreadable))
    return settle(checked(rows, kind=kind), found, unreadable=unreadable, untyped=untyped, skipped=skipped)


def settle(
    columns: pa.Table,
    broken: Iterable[tuple[Rule, Rows]],
    *,
    unreadable: Mapping[int, str],
    untyped: Mapping[int, Sequence[tuple[str, str]]],
    skipped: Sequence[str],
) -> RowVerdict:
    """The verdict on the rows of `columns` (as `suites.checked` gives them), of which `broken` break a rule.

    `unreadable`: row → why the reader could not take it apart. `untyped`: row → (column, why) of values that are not
    of their type; they are null in `columns`, were given, and have that one reason. `skipped`: required columns that
    the whole batch lacks; they are the batch's reason, not each row's.
    """
    failing: dict[int, list[Reason]] = {row: [Reason(READABLE, "", why)] for row, why in unreadable.items()}
    counts: Counter[str] = Counter()
    if unreadable:
        counts[READABLE] = len(unreadable)
    given: dict[str, list[int]] = {}
    for row, faults in untyped.items():
        failing.setdefault(row, []).extend(Reason(TYPED, column, why) for column, why in faults)
        for column, _ in faults:
            given.setdefault(column, []).append(row)
    for column, known in given.items():
        counts[f"{TYPED} {column}"] = len(known)

    warnings: Counter[tuple[str, str, str]] = Counter()
    judged = _all_but(unreadable, columns.num_rows)
    judged_in = {column: judged & _all_but(known, columns.num_rows) for column, known in given.items()}
    for rule, hit in broken:
        column = rule.reason.column
        rows = hit[judged_in.get(column, judged)[hit]]
        if column in skipped or not len(rows):
            continue
        counts[f"{rule.reason.expectation} {column}"] += len(rows)
        if not rule.critical:
            warnings[(rule.reason.expectation, column, rule.reason.message)] = len(rows)
            continue
        for row, reason in zip(rows.tolist(), _reasons(rule, columns.column(rule.sees), rows), strict=True):
            failing.setdefault(row, []).append(reason)
    return RowVerdict({row: tuple(failing[row]) for row in sorted(failing)}, warnings, counts)


def _readable(rows: pa.Table, unreadable: Mapping[int, str]) -> Rows:
    return np.flatnonzero(_all_but(unreadable, rows.num_rows))


def _all_but(known: Collection[int], rows: int) -> NDArray[np.bool_]:
    flags = np.ones(rows, dtype=np.bool_)
    flags[np.fromiter(known, np.int64, len(known))] = False
    return flags


def _reasons(rule: Rule, values: pa.ChunkedArray, rows: Rows) -> list[Reason]:
    """One a row, with the value that was seen. Equal ones are one object: a batch may fail as a whole."""
    reason = rule.reason
    if reason.column in _PRIVATE:
        return [reason] * len(rows)
    known: dict[str, Reason] = {"": reason}
    found = []
    for said in _said(values.take(pa.array(rows))):
        if said not in known:
            known[said] = Reason(reason.expectation, reason.column, f"{reason.message}; saw {said}")
        found.append(known[said])
    return found


def _said(values: pa.ChunkedArray) -> list[str]:
    """A short form of each value, empty for null. Endless texts are cut before they are copied."""
    if pa.types.is_string(values.type):
        heads = pc.binary_slice(values.cast(pa.binary()), 0, _BYTES).to_pylist()
        return ["" if head is None else excerpt(head.decode(errors="replace")) for head in heads]
    if pa.types.is_timestamp(values.type):
        return ["" if micros is None else _moment(micros) for micros in values.cast(pa.int64()).to_pylist()]
    return ["" if value is None else excerpt(value) for value in values.to_pylist()]


def _moment(micros: int) -> str:
    try:
        return (EARLIEST + timedelta(microseconds=micros)).isoformat()
    except OverflowError:
        return f"{micros} microseconds since 1970"


def _frame(columns: pa.Table, *, readable: Rows, untyped: Mapping[int, Sequence[tuple[str, str]]]) -> Any:
    import pandas as pd

    chosen = columns.take(pa.array(readable)) if len(readable) < columns.num_rows else columns
    for place, field in enumerate(chosen.schema):
        if pa.types.is_timestamp(field.type):
            # pandas holds times of any year and fails to print most. No bound lies outside these years.
            chosen = chosen.set_column(place, field, _clipped(chosen.column(place)))
    texts = {pa.string(): pd.StringDtype("pyarrow", na_value=np.nan)}
    frame = chosen.to_pandas(types_mapper=texts.get)
    notes = np.full(columns.num_rows, None, dtype=object)
    for row, faults in untyped.items():
        notes[row] = "; ".join(f"{column}: {why}" for column, why in faults)
    frame[UNTYPED] = pd.Series(notes[readable], dtype=object)
    return frame


def _clipped(times: pa.ChunkedArray) -> pa.ChunkedArray:
    first, last = (pa.scalar(datetime(year, 1, 1, tzinfo=UTC), times.type) for year in (1, 9999))
    floored = pc.if_else(pc.less(times, first), first, times)
    return pc.if_else(pc.greater(floored, last), last, floored)


def _column(config: Any) -> str:
    return str(config.kwargs.get("column") or config.kwargs.get("column_A", ""))


def _reason(config: Any) -> Reason:
    return Reason(config.type, stated_column(_column(config)), config.notes)


def _raised(info: Mapping[str, Any]) -> str:
    """What raised, empty if nothing. The info is flat for an expectation and keyed by metric when a metric raised."""
    each = [info] if "raised_exception" in info else [inner for inner in info.values() if isinstance(inner, dict)]
    return "; ".join(sorted({str(inner["exception_message"]) for inner in each if inner.get("raised_exception")}))
