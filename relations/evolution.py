"""Schema evolution: what a source's columns held before, what they hold now, and what its policy makes of it.

A column's type is observed, one of `TYPES`, from a sample of its values: that of at least `SHARE` of those that are
given. A broken cell here and there is its row's fault, and the rows' verdicts find it; a column is retyped when its
values are. A source of texts alone (CSV) has no types but what its texts say. A self-typed one (JSON, Parquet, Arrow)
has its own, but that a column of ISO 8601 texts is `time`, so that a feed means the same in either.

Types nest: null in every type, whole in number, every type in mixed, and in a source of texts every type in text. What
lies within what was there before is no change, under any policy.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from itertools import islice
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from relations.parsing import Stated
from relations.schemas import SCHEMAS

Policy: TypeAlias = Literal["strict", "additive", "coerce"]
NULL, WHOLE, NUMBER, TRUTH, TIME, TEXT, LIST, OBJECT, MIXED, ID = TYPES = (
    *("null", "whole", "number", "truth", "time"),
    *("text", "list", "object", "mixed", "id"),
)
"""`id`: a column of ids in a source of texts, where a whole number is no other type than a text."""
SAMPLE = 2_048
"""Values that are looked at, spread over the chunk: about a millisecond, whatever its size."""
SHARE = 0.9
_LONGEST = 64  # of a text that could be a number or a time

_IDS = ("event_id", "user", "item_id", "exposure_id")
# A text may be spread over lines in CSV: `\z`, for `$` would end at a line's end. Never empty: that is absent.
_WHOLE = r"\A\s*[+-]?\d+\s*\z"
_NUMBER = r"\A\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*\z"
_TRUTH = r"\A\s*(?i:true|false)\s*\z"
_TIME = r"\A\s*\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}([.,]\d{1,9})?)?(Z|z|[+-]\d{2}:?\d{2})?)?\s*\z"
_PHYSICAL: tuple[tuple[Callable[[pa.DataType], bool], str], ...] = (
    (pa.types.is_null, NULL),
    (pa.types.is_boolean, TRUTH),
    (pa.types.is_integer, WHOLE),
    (pa.types.is_floating, NUMBER),
    (pa.types.is_decimal, NUMBER),
    (pa.types.is_timestamp, TIME),
    (pa.types.is_date, TIME),
    (pa.types.is_map, OBJECT),
    (pa.types.is_struct, OBJECT),
    (pa.types.is_list, LIST),
    (pa.types.is_large_list, LIST),
    (pa.types.is_fixed_size_list, LIST),
)
_PYTHON = {
    bool: TRUTH,
    int: WHOLE,
    float: NUMBER,
    Decimal: NUMBER,
    datetime: TIME,
    date: TIME,
    list: LIST,
    tuple: LIST,
    dict: OBJECT,
}


@dataclass(frozen=True)
class Drift:
    """What changed. `held`: (the source's column, message) of each reason to hold the batch; empty: it may come in.

    `next`: the source's column → type, which the following delivery is held against.
    """

    held: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    next: Mapping[str, str]


def observed_type(values: Stated, *, text_source: bool) -> str:
    """The type of a column's values, one of `TYPES` without `id`; `text_source`: inferred from the texts."""
    if isinstance(values, pa.ChunkedArray):
        return _type_of_arrow(values, text_source=text_source)
    drawn = (values[place] for place in _places(len(values)))
    given = [value for value in drawn if value is not None]
    if not given:  # few are given, if any: the first of them
        given = list(islice((value for value in values if value is not None), SAMPLE))
    if not given:
        return NULL
    counts = Counter(_PYTHON.get(kind, TEXT) for kind in map(type, given))
    if counts[TEXT] >= SHARE * len(given):
        texts = [value[:_LONGEST].encode(errors="replace") for value in given if isinstance(value, str)]
        return _type_of_texts(pa.array(texts, pa.binary()), text_source=text_source) if texts else TEXT
    if counts[WHOLE] + counts[NUMBER] >= SHARE * len(given):
        return NUMBER if counts[NUMBER] else WHOLE
    ((kind, count),) = counts.most_common(1)
    return kind if count >= SHARE * len(given) else MIXED


def merge(one: str, other: str) -> str:
    """The smallest type that holds both; of two chunks, or of two deliveries."""
    if one == other or other == NULL:
        return one
    if one == NULL:
        return other
    if {one, other} == {WHOLE, NUMBER}:
        return NUMBER
    return ID if ID in (one, other) and {one, other} <= {ID, WHOLE, TEXT} else MIXED


def compare(
    earlier: Mapping[str, str],
    now: Mapping[str, str],
    *,
    bound: Mapping[str, str],
    policy: Policy,
    source: str,
    text_source: bool,
) -> Drift:
    """Hold a delivery's columns against those of the source's last one; both: the source's column → type.

    `bound`: Ratchet's column → the source's, as configured, whether the delivery has it or not. `strict` looks at all
    columns and holds the batch for any that is new, gone or of another type. `additive` warns of new ones, and holds
    the batch where one that Ratchet uses is gone or of another type; whole and number are one type. `coerce` only
    warns: the parser converts what converts without loss and the rest is quarantined row by row. Without an earlier
    delivery there is nothing to hold against. Each warning comes once: the next delivery meets the new columns.
    """
    used = {column: ours for ours, column in bound.items()}
    found = {column: _folded(kind, used.get(column), text_source=text_source) for column, kind in now.items()}
    if not earlier:
        return Drift((), (), found)
    held: list[tuple[str, str]] = []
    warnings: list[str] = []
    following: dict[str, str] = {}
    fresh = [column for column in found if column not in earlier]
    say = _Words(source, policy, used)
    for column, was in earlier.items():
        if column not in found:
            following[column] = NULL  # so that it may come back unremarked
            if policy == "strict" or (policy == "additive" and column in used and was != NULL):
                held.append((column, say.gone(column, was, fresh)))
            elif was != NULL:
                warnings.append(say.gone(column, was, fresh))
            continue
        kind = found[column]
        if _fits(kind, was, policy=policy, text_source=text_source):
            following[column] = _folded(merge(was, kind), used.get(column), text_source=text_source)
            continue
        following[column] = kind
        if policy == "strict" or (policy == "additive" and column in used):
            held.append((column, say.retyped(column, was, kind)))
        else:
            warnings.append(say.retyped(column, was, kind))
    for column in fresh:
        following[column] = found[column]
        if policy == "strict":
            held.append((column, say.new(column, found[column])))
        else:
            warnings.append(say.new(column, found[column]))
    return Drift(tuple(held), tuple(warnings), dict(earlier) if held else following)


def _fits(kind: str, was: str, *, policy: Policy, text_source: bool) -> bool:
    """Whether `kind` lies within `was`, or may pass for it."""
    if kind == was or NULL in (kind, was) or was == MIXED:
        return True
    if was == NUMBER and kind == WHOLE:
        return True
    if was == ID:
        return kind in (WHOLE, TEXT)  # a self-typed delivery after one of texts
    if kind == ID:
        return was in (WHOLE, TEXT)
    return (text_source and was == TEXT) or (policy != "strict" and {was, kind} == {WHOLE, NUMBER})


def _folded(kind: str, ours: str | None, *, text_source: bool) -> str:
    """The type as the column's use tells it: digits in an id, and a date in a title, are texts like others."""
    if kind == NULL:
        return kind
    if ours is None:
        return TEXT if text_source and kind == MIXED else kind
    if ours in _IDS:
        return ID if text_source else TEXT if kind == TIME else kind
    if _is_scalar(ours):
        return TEXT if text_source and kind == MIXED else kind
    # Kept as texts, or as texts in a list or a map.
    return TEXT if text_source or kind == TIME else kind


def _is_scalar(ours: str) -> bool:
    """Whether Ratchet's column is read as a number, a time or a truth value."""
    kinds = [schema.field(ours).type for schema in SCHEMAS.values() if ours in schema.names]
    return bool(kinds) and not any(pa.types.is_string(kind) or pa.types.is_nested(kind) for kind in kinds)


def _type_of_arrow(values: pa.ChunkedArray, *, text_source: bool) -> str:
    if values.null_count == len(values):
        return NULL
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    for test, name in _PHYSICAL:
        if test(kind):
            return name
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        return TEXT  # bytes and the like: nothing of ours, the rows' verdicts say so
    given = values.take(_places(len(values))).drop_null()
    if len(given) == 0:
        given = values.drop_null().slice(0, SAMPLE)
    texts = pa.concat_arrays(given.cast(pa.large_string()).chunks).cast(pa.large_binary())
    return _type_of_texts(pc.binary_slice(texts, 0, _LONGEST), text_source=text_source)


def _type_of_texts(texts: pa.Array, *, text_source: bool) -> str:
    """Of at most a few thousand texts, none of them null or empty."""
    for pattern, name in ((_WHOLE, WHOLE), (_NUMBER, NUMBER), (_TRUTH, TRUTH), (_TIME, TIME)):
        if (text_source or name == TIME) and _share(texts, pattern) >= SHARE:
            return name
    return TEXT


def _share(texts: pa.Array, pattern: str) -> float:
    return float(pc.sum(pc.match_substring_regex(texts, pattern)).as_py()) / len(texts)


@lru_cache(maxsize=8)
def _places(rows: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Which values are looked at: drawn, for an even step could meet every other kind of row alone."""
    if rows <= SAMPLE:
        return np.arange(rows)
    return np.unique(np.random.default_rng(rows).integers(0, rows, SAMPLE))


@dataclass(frozen=True)
class _Words:
    """Messages: the source, the column, what it was and is, and the line for ratchet.toml."""

    source: str
    policy: Policy
    used: Mapping[str, str]

    def retyped(self, column: str, was: str, kind: str) -> str:
        if self.policy == "coerce" and column in self.used:
            end = "what converts without loss is converted, the rest is quarantined row by row"
        else:
            end = self._end(column)
        return f"{self._of(column)} was {was} and is {kind} now; {end}"

    def gone(self, column: str, was: str, fresh: Sequence[str]) -> str:
        ours = self.used.get(column)
        if ours is None or not fresh:
            return f"{self._of(column)} is gone, it was {was}; {self._end(column)}"
        names, key = ", ".join(fresh), "user_id" if ours == "user" else ours
        line = f'[sources.{self.source}] columns = {{ {key} = "{fresh[0]}" }}'
        return f"{self._of(column)} is gone, it was {was}; new: {names}; if renamed, write in ratchet.toml: {line}"

    def new(self, column: str, kind: str) -> str:
        end = self._end(column) if self.policy == "strict" else "it is known from now on"
        return f"{self._of(column)} is new, it is {kind}; {end}"

    def _of(self, column: str) -> str:
        ours = self.used.get(column)
        return f"source {self.source}: column {column}" + (f" ({ours})" if ours not in (None, column) else "")

    def _end(self, column: str) -> str:
        if self.policy == "coerce" or (self.policy == "additive" and column not in self.used):
            return "nothing here depends on it" if column not in self.used else "it is absent from now on"
        softer = '"additive" or "coerce"' if self.policy == "strict" and column not in self.used else '"coerce"'
        return (
            f'schema_policy = "{self.policy}" holds the batch; mend the source, or write in ratchet.toml: '
            f"[sources.{self.source}] schema_policy = {softer}"
        )
