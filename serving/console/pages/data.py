"""Whether data come, how new they are, and what was held back and why. From what the flows have published."""

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from relations.errors import DataRejected, UsageError
from serving.console.place import Place
from stores import facts
from stores.facts import FATES, Facts
from stores.home import Home

KINDS = ("events", "items", "users", "exposures", "feedback")
MOST_COUNTED = 10_000
"""Files of a landing folder; more are told as so many or more."""
_PAGE = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]*")
TAIL_BYTES = 1 << 18
MOST_DECISIONS = 10


@dataclass(frozen=True)
class Waiting:
    """Landing files of one kind that no ingest has taken yet. `more`: there are more than were counted."""

    kind: str
    files: int
    more: bool
    oldest: datetime | None
    """By the files' own times: the wall clock's, in a simulation too."""


@dataclass(frozen=True)
class Decision:
    """What was decided about training. `reasons`: what spoke for it or against it."""

    time: datetime
    action: str
    because: str


def data_view(place: Place) -> dict[str, Any]:
    """Reads no table: it answers at once however many deliveries there were."""
    found, problem = _facts(place)
    quarantined = None
    if found is not None and found.rows["delivered"]:
        quarantined = found.rows["quarantined"] / found.rows["delivered"]
    return {
        "facts": found,
        "unreadable": problem,
        "fates": FATES,
        "arrivals": [] if found is None else [(each, page_name(each.page)) for each in found.arrivals],
        "broken": [] if found is None else [(each, page_name(each.page)) for each in found.broken],
        "quarantined": quarantined,
        "landing": [_waiting(place.home, kind) for kind in KINDS],
        "decisions": decisions(place.home),
        "wall": place.wall(),
    }


def page_name(page: str) -> str:
    """The name of a Data Docs page in addresses; empty where there is none."""
    path = PurePosixPath(page)
    return path.stem if path.suffix == ".html" and path.parent.name == "data-docs" else ""


def docs_page(place: Place, name: str) -> bytes:
    """A delivery's page, as the ingest wrote it. Raises UsageError where there is none of this name."""
    if not _PAGE.fullmatch(name):
        raise UsageError(f"{name[:80]!r}: not the name of a Data Docs page")
    try:
        return (place.home.reports / "data-docs" / f"{name}.html").read_bytes()
    except OSError:
        raise UsageError(f"{name}: no such Data Docs page; it was deleted, or lies on another machine") from None


def decisions(home: Home) -> list[Decision]:
    """The newest decisions about training, newest first; lines that say none are passed over."""
    try:
        with home.decisions.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = log.read().splitlines()
    except OSError:
        return []
    found = [each for line in reversed(lines) if (each := _decision(line)) is not None]
    return found[:MOST_DECISIONS]


def _facts(place: Place) -> tuple[Facts | None, str]:
    try:
        return facts.read(place.home.facts), ""
    except DataRejected as error:
        return None, str(error)


def _waiting(home: Home, kind: str) -> Waiting:
    times: list[float] = []
    with suppress(FileNotFoundError), os.scandir(home.landing / kind) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name.endswith(".part") or not entry.is_file():
                continue
            if len(times) == MOST_COUNTED:
                return Waiting(kind, MOST_COUNTED, more=True, oldest=_time(min(times)))
            with suppress(FileNotFoundError):  # an ingest has taken it meanwhile
                times.append(entry.stat().st_mtime)
    return Waiting(kind, len(times), more=False, oldest=_time(min(times)) if times else None)


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _decision(line: bytes) -> Decision | None:
    try:
        stated = json.loads(line)
        return Decision(datetime.fromisoformat(stated["time"]), str(stated["action"]), str(stated["because"]))
    except (ValueError, KeyError, TypeError):
        return None
