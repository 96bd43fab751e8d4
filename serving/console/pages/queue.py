"""The queue: what waits for a person first, then what runs by itself, then who serves and what is wrong."""

from datetime import datetime
from typing import Any

from serving.console.pages.glass import asked
from serving.console.pages.waits import shown
from serving.console.place import Place
from stores.ledger_records import VersionRecord


def queue_view(place: Place, *, now: datetime | None = None) -> dict[str, Any]:
    """`now`: the home's clock."""
    ledger, now = place.ledger, now or place.now()
    live = [shown(place, trial, now=now) for trial in ledger.trials() if trial.is_open or trial.is_watched]
    # What ends soonest is first.
    waiting = sorted(
        (one for one in live if one.waits.by_person), key=lambda one: one.waits.until or one.waits.since or now
    )
    champion = ledger.champion()
    history = ledger.history()
    glasses = ledger.break_glasses()
    return {
        "alarms": place.alarms.all(),
        "requests": asked(place, glasses, now=now),
        "broken": [glass for glass in glasses if glass.in_force],
        "waiting": waiting,
        "running": [one for one in live if one.trial.is_open and not one.waits.by_person],
        "watched": [one for one in live if one.trial.is_watched],
        "champion": champion,
        "reign": history[-1] if champion is not None else None,
        "age": None if champion is None else now - champion.since,
        "first": _first(place) if champion is None else None,
    }


def _first(place: Place) -> VersionRecord | None:
    """Who may become the first champion."""
    passed = [record for record in place.ledger.versions() if record.offline_passed]
    return passed[-1] if passed else None
