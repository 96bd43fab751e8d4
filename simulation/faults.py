"""Rows that the ingest door must catch: broken ones, and the same row twice."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from simulation.parameters import Parameters

KINDS: tuple[str, ...] = ("behaviour", "item", "time", "value")
"""Which column of a broken row is wrong."""


@dataclass(frozen=True)
class Faults:
    """Positions in a day's rows. Broken rows are extra: copies of good rows with one column spoiled."""

    broken: tuple[tuple[int, str], ...]
    """(row that it is a copy of, kind)."""
    twice: tuple[int, ...]
    """Rows that come a second time, right after the first."""

    @classmethod
    def draw(cls, rows: int, parameters: Parameters, rng: np.random.Generator) -> "Faults":
        if rows == 0:
            return cls(broken=(), twice=())
        at = np.sort(rng.integers(0, rows, size=round(rows * parameters.dirty)))
        twice = np.sort(rng.choice(rows, size=round(rows * parameters.duplicate), replace=False))
        return cls(
            broken=tuple((int(row), KINDS[number % len(KINDS)]) for number, row in enumerate(at)),
            twice=tuple(twice.tolist()),
        )

    def counts(self) -> dict[str, int]:
        return {kind: sum(broken == kind for _, broken in self.broken) for kind in KINDS}


def deliver(rows: list[dict[str, Any]], faults: Faults) -> list[dict[str, Any]]:
    """`rows` with the broken and the repeated rows among them."""
    after: dict[int, list[dict[str, Any]]] = {}
    for row in faults.twice:
        after.setdefault(row, []).append(dict(rows[row]))
    for row, kind in faults.broken:
        after.setdefault(row, []).append(_spoiled(rows[row], kind))
    delivered = []
    for number, good in enumerate(rows):
        delivered.append(good)
        delivered.extend(after.get(number, ()))
    return delivered


def _spoiled(row: dict[str, Any], kind: str) -> dict[str, Any]:
    if kind == "behaviour":
        return {**row, "behaviour": "hover"}
    if kind == "item":
        return {**row, "item_id": None}
    if kind == "time":
        return {**row, "event_time": "yesterday"}
    # A rating is the behaviour that cannot do without its value.
    return {**row, "behaviour": "rating", "value": float("nan")}
