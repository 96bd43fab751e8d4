"""The home's clock: the wall's, or in a simulation the last simulated time that was told."""

import os
from datetime import UTC, datetime

from stores.home import Home
from stores.settings import Settings


def home_now(home: Home, settings: Settings) -> datetime:
    """UTC. A home with `clock = "request"` stands at the time that its simulation last set; else the wall clock."""
    if settings.home.clock == "request":
        try:
            return datetime.fromisoformat((home.run / "clock").read_text(encoding="utf-8").strip())
        except FileNotFoundError:
            pass
    return datetime.now(UTC)


def set_clock(home: Home, now: datetime) -> None:
    """Move a simulation home's clock."""
    temporary = home.run / f"clock.{os.getpid()}.part"
    temporary.write_text(now.isoformat(), encoding="utf-8")
    temporary.replace(home.run / "clock")
