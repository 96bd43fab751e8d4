"""The trial's loop: take in what arrived, look at the present stage, go on to the next one, say what is waited for."""

from datetime import datetime
from typing import Any

from prefect import flow
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.runtime import flow_run

from flows.opening import open_home
from flows.review import keep_reviews
from flows.runs import settle_in
from flows.submitting import submitted_by
from stores.clock import home_now
from stores.home import Home
from stores.ledger import Ledger
from stores.settings import Settings
from tasks.deciding import end_overdue, mirror_decision
from tasks.ingesting import ingest_landing
from tasks.killing import settle_kills
from tasks.linking import page_link
from tasks.look_runs import LookRun, note_look_run
from tasks.notifying import notify_new
from tasks.refreshing import publish_facts, refresh_serving
from tasks.tracking_looks import track_look
from tasks.trial_page.summary import summary_markdown
from tasks.trials import look_at_trial, newest_open_trial, start_trial


@flow(name="trial", log_prints=False, on_running=[settle_in])
def trial(
    home: str,
    config: str | None = None,
    trial: str | None = None,
    start: bool = False,
    now: datetime | None = None,
) -> dict[str, Any]:
    """Look at `trial`, or at the open one. With `start` and none open, the candidate's trial begins, if there is one.

    A look that nobody asked for by name is recorded only where it says something new. Promotes nobody: a PROMOTE waits
    for a person.
    """
    place, settings = open_home(home, config)
    try:
        return _take_step(place, settings, trial=trial, start=start, at=now or home_now(place, settings))
    finally:
        mirror_decision(place, settings)
        keep_reviews(place, settings, config=config)
        notify_new(place, settings)


def _take_step(place: Home, settings: Settings, *, trial: str | None, start: bool, at: datetime) -> dict[str, Any]:
    ledger = Ledger.of(place, settings)
    end_overdue(place, settings, now=at)
    settle_kills(place, ledger, now=at)
    ingest_landing(home=place, settings=settings, now=at)
    refresh_serving(place, settings)
    going_on = newest_open_trial(ledger)
    if trial is None and going_on is not None and going_on.killed:
        return _nothing(f"{going_on.id} was killed, and waits to be stopped")
    chosen = trial or (None if going_on is None else going_on.id)
    if chosen is None:
        candidate = ledger.candidate()
        if not start or candidate is None:
            return _nothing(
                "no open trial" if candidate is None else f"no open trial; v{candidate.version} waits for one"
            )
        records = ledger.trials()
        watched = next((record for record in records if record.is_watched), None)
        if watched is not None:
            return _nothing(
                f"{watched.id} is {watched.state}; v{candidate.version} waits until the promotion is believed"
            )
        if any(
            each.digest == candidate.digest for record in records for each in record.challengers if not record.is_aa
        ):
            return _nothing(f"v{candidate.version} has had its trial; newer data must come first")
        begun = start_trial(place, settings, actor=submitted_by("schedule"), now=at)
        return {**_nothing(f"{begun['trial_id']} began"), "trial_id": begun["trial_id"]}
    evidence = look_at_trial(place, settings, trial_id=chosen, now=at, scheduled=trial is None)
    publish_facts(place, settings)  # those of the refresh knew nothing of this look
    create_markdown_artifact(summary_markdown(evidence), key=chosen, description=evidence["verdict"])
    if evidence["recorded"]:
        note_look_run(place, chosen, LookRun(ledger.trial(chosen).looks, str(flow_run.get_id())))
        track_look(place, settings, evidence)
        page = page_link(place, settings, trial=chosen)
        create_link_artifact(page, key=f"{chosen}-evidence", link_text="evidence page")
    return evidence


def _nothing(reason: str) -> dict[str, Any]:
    return {"verdict": None, "reasons": [reason]}
