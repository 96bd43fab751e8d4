"""The watch over a promotion: served at last, quiet for long enough, or taken back with nobody awake."""

from datetime import datetime
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import deployment

from flows.deciders import refuse_bare_name
from flows.opening import open_home
from flows.runs import settle_in
from stores.clock import home_now
from stores.home import Home
from stores.ledger import Ledger
from stores.settings import Settings
from tasks.baking import Watched, believe_promotion, watch_markdown, watch_promotion, watched_trial
from tasks.deciding import mirror_decision
from tasks.ingesting import ingest_landing
from tasks.notifying import notify_new
from tasks.refreshing import publish_facts, refresh_serving

WAIT_SECONDS = 10.0


@task(name="watch promotion", cache_policy=NO_CACHE)
def watch(home: Home, settings: Settings, *, trial: str, actor: str, reason: str, now: datetime) -> Watched:
    if actor or reason:
        return believe_promotion(home, settings, trial, actor=actor, reason=reason, now=now, wait_seconds=WAIT_SECONDS)
    return watch_promotion(home, settings, trial, now=now, wait_seconds=WAIT_SECONDS)


@flow(name="bake", on_running=[settle_in])
def bake(
    home: str,
    config: str | None = None,
    trial: str | None = None,
    actor: str = "",
    reason: str = "",
    now: datetime | None = None,
) -> dict[str, Any]:
    """Take `trial`, or the promotion that is watched, one step. Where nothing is watched, it does nothing.

    `actor`, `reason`: a person's word that takes the step where data are too few to tell.
    """
    place, settings = open_home(home, config)
    refuse_bare_name(place, actor=actor, deployed=deployment.get_id() is not None)
    at = now or home_now(place, settings)
    chosen = trial
    if chosen is None:
        found = watched_trial(Ledger.of(place, settings))
        if found is None:
            notify_new(place, settings)
            return {"trial": None, "state": None, "reasons": ["no promotion is watched"]}
        chosen = found.id
    ingest_landing(home=place, settings=settings, now=at)
    refresh_serving(place, settings)
    watched = watch(place, settings, trial=chosen, actor=actor, reason=reason, now=at)
    publish_facts(place, settings)
    mirror_decision(place, settings)
    notify_new(place, settings)
    create_markdown_artifact(watch_markdown(watched), key=f"{chosen}-bake", description=str(watched.state))
    return watched.as_json()
