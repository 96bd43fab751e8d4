"""One trial: the verdict, what can be done about it and by whom, then everything that it rests on."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from relations.errors import UsageError
from serving.console.pages.elements import markup
from serving.console.pages.links import Links
from serving.console.pages.steps import Steps
from serving.console.pages.waits import shown
from serving.console.pages.words import STEPS
from serving.console.place import Place
from stores.ledger_records import TrialRecord
from tasks.look_runs import LookRun, look_runs
from tasks.trial_page.headline import title, verdict, waiting, where
from tasks.trial_page.page import trial_parts
from tasks.trial_page.reading import Told


@dataclass(frozen=True)
class Arm:
    """One side of a trial, with its pages in MLflow; those are empty where it does not run."""

    name: str
    version: int
    digest: str
    run: str
    registered: str


@dataclass(frozen=True)
class Pictures:
    """The parts of the evidence page, as markup. `sentence`: who or what has to act now."""

    title: str
    where: str
    verdict: str
    sentence: str
    links: str
    sections: str


def trial_view(place: Place, trial_id: str) -> dict[str, Any]:
    """Raises UsageError for an unknown trial."""
    trial, now = place.ledger.trial(trial_id), place.now()
    links = Links.of(place)
    pictures, unreadable = _pictures(place, trial)
    return {
        "trial": trial,
        "waits": shown(place, trial, now=now).waits,
        "steps": Steps.of(place, trial, now=now),
        "look": trial.evidence[-1] if trial.evidence else None,
        "pictures": pictures,
        "unreadable": unreadable,
        "arms": _arms(place, trial, links),
        "runs": [(each, links.flow_run(each.flow_run)) for each in _newest_runs(place, trial)],
        "links": links,
        "history": _history(place, trial),
    }


def _pictures(place: Place, trial: TrialRecord) -> tuple[Pictures | None, str]:
    """(the evidence, or None and why there is none): people can end a trial whose evidence nobody can read."""
    try:
        told = Told.of(trial, k=place.settings.privacy.k)
    except UsageError as error:
        return None, str(error)
    contents, sections = trial_parts(told)
    sentence, _ = waiting(told)
    return (
        Pictures(
            title=title(told),
            where=markup(where(told)),
            verdict=markup(verdict(told)),
            sentence=sentence,
            links=markup(contents),
            sections=markup(*sections),
        ),
        "",
    )


def _arms(place: Place, trial: TrialRecord, links: Links) -> list[Arm]:
    named = [("champion", trial.champion, trial.champion_digest)]
    named += [(each.name, each.version, each.digest) for each in trial.challengers if not trial.is_aa]
    known = {record.version: record for record in place.ledger.versions()}
    return [
        Arm(
            name,
            version,
            digest,
            links.run(known[version].run_id) if version in known else "",
            links.version(version),
        )
        for name, version, digest in named
    ]


def _newest_runs(place: Place, trial: TrialRecord, most: int = 10) -> list[LookRun]:
    """Of Prefect, newest look first."""
    return list(reversed(look_runs(place.home, trial.id)))[:most]


@dataclass(frozen=True)
class Step:
    """An entry of the audit that is about the trial."""

    time: datetime
    actor: str
    action: str
    said: str


def _history(place: Place, trial: TrialRecord) -> list[Step]:
    """What people and the gate did, newest first; looks are in the pictures."""
    return [
        Step(
            datetime.fromisoformat(entry.time),
            entry.actor,
            STEPS.get(entry.action, entry.action.replace("_", " ")),
            str(entry.payload.get("reason", "")),
        )
        for entry in reversed(place.ledger.audit())
        if entry.subject == f"trial {trial.id}" and entry.action != "record_evidence"
    ]
