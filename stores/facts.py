"""What the flows tell serving and the console of the data and of trials: how new the data are, what became of a day's
rows and why some were held back, whether a trial is held, and which states trials are in.

A JSON file that is replaced whole, so that nobody has to read tables for it. Standard library only: serving reads it.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from relations.errors import DataRejected, DependencyFailed
from stores.ledger_records import stamp, unstamp

FORMAT = 1
FATES = ("delivered", "accepted", "quarantined", "duplicate", "late")


@dataclass(frozen=True)
class Hold:
    """The newest looks at the open `trial` were all HOLD; `since` the first of them."""

    trial: str
    since: datetime


@dataclass(frozen=True)
class Arrival:
    """The newest delivery of rows of one `kind` by one `source`, and what became of them.

    `page`: of its Data Docs, relative to the home; empty where it has none.
    """

    source: str
    kind: str
    delivery_id: str
    received: datetime
    state: str
    rows: Mapping[str, int]
    page: str


@dataclass(frozen=True)
class Broken:
    """An expectation that `rows` of a day broke, with a delivery to look at and its page, as `Arrival` has it."""

    expectation: str
    column: str
    rows: int
    delivery_id: str
    page: str


@dataclass(frozen=True)
class Facts:
    """Of the moment `published`, on the home's clock.

    `watermark`: the newest accepted event's time, None without events. `rows`: delivered rows and what became of them,
    over the deliveries received in the 24 hours before. `trial_states`: state of a trial → when the newest of those
    that are in it now came to it or was looked at; so for how long a promotion bakes, and when a champion was last
    rolled back. `arrivals`: of each source and kind, newest first. `broken`: over the same deliveries as `rows`, most
    rows first.
    """

    published: datetime
    events_version: int
    watermark: datetime | None
    rows: Mapping[str, int]
    hold: Hold | None = None
    trial_states: Mapping[str, datetime] = field(default_factory=dict)
    arrivals: tuple[Arrival, ...] = ()
    broken: tuple[Broken, ...] = ()


def publish(path: Path, facts: Facts) -> None:
    """Replace the file at `path` atomically. Raises DependencyFailed where the disk refuses; the former one stays."""
    stated = {
        "format": FORMAT,
        "published": stamp(facts.published),
        "events_version": facts.events_version,
        "watermark": None if facts.watermark is None else stamp(facts.watermark),
        "rows": {fate: facts.rows[fate] for fate in FATES},
        "hold": None if facts.hold is None else {"trial": facts.hold.trial, "since": stamp(facts.hold.since)},
        "trial_states": {state: stamp(since) for state, since in facts.trial_states.items()},
        "arrivals": [{**asdict(each), "received": stamp(each.received)} for each in facts.arrivals],
        "broken": [asdict(each) for each in facts.broken],
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(stated), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DependencyFailed(f"{path}: cannot publish the facts: {error.strerror}; free the disk") from error


def read(path: Path) -> Facts | None:
    """None where nothing was published yet. Raises DataRejected for a file that does not hold facts."""
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DependencyFailed(f"{path}: not readable: {error.strerror}; check its permissions") from error
    except ValueError as error:
        raise _rejected(path, f"not JSON ({error})") from error
    try:
        if stated["format"] != FORMAT:
            raise _rejected(path, f"format {stated['format']!r}, this version reads {FORMAT}")
        return _parsed(stated)
    except (KeyError, TypeError, ValueError) as error:
        raise _rejected(path, f"incomplete ({error!r})") from error


def _parsed(stated: Mapping[str, Any]) -> Facts:
    held, watermark = stated["hold"], stated["watermark"]
    return Facts(
        published=_time(stated["published"]),
        events_version=int(stated["events_version"]),
        watermark=None if watermark is None else _time(watermark),
        rows=_rows(stated["rows"]),
        hold=None if held is None else Hold(str(held["trial"]), _time(held["since"])),
        # A file of an earlier version lacks these.
        trial_states={str(state): _time(since) for state, since in dict(stated.get("trial_states", {})).items()},
        arrivals=tuple(
            Arrival(**{**each, "received": _time(each["received"]), "rows": _rows(each["rows"])})
            for each in stated.get("arrivals", ())
        ),
        broken=tuple(Broken(**each) for each in stated.get("broken", ())),
    )


def _rows(stated: Mapping[str, Any]) -> dict[str, int]:
    return {fate: int(stated[fate]) for fate in FATES}


def _time(text: str) -> datetime:
    time = unstamp(text)
    if time.tzinfo is None:
        raise ValueError(f"{text}: a time without zone")
    return time


def _rejected(path: Path, what: str) -> DataRejected:
    return DataRejected(f"{path}: {what}; delete it, the next ingest writes it anew")
