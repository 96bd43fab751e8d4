"""The suites compiled to DuckDB: row verdicts at the speed of a scan.

Each expectation of `suites.suite` becomes one boolean expression, made from the expectation's own arguments, its row
condition and the parameter `latest` included, so that suite and masks cannot drift apart: an expectation, argument or
condition that has no translation here raises NotImplementedError before any row is judged. All expressions run in one
query over an Arrow chunk, which returns only the rows that break one.

Null rules are those of Great Expectations on pandas: NaN is null; null breaks only "must be given"; in a row
condition, null differs from every value.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from expectations.suites import EARLIEST, checked, checked_types
from expectations.verdicts import Rows, RowVerdict, Rule, rules, settle

_CHUNK, _PLACE = "chunk", "place"
_BITS = 62
"""Expectations a word: a BIGINT's 63 bits and no sign trouble."""
# Constructs that mean something else in each regex engine.
_DISPUTED = re.compile(r"\\[bBdDsSwWuUpP]|(?<!\\)[$.]|\(\?")
_MICROSECOND = 1_000_000


class RowContract:
    """What each row of `kind` must be, as one query on a DuckDB connection of its own; a context manager."""

    def __init__(self, kind: str, *, latest: datetime, threads: int | None = None) -> None:
        """`latest`: the newest time allowed. `threads`: for the query; None takes every core."""
        import duckdb

        self._kind = kind
        self._rules = rules(kind)
        self._query = _query([expression(rule, kind=kind, latest=latest) for rule in self._rules])
        self._connection = duckdb.connect(config={} if threads is None else {"threads": threads})

    def judge(
        self,
        rows: pa.Table,
        *,
        unreadable: Mapping[int, str],
        untyped: Mapping[int, Sequence[tuple[str, str]]],
        skipped: Sequence[str] = (),
    ) -> RowVerdict:
        """The verdict on one chunk; row numbers are the chunk's. Arguments as for `verdicts.settle`.

        `rows` has the columns of `SCHEMAS[kind]` that a source states, null where a value was absent or not readable.
        """
        columns = checked(rows, kind=self._kind)
        found = self.broken_rows(columns)
        return settle(columns, found, unreadable=unreadable, untyped=untyped, skipped=skipped)

    def broken_rows(self, columns: pa.Table) -> list[tuple[Rule, Rows]]:
        """Which rows break which rule; `columns` as `suites.checked` gives them."""
        chunk = columns
        for place, field in enumerate(columns.schema):
            if pa.types.is_timestamp(field.type):
                # As whole numbers: DuckDB takes the farthest times for infinite.
                chunk = chunk.set_column(place, field.name, columns.column(place).cast(pa.int64()))
        chunk = chunk.append_column(_PLACE, pa.array(np.arange(chunk.num_rows)))
        self._connection.register(_CHUNK, chunk)
        try:
            hit = self._connection.sql(self._query).to_arrow_table()
        finally:
            self._connection.unregister(_CHUNK)
        order = np.argsort(hit.column(_PLACE).to_numpy())
        places: Rows = hit.column(_PLACE).to_numpy()[order]
        words = [hit.column(name).to_numpy()[order] for name in hit.column_names[1:]]
        found = []
        for number, rule in enumerate(self._rules):
            bits = words[number // _BITS] >> (number % _BITS) & 1
            found.append((rule, places[bits.astype(bool)]))
        return found

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> "RowContract":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def expression(rule: Rule, *, kind: str, latest: datetime) -> str:
    """SQL that is true for the rows of a chunk that break `rule`, and false, never null, for the others."""
    settings = {name: value for name, value in rule.settings.items() if value is not None}
    types = checked_types(kind)
    compiler = _COMPILERS.get(rule.reason.expectation)
    if compiler is None:
        raise NotImplementedError(
            f"no mask for {rule.reason.expectation} on {kind}.{rule.reason.column}; known: {', '.join(_COMPILERS)}"
        )
    condition = settings.pop("row_condition", None)
    try:
        breaks = compiler(_Arguments(settings, types, latest))
        if settings:
            raise NotImplementedError(f"no mask knows the argument {', '.join(settings)}")
        return breaks if condition is None else f"({_condition(condition, types)}) AND {breaks}"
    except NotImplementedError as error:
        raise NotImplementedError(f"{rule.reason.expectation} on {kind}.{rule.reason.column}: {error}") from None


def _query(breaks: Sequence[str]) -> str:
    """The rows that break anything, with one bit an expectation."""
    words = []
    for first in range(0, len(breaks), _BITS):
        bits = [f"(({each})::BIGINT << {bit})" for bit, each in enumerate(breaks[first : first + _BITS])]
        words.append(" | ".join(bits))
    chosen = ", ".join(f"{word} AS word_{number}" for number, word in enumerate(words))
    # Most rows break nothing: they pay for the conditions and not for the bits.
    return f"SELECT {_PLACE}, {chosen} FROM {_CHUNK} WHERE {' OR '.join(f'({each})' for each in breaks)}"


class _Arguments:
    """An expectation's arguments. Each is taken once; what is left at the end was understood by nobody."""

    def __init__(self, settings: dict[str, Any], types: Mapping[str, pa.DataType], latest: datetime) -> None:
        self._settings = settings
        self._types = types
        self._latest = latest

    def column(self, name: str = "column") -> tuple[str, str]:
        """(the quoted column, SQL for: it has a value)"""
        column = self._settings.pop(name)
        return _quoted(column), _present(column, self._types)

    def take(self, name: str, otherwise: Any = None) -> Any:
        return self._settings.pop(name, otherwise)

    def bound(self, name: str) -> str | None:
        value = self._settings.pop(name, None)
        if isinstance(value, dict):
            if value != {"$PARAMETER": "latest"}:
                raise NotImplementedError(f"{name} is {value}; the one parameter is latest")
            value = self._latest
        return None if value is None else _literal(value)


def _is_absent(given: _Arguments) -> str:
    _, present = given.column()
    return f"NOT ({present})"


def _is_present(given: _Arguments) -> str:
    _, present = given.column()
    return f"({present})"


def _is_outside(given: _Arguments) -> str:
    column, present = given.column()
    return f"({present}) AND NOT ({_between(column, given)})"


def _has_length_outside(given: _Arguments) -> str:
    column, present = given.column()
    return f"({present}) AND NOT ({_between(f'length({column})', given)})"


def _between(value: str, given: _Arguments) -> str:
    sides = []
    for bound, strict, sign in (("min_value", "strict_min", ">"), ("max_value", "strict_max", "<")):
        limit, exact = given.bound(bound), given.take(strict, False)
        if limit is not None:
            sides.append(f"{value} {sign}{'' if exact else '='} {limit}")
    return " AND ".join(sides)


def _is_unknown(given: _Arguments) -> str:
    column, present = given.column()
    return f"({present}) AND {column} NOT IN ({', '.join(_literal(value) for value in given.take('value_set'))})"


def _does_not_match(given: _Arguments) -> str:
    column, present = given.column()
    pattern = given.take("regex")
    if disputed := _DISPUTED.search(pattern):
        raise NotImplementedError(f"regex {pattern!a} has {disputed[0]!r}, which engines read in different ways")
    ended = pattern.replace(r"\Z", r"\z")  # the end of the text, as DuckDB spells it
    return f"({present}) AND NOT regexp_matches({column}, {_literal(ended)})"


def _differ(given: _Arguments) -> str:
    (one, has_one), (other, has_other) = given.column("column_A"), given.column("column_B")
    if (ignored := given.take("ignore_row_if")) != "either_value_is_missing":
        raise NotImplementedError(f"ignore_row_if is {ignored!r}; known: either_value_is_missing")
    return f"({has_one}) AND ({has_other}) AND {one} <> {other}"


_COMPILERS: dict[str, Callable[[_Arguments], str]] = {
    "expect_column_values_to_not_be_null": _is_absent,
    "expect_column_values_to_be_null": _is_present,
    "expect_column_values_to_be_between": _is_outside,
    "expect_column_value_lengths_to_be_between": _has_length_outside,
    "expect_column_values_to_be_in_set": _is_unknown,
    "expect_column_values_to_match_regex": _does_not_match,
    "expect_column_pair_values_to_be_equal": _differ,
}


def _condition(stated: Mapping[str, Any], types: Mapping[str, pa.DataType]) -> str:
    """SQL of a row condition, as Great Expectations keeps it; true or false, never null."""
    if stated["type"] in ("and", "or"):
        sides = [_condition(inner, types) for inner in stated["conditions"]]
        return "(" + f" {stated['type'].upper()} ".join(sides) + ")"
    if stated["type"] not in ("nullity", "comparison"):
        raise NotImplementedError(f"no mask for the row condition {stated}")
    column = stated["column"]["name"]
    present = f"({_present(column, types)})"
    if stated["type"] == "nullity":
        return f"NOT {present}" if stated["is_null"] else present
    if stated["operator"] not in ("==", "!=", "<", "<=", ">", ">="):
        raise NotImplementedError(f"no mask for the row condition {stated}")
    value = f"{_quoted(column)} {stated['operator'].replace('==', '=')} {_literal(stated['parameter'])}"
    return f"(NOT {present} OR {value})" if stated["operator"] == "!=" else f"({present} AND {value})"


def _present(column: str, types: Mapping[str, pa.DataType]) -> str:
    has = f"{_quoted(column)} IS NOT NULL"
    return f"{has} AND NOT isnan({_quoted(column)})" if pa.types.is_floating(types[column]) else has


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(value: Any) -> str:
    """Times are microseconds since 1970, as in the chunk."""
    if isinstance(value, datetime):
        since = value.astimezone(UTC) - EARLIEST
        return f"{(since.days * 86_400 + since.seconds) * _MICROSECOND + since.microseconds}::BIGINT"
    if isinstance(value, str) and "\0" not in value:
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, int | float) and not isinstance(value, bool):
        # A whole bound leaves a column of whole numbers uncast.
        return str(int(value)) if float(value).is_integer() else f"{float(value)!r}::DOUBLE"
    raise NotImplementedError(f"no SQL for {value!r}")
