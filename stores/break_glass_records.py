"""What the ledger hands out of broken glass. Plain Python."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class BreakGlassRecord:
    """A version that people put in charge without a trial: asked for by one, confirmed by another, for some hours.

    `number` counts a ledger's from 1. `champion_epoch`: what it was asked against. `expires`: of the request, while
    nobody has confirmed it. `epoch`, `until`: of the reign that the confirmation made. `ended`: when the request was
    withdrawn or overtaken, or the reign was over.
    """

    number: int
    surface: str
    version: int
    digest: str
    champion_epoch: int
    hours: float
    asked: datetime
    asked_by: str
    reason: str
    expires: datetime
    confirmed: datetime | None = None
    confirmed_by: str = ""
    confirmed_reason: str = ""
    epoch: int | None = None
    until: datetime | None = None
    ended: datetime | None = None
    ended_by: str = ""
    ended_reason: str = ""

    @property
    def name(self) -> str:
        """As the audit and messages call it."""
        return f"break-glass {self.number}"

    @property
    def in_force(self) -> bool:
        """Its version reigns; also after `until`, as long as nobody has ended it."""
        return self.confirmed is not None and self.ended is None

    def waits(self, now: datetime) -> bool:
        """For a second person."""
        return self.confirmed is None and self.ended is None and now < self.expires
