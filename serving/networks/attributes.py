"""What a request says of its user and events, in the codes of the served network.

`features.json` states the codes: 0 is missing, 1 unknown, then a category's values or a number's buckets in order. The
training's side of it is `model.features`, which serving does without; a test holds the two together.
"""

import bisect
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

Told = Mapping[str, str | int | float | bool | None]
"""By name, as JSON has it."""
NOTHING_TOLD: Told = MappingProxyType({})


@dataclass(frozen=True)
class Attribute:
    name: str
    of_user: bool
    values: dict[str, int] | None
    """Codes of a category; None for a number."""
    edges: tuple[float, ...] | None
    """Where a number's buckets begin, the first one's end aside; None: it has none."""

    @staticmethod
    def of(stated: Mapping[str, Any]) -> "Attribute":
        """Raises KeyError, TypeError or ValueError for what no export stated."""
        category = {"category": True, "number": False}[stated["kind"]]
        values = {str(value): code for code, value in enumerate(stated["values"], start=2)} if category else None
        edges = None if category or stated["edges"] is None else tuple(float(edge) for edge in stated["edges"])
        return Attribute(str(stated["name"]), {"user": True, "context": False}[stated["source"]], values, edges)

    def code(self, told: str | int | float | bool | None) -> int:
        if told is None:
            return 0
        text = told if isinstance(told, str) else json.dumps(told)  # as ingest keeps it
        if self.values is not None:
            return self.values.get(text, 1)
        try:
            number = float(text)
        except ValueError:
            return 1
        return 1 if self.edges is None or not math.isfinite(number) else bisect.bisect_right(self.edges, number) + 2


@dataclass(frozen=True)
class Attributes:
    """All that a network knows, in the order of its input."""

    known: tuple[Attribute, ...] = ()

    @staticmethod
    def read(stated: Sequence[Mapping[str, Any]]) -> "Attributes":
        return Attributes(tuple(Attribute.of(one) for one in stated))

    @property
    def of_user(self) -> list[str]:
        return [attribute.name for attribute in self.known if attribute.of_user]

    def row(self, *, user: Told, context: Told) -> list[int]:
        """The codes of one position."""
        return [a.code((user if a.of_user else context).get(a.name)) for a in self.known]
