"""The trial's loop: take in what arrived, look, and say what is waited for."""

from datetime import datetime
from typing import Any

from prefect import flow
from prefect.artifacts import create_link_artifact, create_markdown_artifact

from flows.opening import open_home
from flows.runs import settle_in
from stores.clock import home_now
from stores.ledger import Ledger
from tasks.ingesting import ingest_landing
from tasks.refreshing import refresh_serving
from tasks.tracking import track_look
from tasks.trials import look_at_trial, newest_open_trial, start_trial, summary_markdown


@flow(name="trial", log_prints=False, on_running=[settle_in])
def trial(
    home: str,
    config: str | None = None,
    trial: str | None = None,
    start: bool = False,
    now: datetime | None = None,
) -> dict[str, Any]:
    """Look at `trial`, or at the open one. With `start` and none open, the candidate's trial begins, if there is one.

    Promotes nobody: a PROMOTE waits for a person.
    """
    place, settings = open_home(home, config)
    at = now or home_now(place, settings)
    ledger = Ledger.of(place, settings)
    ledger.expire(at)
    ingest_landing(home=place, settings=settings, now=at)
    refresh_serving(place, settings)
    chosen = trial or newest_open_trial(ledger)
    if chosen is None:
        candidate = ledger.candidate()
        if not start or candidate is None:
            reason = "no open trial" if candidate is None else f"no open trial; v{candidate.version} waits for one"
            return {"verdict": None, "reasons": [reason]}
        if any(record.challenger_digest == candidate.digest for record in ledger.trials()):
            return {"verdict": None, "reasons": [f"v{candidate.version} has had its trial; newer data must come first"]}
        begun = start_trial(place, settings, challenger=None, actor="schedule", now=at)
        return {"verdict": None, "reasons": [f"{begun['trial_id']} began"], "trial_id": begun["trial_id"]}
    evidence = look_at_trial(place, settings, trial_id=chosen, now=at)
    track_look(place, settings, evidence)
    create_markdown_artifact(summary_markdown(evidence), key=chosen, description=evidence["verdict"])
    create_link_artifact(f"file://{evidence['report']}", key=f"{chosen}-evidence", link_text="evidence page")
    return evidence
