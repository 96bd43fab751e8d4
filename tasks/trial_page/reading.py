"""Evidence as the ledger keeps it, read without trust in any key: each may be missing or null."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gate.trial import CHALLENGER, CHAMPION, TrialConfig
from relations.cells import suppressed
from stores.ledger_records import TrialRecord
from tasks.trial_page.wording import count

Evidence = Mapping[str, Any]
Ends = tuple[float, float]
COMPARE = "compare"


def figure(evidence: Evidence, name: str) -> float | None:
    value = evidence.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def ends(evidence: Evidence, name: str) -> Ends | None:
    """An interval; None unless both ends are known."""
    value = evidence.get(name)
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        return None
    found = [float(end) for end in value if isinstance(end, int | float) and math.isfinite(end)]
    return (found[0], found[1]) if len(found) == 2 else None


def mapping(evidence: Evidence, *path: str) -> Mapping[str, Any]:
    found: Any = evidence
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def rows(evidence: Evidence, name: str) -> list[Mapping[str, Any]]:
    value = evidence.get(name)
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list | tuple) else []


def texts(evidence: Evidence, name: str) -> list[str]:
    value = evidence.get(name)
    return [str(text) for text in value] if isinstance(value, list | tuple) else []


def text(evidence: Evidence, name: str) -> str:
    value = evidence.get(name)
    return "" if value is None else str(value)


def stage_of(evidence: Evidence) -> str:
    return text(evidence, "stage") or COMPARE


def leading(evidence: Evidence) -> str:
    """The challenger that the verdict is about."""
    return text(evidence, "challenger") or CHALLENGER


def comparison(evidence: Evidence, challenger: str) -> Evidence:
    """One challenger's part of a look: of the leading one the look itself; nothing where it was not compared."""
    apart = mapping(evidence, "comparisons", challenger)
    if apart:
        return apart
    return evidence if leading(evidence) == challenger and stage_of(evidence) == COMPARE else {}


@dataclass(frozen=True)
class Point:
    """One look at one challenger, for the pictures. Lifts are relative to the champion's rate.

    `needed`: the lift that would have promoted at this look, boundary · SE / R_A; None where the look did not test.
    """

    look: int
    users: float
    lift: float | None
    interval: Ends | None
    sequence: Ends | None
    needed: float | None
    z: float | None
    boundary: float | None
    information: float | None
    verdict: str


@dataclass(frozen=True)
class Told:
    """All that the page is made of. `looks`: every look so far, oldest first; `sha256_N` one digest each.

    Groups of fewer than `k` users show no figures.
    """

    record: TrialRecord
    config: TrialConfig
    looks: tuple[Evidence, ...]
    sha256_N: tuple[str, ...]
    k: int

    @staticmethod
    def of(record: TrialRecord, *, k: int) -> "Told":
        return Told(
            record=record,
            config=TrialConfig.from_json(record.config),
            looks=tuple(each.evidence for each in record.evidence),
            sha256_N=tuple(each.sha256 for each in record.evidence),
            k=k,
        )

    @property
    def newest(self) -> Evidence:
        return self.looks[-1] if self.looks else {}

    @property
    def compared(self) -> tuple[Evidence, ...]:
        """The looks at the comparison, the only ones that can promote."""
        return tuple(look for look in self.looks if stage_of(look) == COMPARE)

    @property
    def versions(self) -> dict[str, int]:
        """Arm → version."""
        challengers = {each.name: each.version for each in self.config.challengers}
        return {CHAMPION: self.config.champion_version, **challengers}

    def named(self, arm: str) -> str:
        version = self.versions.get(arm)
        return arm if version is None else f"{arm} v{version}"

    def users(self, amount: float | None) -> str:
        return count(None) if amount is None else str(suppressed(count(amount), users=round(amount), k=self.k))

    def points(self, challenger: str) -> list[Point]:
        """Looks with too few users to speak of are left out."""
        found = [_point(look, comparison(look, challenger)) for look in self.compared]
        return [point for point in found if point is not None and point.users >= max(1, self.k)]


def matured(part: Evidence) -> float | None:
    both = ends(part, "matured")
    return None if both is None else sum(both)


def needed_lift(part: Evidence) -> float | None:
    """The lift at which z would be the boundary: promotion asks for Δ ≥ boundary · SE, and the lift is Δ/R_A."""
    boundary, error, rate = (figure(part, name) for name in ("boundary", "standard_error", "champion_rate"))
    if boundary is None or error is None or not rate or rate < 0:
        return None
    return boundary * error / rate


def _point(look: Evidence, part: Evidence) -> Point | None:
    users = matured(part)
    if users is None:
        return None
    return Point(
        look=round(figure(look, "look") or 0),
        users=users,
        lift=figure(part, "lift"),
        interval=ends(part, "lift_interval"),
        sequence=ends(part, "lift_sequence"),
        needed=needed_lift(part),
        z=figure(part, "z"),
        boundary=figure(part, "boundary"),
        information=figure(part, "information"),
        verdict=text(part, "verdict"),
    )
