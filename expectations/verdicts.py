"""Row verdicts: which rows broke which expectations, from Great Expectations on a pandas frame.

The result format is COMPLETE with a RangeIndex: its index lists are whole. An expectation that raises looks like one
that failed, so its `exception_info` is read first: a raise is our fault, never a row's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from expectations.engine import frame_definition
from expectations.suites import UNTYPED, checked_columns, suite
from relations.parsing import excerpt

READABLE = "readable"
TYPED = "typed"
# Their values are people; messages name the fault and not the value.
_PRIVATE = ("user", "user_id")


@dataclass(frozen=True)
class Reason:
    """One expectation that one row broke. `column` is empty where the whole row is at fault."""

    expectation: str
    column: str
    message: str


@dataclass(frozen=True)
class Judgement:
    """`failures`: row → what it broke. `result`: Great Expectations' own, None when no row was readable."""

    failures: Mapping[int, tuple[Reason, ...]]
    result: Any


def judge(
    rows: pa.Table,
    *,
    kind: str,
    unreadable: Mapping[int, str],
    untyped: Mapping[int, Sequence[tuple[str, str]]],
    latest: datetime,
    skipped: Sequence[str] = (),
) -> Judgement:
    """Hold `rows` against the suite of `kind`.

    `rows`: the typed columns, null where a value was absent or could not be read. `unreadable`: row → why the reader
    could not take it apart. `untyped`: row → (column, why) of values that are not of their type. `latest`: the newest
    time allowed. `skipped`: required columns that the whole batch lacks; they are the batch's reason, not each row's.
    """
    failures: dict[int, list[Reason]] = {row: [Reason(READABLE, "", why)] for row, why in unreadable.items()}
    for row, faults in untyped.items():
        failures.setdefault(row, []).extend(Reason(TYPED, column, why) for column, why in faults)
    readable = np.setdiff1d(np.arange(rows.num_rows), np.fromiter(unreadable, int, len(unreadable)))
    if not len(readable):
        return Judgement({row: tuple(reasons) for row, reasons in failures.items()}, None)

    frame = _frame(rows, kind=kind, readable=readable, untyped=untyped)
    batch = frame_definition(kind).get_batch(batch_parameters={"dataframe": frame})
    result = batch.validate(
        suite(kind),
        result_format={"result_format": "COMPLETE"},
        expectation_parameters={"latest": latest, "delivered": rows.num_rows},
    )
    for outcome in result.results:
        config = outcome.expectation_config
        if _raised(outcome.exception_info):
            raise RuntimeError(f"expectation {config.type} on {kind}.{config.kwargs.get('column')}: {outcome}")
        column = config.kwargs.get("column", "")
        if outcome.success or column in (UNTYPED, "") or column in skipped:
            continue
        for row in readable[outcome.result["unexpected_index_list"]].tolist():
            # A value that could not be read is null in the frame; it was given, so "must be given" is not its fault.
            if any(name == column for name, _ in untyped.get(row, ())):
                continue
            seen = rows.column(column)[row].as_py()
            saw = "" if column in _PRIVATE or seen is None else f"; saw {_said(seen)}"
            failures.setdefault(row, []).append(Reason(config.type, column, f"{config.notes}{saw}"))
    return Judgement({row: tuple(reasons) for row, reasons in sorted(failures.items())}, result)


def _frame(
    rows: pa.Table, *, kind: str, readable: np.ndarray[Any, Any], untyped: Mapping[int, Sequence[tuple[str, str]]]
) -> Any:
    import pandas as pd

    chosen = rows.select(checked_columns(kind))
    if len(readable) < rows.num_rows:
        chosen = chosen.take(pa.array(readable))
    frame = chosen.to_pandas()
    notes = np.full(rows.num_rows, None, dtype=object)
    for row, faults in untyped.items():
        notes[row] = "; ".join(f"{column}: {why}" for column, why in faults)
    frame[UNTYPED] = pd.Series(notes[readable], dtype=object)
    return frame


def _said(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else excerpt(value)


def _raised(info: Mapping[str, Any]) -> bool:
    """`exception_info` is flat for an expectation and keyed by metric when a metric raised."""
    if "raised_exception" in info:
        return bool(info["raised_exception"])
    return any(inner.get("raised_exception") for inner in info.values() if isinstance(inner, dict))
