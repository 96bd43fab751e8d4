"""From what a source states to what a column holds, without a silent cast.

`parse` turns one column's stated values (Python objects of JSON, texts of CSV, Arrow of Parquet) into a typed Arrow
array. What cannot be read without changing it is null there and named, with its row and the reason, in `unread`.
Absent stays absent: None, and in CSV the empty field.

Read as what they plainly are: whole numbers as text ids, ISO 8601 and epochs as times (no zone: UTC), texts of
digits as numbers. Refused: NaN and infinities, fractions as whole numbers, floats and booleans as ids, times of
unclear unit.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from relations.schemas import TIME

Stated: TypeAlias = "Sequence[object] | pa.ChunkedArray"

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_EPOCH = re.compile(r"-?\d{1,18}(\.\d+)?")
_ISO = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}([.,]\d{1,9})?)?(Z|z|[+-]\d{2}:?\d{2})?)?$"
# Ten digits of seconds, give or take one, span 1973 to 5138; fewer may as well be a date such as 20260301.
_DIGITS = {"s": r"^\d{9,11}$", "ms": r"^\d{12,14}$", "us": r"^\d{15,17}$"}
_SPANS = {"s": (10**8, 10**11), "ms": (10**11, 10**14), "us": (10**14, 10**17)}
_BEYOND = (OverflowError, ValueError, KeyError)  # what Arrow raises for a value that Python has no object for
_US = {"s": 1_000_000, "ms": 1_000, "us": 1}
# Years 1 to 9999, in microseconds.
_FIRST, _LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
EXCERPT = 80


class Unread(ValueError):  # noqa: N818 -- a verdict on a cell, not a fault
    """One cell cannot be read as its column's type; the message says why."""


@dataclass(frozen=True)
class Parsed:
    """`values`: the typed column, null where absent or unread. `unread`: row → why."""

    values: pa.Array
    unread: dict[int, str]


def parse(stated: Stated, kind: pa.DataType, *, time_unit: str = "auto") -> Parsed:
    """Read a column as `kind`. `time_unit` is the unit of numeric times: auto, s, ms or us."""
    if kind == TIME:
        return _times(stated, time_unit)
    fast = _whole_column(stated, kind)
    if fast is not None:
        return Parsed(fast, {})
    return _cell_by_cell(stated, kind, _reader(kind))


def excerpt(value: object) -> str:
    """A short, printable form for messages."""
    if isinstance(value, str | bytes):
        value = value[: EXCERPT + 1]
    text = ascii(value)
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"


def objects(stated: Stated) -> list[Any]:
    """Python's objects. Of a time that Python has none for (the year 10,000, an unknown zone), its type and number."""
    if not isinstance(stated, pa.ChunkedArray):
        return list(stated)
    try:
        values: list[Any] = stated.to_pylist()
    except _BEYOND:
        return [_object(cell) for cell in stated]
    return values


def _object(cell: pa.Scalar) -> object:
    try:
        return cell.as_py()
    except _BEYOND:
        return f"{cell.type} {cell.cast(pa.int64())}" if pa.types.is_temporal(cell.type) else f"{cell.type}, unreadable"


def _flat(stated: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(stated.chunks) if stated.num_chunks else pa.array([], stated.type)


def _whole_column(stated: Stated, kind: pa.DataType) -> pa.Array | None:
    """The column at once, where every value is plainly of its kind; None sends it cell by cell."""
    try:
        if isinstance(stated, pa.ChunkedArray):
            values = _flat(stated)
        elif pa.types.is_string(kind):
            values = pa.array(stated, pa.string())  # refuses numbers and lone surrogates
        else:
            values = pa.array(stated)
        if pa.types.is_null(values.type):
            return values.cast(kind)
        texts = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
        if pa.types.is_string(kind):
            return values.cast(kind) if texts or pa.types.is_integer(values.type) else None
        if pa.types.is_floating(kind):
            if not (texts or pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
                return None
            numbers = values.cast(kind)
            finite = pc.all(pc.is_finite(numbers)).as_py()
            return numbers if finite is not False else None
        if pa.types.is_integer(kind):
            return values.cast(kind) if texts or pa.types.is_integer(values.type) else None
        if pa.types.is_boolean(kind):
            return values if pa.types.is_boolean(values.type) else None
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, UnicodeEncodeError, OverflowError):
        return None
    return None


def _cell_by_cell(stated: Stated, kind: pa.DataType, read: Callable[[Any], object]) -> Parsed:
    values: list[object] = []
    unread: dict[int, str] = {}
    for row, value in enumerate(objects(stated)):
        try:
            values.append(None if value is None else read(value))
        except Unread as why:
            values.append(None)
            unread[row] = str(why)
    return Parsed(pa.array(values, kind), unread)


def _reader(kind: pa.DataType) -> Callable[[Any], object]:
    if pa.types.is_string(kind):
        return _text
    if pa.types.is_floating(kind):
        return _number
    if pa.types.is_integer(kind):
        return lambda value: _whole(value, bits=kind.bit_width)
    if pa.types.is_boolean(kind):
        return _flag
    if pa.types.is_list(kind):
        return _labels
    if pa.types.is_map(kind):
        return _vectors if pa.types.is_list(kind.item_type) else _attributes
    raise TypeError(f"no reader for columns of type {kind}")


def _text(value: object) -> str:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Unread("holds half of a surrogate pair, which is no Unicode character") from None
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise Unread(f"{excerpt(value)} is {_name(value)} where a text is expected")


def _number(value: object) -> float:
    number = math.nan
    if isinstance(value, str):
        if _NUMBER.fullmatch(value.strip()):
            number = float(value)
    elif isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    if not math.isfinite(number):
        raise Unread(f"{excerpt(value)} is not a finite number")
    return number


def _whole(value: object, *, bits: int) -> int:
    number = int(value) if isinstance(value, int) and not isinstance(value, bool) else _number(value)
    if number != int(number) or not -(2 ** (bits - 1)) <= number < 2 ** (bits - 1):
        raise Unread(f"{excerpt(value)} is not a whole number of {bits} bits")
    return int(number)


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    said = str(value).strip().lower() if isinstance(value, str | int) else ""
    if said not in known:
        raise Unread(f"{excerpt(value)} is neither true nor false")
    return known[said]


def _labels(value: object) -> list[str]:
    if isinstance(value, str):
        return [label.strip() for label in _text(value).split("|") if label.strip()]
    if isinstance(value, list):
        return [_text(label) for label in value]
    raise Unread(f"{excerpt(value)} is {_name(value)} where a list of texts (in CSV: separated by |) is expected")


def _pairs(value: object) -> list[tuple[Any, Any]]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Unread(f"{excerpt(value)} is not a JSON object") from None
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
        return value
    raise Unread(f"{excerpt(value)} is {_name(value)} where an object is expected")


def _attributes(value: object) -> list[tuple[str, str]]:
    said = {}
    for name, inner in _pairs(value):
        if inner is not None:
            said[_text(name)] = _text(inner if isinstance(inner, str) else json.dumps(inner, default=str))
    return sorted(said.items())


def _vectors(value: object) -> list[tuple[str, list[float]]]:
    said = {}
    for name, inner in _pairs(value):
        if not isinstance(inner, list):
            raise Unread(f"vector {excerpt(name)} is {_name(inner)} where a list of numbers is expected")
        said[_text(name)] = [_number(number) for number in inner]
    return sorted(said.items())


def _name(value: object) -> str:
    names = {bool: "a truth value", float: "a fraction", list: "a list", dict: "an object", int: "a whole number"}
    return names.get(type(value), f"a {type(value).__name__}")


def _times(stated: Stated, unit: str) -> Parsed:
    """Times finer than a microsecond are cut to it."""
    if isinstance(stated, pa.ChunkedArray) and pa.types.is_timestamp(stated.type):
        return _stamps(_flat(stated))
    if isinstance(stated, pa.ChunkedArray) and pa.types.is_signed_integer(stated.type):
        whole = _epochs(_flat(stated).cast(pa.int64()), unit)
        if whole is not None:
            return Parsed(whole, {})
    texts = _time_texts(stated)
    if texts is None:
        return _cell_by_cell(stated, TIME, lambda value: _time(value, unit))
    whole = _all_iso(texts) if unit == "auto" else None
    # A leading zero would count as a digit of the unit.
    if whole is None and pc.all(pc.ascii_is_decimal(texts)).as_py() and not pc.any(pc.starts_with(texts, "0")).as_py():
        try:
            whole = _epochs(texts.cast(pa.int64()), unit)
        except pa.ArrowInvalid:  # beyond 64 bits, or digits of another script
            whole = None
    if whole is not None:
        return Parsed(whole, {})
    micros = pc.coalesce(_iso_column(texts), _epoch_column(texts, unit))
    rows = np.flatnonzero(pc.and_(pc.is_valid(texts), pc.is_null(micros)).to_numpy(zero_copy_only=False))
    if not len(rows):
        return Parsed(micros.cast(TIME), {})
    # What no whole column reads goes cell by cell, for its value or for the reason why it has none.
    rest = _cell_by_cell(texts.take(pa.array(rows)).to_pylist(), TIME, lambda value: _time(value, unit))
    mask = np.zeros(len(texts), dtype=bool)
    mask[rows] = True
    whole = pc.replace_with_mask(micros, pa.array(mask), rest.values.cast(pa.int64()))
    return Parsed(whole.cast(TIME), {int(rows[index]): why for index, why in rest.unread.items()})


def _stamps(values: pa.Array) -> Parsed:
    """Arrow's own times. Of one without a zone, UTC is meant."""
    unit = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 0}[values.type.unit]
    numbers = values.cast(pa.int64())
    low, high = (_FIRST // unit, _LAST // unit) if unit else (-(2**63), 2**63 - 1)
    fits = pc.and_(pc.greater_equal(numbers, low), pc.less_equal(numbers, high))
    rows = pc.indices_nonzero(pc.invert(fits)).to_pylist()
    fitting = pc.if_else(fits, values, None) if rows else values
    micros = fitting.cast(pa.timestamp("us", tz=values.type.tz), safe=False).cast(pa.int64())
    return Parsed(micros.cast(TIME), dict.fromkeys(rows, "a time beyond the years 1 to 9999"))


def _time_texts(stated: Stated) -> pa.Array | None:
    """The column as texts, where it holds texts or whole numbers alone."""
    try:
        values = _flat(stated) if isinstance(stated, pa.ChunkedArray) else pa.array(stated)
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError, OverflowError):
        return None
    kind = values.type
    if any(
        test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_null)
    ):
        return values.cast(pa.string())
    return None


def _all_iso(texts: pa.Array) -> pa.Array | None:
    """The column as times, where it is ISO 8601 throughout, with a zone in every row or in none; else None."""
    if texts.null_count == len(texts) or not pc.all(pc.match_substring_regex(texts, _ISO)).as_py():
        return None
    for kind in (TIME, pa.timestamp("us")):
        try:
            return texts.cast(kind).cast(pa.int64()).cast(TIME)
        except pa.ArrowInvalid:
            continue
    return None


def _epochs(numbers: pa.Array, unit: str) -> pa.Array | None:
    """The column as times, where every number is plainly an epoch of `unit` (auto: of the same); else None."""
    low, high = (pc.min_max(numbers)[end].as_py() for end in ("min", "max"))
    if low is None:
        return None
    for name, (least, most) in _SPANS.items():
        if unit in ("auto", name) and low >= least and high < most:
            return pc.multiply(numbers, _US[name]).cast(TIME)
    return None


def _iso_column(texts: pa.Array) -> pa.Array:
    """Microseconds of ISO 8601 texts; null where a text is anything else."""
    import pandas as pd

    iso = pc.if_else(pc.match_substring_regex(texts, _ISO), texts, pa.scalar(None, pa.string()))
    if iso.null_count == len(iso):
        return pa.nulls(len(texts), pa.int64())
    times = pd.to_datetime(pd.Series(iso.to_pylist(), dtype="str"), format="ISO8601", utc=True, errors="coerce")
    naive = times.dt.tz_convert(None).dt.as_unit("us").to_numpy()
    return pa.array(naive, pa.timestamp("us"), from_pandas=True).cast(pa.int64())


def _epoch_column(texts: pa.Array, unit: str) -> pa.Array:
    """Microseconds of whole epochs without a sign; null where a text is anything else."""
    micros = pa.nulls(len(texts), pa.int64())
    for name, pattern in _DIGITS.items():
        if unit == "auto" or unit == name:
            fits = pc.match_substring_regex(texts, pattern if unit == "auto" else r"^\d{1,12}$")
            if pc.any(fits).as_py():
                epochs = pc.if_else(fits, texts, pa.scalar(None, pa.string())).cast(pa.int64())
                whole = pc.multiply(epochs, _US[name])
                micros = pc.coalesce(micros, pc.if_else(pc.less_equal(whole, _LAST), whole, None))
    return micros


def _time(value: object, unit: str) -> datetime | int:
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, str):
        said = value.strip()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        said = str(value) if isinstance(value, int) else format(Decimal(repr(value)), "f")
    else:
        raise Unread(f"{excerpt(value)} is {_name(value)} where a time is expected")
    if not _EPOCH.fullmatch(said):
        if re.match(_ISO, said):
            try:
                moment = datetime.fromisoformat(said.upper().replace(",", "."))
            except ValueError as error:
                raise Unread(f"{excerpt(value)} is not a time: {error}") from None
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        raise Unread(f"{excerpt(value)} is not a time; write ISO 8601 (2026-03-01T12:00:00Z) or an epoch")
    if unit == "auto":
        whole = said.lstrip("-").partition(".")[0]
        unit = next((name for name, pattern in _DIGITS.items() if re.match(pattern, whole)), "")
        if not unit:
            raise Unread(f"{excerpt(value)} is an epoch of {len(whole)} digits: its unit is unclear; set time_unit")
    micros = int(Decimal(said) * _US[unit])
    if not _FIRST <= micros <= _LAST:
        raise Unread(f"{excerpt(value)} is beyond the range of times")
    return micros
