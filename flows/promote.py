"""A person's approval, as a flow: the champion changes, and the run keeps who decided on what."""

from datetime import datetime
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.opening import open_home
from stores.clock import home_now
from stores.home import Home
from stores.settings import Settings
from tasks.deciding import Decided, approve_trial, decision_markdown

WAIT_SECONDS = 10.0


@task(name="approve", cache_policy=NO_CACHE)
def approve(home: Home, settings: Settings, *, trial: str, actor: str, reason: str, now: datetime) -> Decided:
    return approve_trial(home, settings, trial, actor=actor, reason=reason, now=now, wait_seconds=WAIT_SECONDS)


@flow(name="promote")
def promote(
    home: str, trial: str, actor: str, reason: str, config: str | None = None, now: datetime | None = None
) -> dict[str, Any]:
    """Promote the challenger of `trial`. Run again, it changes nothing and answers the same."""
    place, settings = open_home(home, config)
    decided = approve(place, settings, trial=trial, actor=actor, reason=reason, now=now or home_now(place, settings))
    create_markdown_artifact(decision_markdown(decided), key="promote", description=f"v{decided.champion.version}")
    return decided.as_json()
