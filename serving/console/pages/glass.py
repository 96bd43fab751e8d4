"""Breaking the glass: what is in force or waits for whom, what may be asked for now, and every request so far.

The ledger decides by its own rules when a step is taken; this only foretells it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from serving.console.pages.steps import not_yours
from serving.console.pages.words import word_of
from serving.console.place import Place
from serving.console.rendering import Frame
from stores.break_glass import MOST_HOURS, USUAL_HOURS
from stores.break_glass_records import BreakGlassRecord
from stores.bundle import is_complete
from stores.champion import former_reign
from stores.ledger_records import Reign, TrialRecord, VersionRecord
from stores.people import Person, Role, same_person


@dataclass(frozen=True)
class Asked:
    """A request that waits. `trained_by`: who had its version trained; "" for nobody known. `left`: until it lapses.

    `others`: who can confirm it; None in a simulation, where anybody else can.
    """

    record: BreakGlassRecord
    trained_by: str
    others: tuple[str, ...] | None
    left: timedelta

    @property
    def whom(self) -> str:
        """For whom it waits."""
        if self.others is None:
            return f"anybody but {self.record.asked_by}"
        return " or ".join(self.others) if self.others else "an approver whom there is not yet: an admin gives the role"

    def why_not(self, frame: Frame) -> str:
        """Why the person of this page cannot confirm it; empty where they can."""
        name = frame.person.name if frame.person else ""
        if same_person(name, self.record.asked_by):
            return "you asked for it, and another person confirms"
        if same_person(name, self.trained_by):
            return f"you had v{self.record.version} trained, and nobody approves their own; ask another approver"
        return not_yours("confirm", frame)


@dataclass(frozen=True)
class Choice:
    """A version that could be asked for. `trained_by`: who cannot ask for it."""

    version: int
    said: str
    trained_by: str

    def why_not(self, frame: Frame) -> str:
        """Why the person of this page cannot ask for it; empty where they can."""
        mine = frame.person is not None and same_person(frame.person.name, self.trained_by)
        return "you had it trained" if mine else ""


@dataclass(frozen=True)
class Past:
    """A request as the list of all shows it. `state`: see `pages.words`."""

    record: BreakGlassRecord
    state: str


def glass_view(place: Place) -> dict[str, Any]:
    ledger, now = place.ledger, place.now()
    records, history, trials = ledger.break_glasses(), ledger.history(), ledger.trials()
    champion = ledger.champion()
    return {
        "champion": champion,
        "former": former_reign(history),
        "asked": next(iter(asked(place, records, now=now)), None),
        "broken": next((each for each in records if each.in_force), None),
        "choices": [] if champion is None else _choices(place, champion.digest, history=history, trials=trials),
        "watched": next((each for each in trials if each.is_watched), None),
        "open_trials": [each for each in trials if each.is_open],
        "past": [Past(each, _state(each, now)) for each in reversed(records)],
        "usual_hours": USUAL_HOURS,
        "most_hours": MOST_HOURS,
    }


def asked(place: Place, records: Sequence[BreakGlassRecord], *, now: datetime) -> list[Asked]:
    """The requests that wait for a second person."""
    waiting = [each for each in records if each.waits(now)]
    people = place.ledger.people() if waiting else ()
    return [_asked(place, each, people, now=now) for each in waiting]


def _asked(place: Place, record: BreakGlassRecord, people: Sequence[Person], *, now: datetime) -> Asked:
    trained_by = place.ledger.version(record.version).submitter
    others = tuple(
        person.name
        for person in people
        if person.has(Role.APPROVER) and not any(same_person(person.name, who) for who in (record.asked_by, trained_by))
    )
    return Asked(record, trained_by, None if place.home.simulation else others, record.expires - now)


def _choices(place: Place, serving: str, *, history: Sequence[Reign], trials: Sequence[TrialRecord]) -> list[Choice]:
    """Versions with a whole bundle that do not serve now, newest first."""
    candidate = place.ledger.candidate()
    newest = None if candidate is None else candidate.version
    return [
        Choice(record.version, _said(record, candidate=newest, history=history, trials=trials), record.submitter)
        for record in reversed(place.ledger.versions())
        if record.digest != serving and is_complete(place.home.releases, record.digest)
    ]


def _said(
    record: VersionRecord, *, candidate: int | None, history: Sequence[Reign], trials: Sequence[TrialRecord]
) -> str:
    """What a line of a list has room for: how far the version came."""
    told = [record.mode]
    if record.version == candidate:
        told.append("candidate")
    if any(reign.digest == record.digest for reign in history):
        told.append("was champion")
    real = (trial for trial in reversed(trials) if not trial.is_aa)
    met = next((trial for trial in real if any(each.digest == record.digest for each in trial.challengers)), None)
    if met is not None:
        told.append(f"{word_of(met.state).said} in {met.id}")
    if not record.offline_passed:
        told.append("failed the offline check")
    return ", ".join(told)


def _state(record: BreakGlassRecord, now: datetime) -> str:
    if record.in_force:
        return "in_force"
    if record.confirmed is not None:
        return "over"
    return "asked" if record.waits(now) else "unconfirmed"
