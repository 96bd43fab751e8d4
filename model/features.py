# ruff: noqa: N802 -- shape suffixes are part of the names
"""The feature spec: which attributes a network knows, and what each of their values is to it.

Code 0 is a missing value, 1 an unknown or rare one, 2 … the values of a category or the buckets of a number. The spec
is fitted on the training's events, travels with the weights and into the release's `features.json`, and never changes
in increments. A value that fewer than `k` distinct users have is rare, and a bucket holds at least `k` users: neither
the spec nor the weights tell of fewer.

Shapes: N events, A attributes, P pairs of a user and a value.
"""

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from model.attributes import Column
from model.sequences import Histories
from relations.errors import DataRejected, UsageError

MISSING, UNKNOWN, FIRST = 0, 1, 2


class Kind(StrEnum):
    CATEGORY = "category"
    NUMBER = "number"


class Source(StrEnum):
    USER = "user"
    """Of the user, as of each event; enters at every position."""
    CONTEXT = "context"
    """Of one event; enters at its position."""


@dataclass(frozen=True)
class FeatureOptions:
    """What a person declares in `[features]`: attributes of users and of events' contexts, by name."""

    user: Mapping[str, Kind] = field(default_factory=dict)
    context: Mapping[str, Kind] = field(default_factory=dict)
    buckets: int = 10
    """Quantiles that a number is cut at."""
    k: int = 5
    """Users who must have a value before it gets a code of its own."""

    def __post_init__(self) -> None:
        for name in ("user", "context"):
            object.__setattr__(self, name, {of: Kind(kind) for of, kind in getattr(self, name).items()})
        if both := sorted(set(self.user) & set(self.context)):
            raise UsageError(f"[features] {both[0]!r} is declared for user and context; rename one of the two")


@dataclass(frozen=True)
class Attribute:
    name: str
    source: Source
    kind: Kind
    values: tuple[str, ...] = ()
    """Of a category; value i has the code i + 2."""
    edges: tuple[float, ...] | None = None
    """Of a number; bucket b, code b + 2, is [edges[b − 1], edges[b]). None: too few users have any."""

    @property
    def size(self) -> int:
        """How many codes there are."""
        return FIRST + (
            len(self.values) if self.kind is Kind.CATEGORY else 0 if self.edges is None else len(self.edges) + 1
        )

    def code(self, text: str | None) -> int:
        if text is None:
            return MISSING
        if self.kind is Kind.CATEGORY:
            at = bisect.bisect_left(self.values, text)
            return at + FIRST if at < len(self.values) and self.values[at] == text else UNKNOWN
        number = _number(text)
        return UNKNOWN if self.edges is None or math.isnan(number) else bisect.bisect_right(self.edges, number) + FIRST

    def codes(self, column: Column) -> np.ndarray:
        """int32 [N]."""
        code = np.array([*(self.code(text) for text in column.values), MISSING], dtype=np.int32)
        return np.asarray(code[column.place_N])


@dataclass(frozen=True)
class FeatureSpec:
    """Attributes by name in ascending order, as Hugging Face's `config.json` has their sizes."""

    attributes: tuple[Attribute, ...] = ()

    @staticmethod
    def fit(histories: Histories, options: FeatureOptions) -> "FeatureSpec":
        """Raises DataRejected for a declared attribute that no event has: a typing error would train a constant."""
        declared = [(name, Source.USER, kind) for name, kind in options.user.items()]
        declared += [(name, Source.CONTEXT, kind) for name, kind in options.context.items()]
        user_N = histories.user_N()
        fitted = []
        for name, source, kind in sorted(declared):
            column = histories.attributes.get(name)
            if column is None or not (column.place_N >= 0).any():
                known = ", ".join(sorted(histories.attributes)) or "none"
                raise DataRejected(f"[features] {source.value} attribute {name!r}: no event has it; known: {known}")
            said_N = column.place_N >= 0
            pair_P = np.unique(user_N[said_N] * len(column.values) + column.place_N[said_N])
            user_P, value_P = np.divmod(pair_P, len(column.values))
            if kind is Kind.CATEGORY:
                users = np.bincount(value_P, minlength=len(column.values))
                values = tuple(str(value) for value in column.values[users >= options.k])
                fitted.append(Attribute(name, source, kind, values=values))
            else:
                number_P = np.array([_number(text) for text in column.values])[value_P]
                edges = _edges(user_P, number_P, buckets=options.buckets, k=options.k)
                fitted.append(Attribute(name, source, kind, edges=edges))
        return FeatureSpec(tuple(fitted))

    @property
    def sizes(self) -> dict[str, int]:
        return {attribute.name: attribute.size for attribute in self.attributes}

    @property
    def lasting_A(self) -> np.ndarray:
        """True for what is of the user, and so holds before the first event too."""
        return np.array([attribute.source is Source.USER for attribute in self.attributes], dtype=bool)

    def codes(self, histories: Histories) -> np.ndarray:
        """int32 [N, A]."""
        code_NA = np.zeros((len(histories), len(self.attributes)), dtype=np.int32)
        for place, attribute in enumerate(self.attributes):
            if attribute.name in histories.attributes:
                code_NA[:, place] = attribute.codes(histories.attributes[attribute.name])
        return code_NA

    def row(self, *, user: Mapping[str, str], context: Mapping[str, str]) -> list[int]:
        """The codes of one position."""
        return [
            attribute.code((user if attribute.source is Source.USER else context).get(attribute.name))
            for attribute in self.attributes
        ]

    def stated(self) -> list[dict[str, Any]]:
        """As JSON, for `features.json` and beside the weights."""
        return [
            {"name": a.name, "source": a.source.value, "kind": a.kind.value}
            | ({"values": list(a.values)} if a.kind is Kind.CATEGORY else {"edges": a.edges and list(a.edges)})
            for a in self.attributes
        ]

    @staticmethod
    def read(stated: Sequence[Mapping[str, Any]]) -> "FeatureSpec":
        """Raises KeyError, TypeError or ValueError for anything that `stated` did not make."""
        return FeatureSpec(
            tuple(
                Attribute(
                    str(one["name"]),
                    Source(one["source"]),
                    Kind(one["kind"]),
                    values=tuple(one.get("values", ())),
                    edges=None if one.get("edges") is None else tuple(one["edges"]),
                )
                for one in stated
            )
        )


PLAIN = FeatureSpec()


def _number(text: str) -> float:
    """NaN for what is no finite number."""
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def _edges(user_P: np.ndarray, number_P: np.ndarray, *, buckets: int, k: int) -> tuple[float, ...] | None:
    """Quantiles over users, with those taken away that leave fewer than `k` users between them."""
    is_number = ~np.isnan(number_P)
    user_P, number_P = user_P[is_number], number_P[is_number]
    if len(np.unique(user_P)) < max(k, 1):
        return None
    edges = np.unique(np.quantile(number_P, np.arange(1, buckets) / buckets, method="higher"))
    while len(edges):
        bucket_P = np.searchsorted(edges, number_P, side="right")
        users = np.bincount(np.unique(np.stack([bucket_P, user_P]), axis=1)[0], minlength=len(edges) + 1)
        least = int(users.argmin())
        if users[least] >= k:
            break
        beside = [at for at in (least - 1, least + 1) if 0 <= at <= len(edges)]
        edges = np.delete(edges, min(least, min(beside, key=lambda at: users[at])))
    return tuple(float(edge) for edge in edges)
