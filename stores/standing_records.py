"""What the ledger hands out of online learning: standing approvals and the deltas under them. Plain Python."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class DeltaLimits:
    """What a standing approval allows.

    `deltas`: how many; `rows`: how many rows one may change; `relative_change`: the largest of a row, see
    `stores.deltas.patch`; `overlap`: the least share of the base's ten best that a delta must keep, on probe histories.
    """

    deltas: int
    rows: int
    relative_change: float
    overlap: float


@dataclass(frozen=True)
class DeltaFacts:
    """A delta bundle, as the ledger records it. `sequence` counts from 1 on its base; `recipe` is a SHA-256."""

    digest: str
    base_digest: str
    sequence: int
    recipe: str
    rows: int
    bytes: int
    relative_change: float


@dataclass(frozen=True)
class StandingRecord:
    """A person's approval, in advance, of deltas that one recipe makes on one base, within limits, until it expires.

    `number` counts a ledger's standing approvals from 1. `ended` is when it was withdrawn or its base ceased to be
    champion; expiry needs nobody's doing and is not written there.
    """

    number: int
    surface: str
    version: int
    base_digest: str
    champion_epoch: int
    recipe: str
    limits: DeltaLimits
    granted: datetime
    expires: datetime
    granted_by: str
    reason: str
    ended: datetime | None = None
    ended_by: str = ""
    ended_reason: str = ""
    deltas: tuple[DeltaFacts, ...] = ()

    def is_live(self, now: datetime) -> bool:
        return self.ended is None and now < self.expires


@dataclass(frozen=True)
class ServingDelta:
    """The newest delta that may serve in the champion's place until `expires`, on the home's clock."""

    digest: str
    base_digest: str
    sequence: int
    standing: int
    limits: DeltaLimits
    expires: datetime
