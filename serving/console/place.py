"""Where the console stands: one home, its settings and its ledger. What every page is made from."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from serving.console.alarms import Alarms
from stores.clock import home_now
from stores.home import Home
from stores.ledger import Ledger
from stores.settings import Settings


def wall_clock() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Place:
    """`wall` is the clock of people, sessions and codes; `now()` that of trials, which in a simulation is another."""

    home: Home
    settings: Settings
    ledger: Ledger
    wall: Callable[[], datetime] = wall_clock
    alarms: Alarms = field(default_factory=Alarms, compare=False)

    @staticmethod
    def of(home: Home, settings: Settings, *, wall: Callable[[], datetime] = wall_clock) -> "Place":
        return Place(home, settings, Ledger.of(home, settings), wall)

    def now(self) -> datetime:
        return home_now(self.home, self.settings)
