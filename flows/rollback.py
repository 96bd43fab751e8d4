"""The way back, as a flow. The command line takes the same step without Prefect."""

from datetime import datetime
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.deciders import decider
from flows.opening import open_home
from stores.clock import home_now
from stores.home import Home
from stores.ledger import Ledger
from stores.settings import Settings
from tasks.deciding import Decided, decision_markdown, rollback_champion
from tasks.notifying import notify_new

WAIT_SECONDS = 10.0


@task(name="roll back", cache_policy=NO_CACHE)
def roll_back(
    home: Home, settings: Settings, *, actor: str, reason: str, now: datetime, expected_epoch: int | None
) -> Decided:
    return rollback_champion(
        home, settings, actor=actor, reason=reason, now=now, expected_epoch=expected_epoch, wait_seconds=WAIT_SECONDS
    )


@flow(name="rollback")
def rollback(
    home: str,
    actor: str = "",
    reason: str = "",
    config: str | None = None,
    now: datetime | None = None,
    expected_epoch: int | None = None,
    code: str = "",
) -> dict[str, Any]:
    """Bring the former champion back. `expected_epoch`: only if the champion is still the one of that epoch.

    `code`: a one-time code, which says who rolls back; in a simulation home `actor` names somebody.
    """
    place, settings = open_home(home, config)
    at = now or home_now(place, settings)
    who, _ = decider(place, Ledger.of(place, settings), step="rollback", actor=actor, code=code)
    decided = roll_back(place, settings, actor=who, reason=reason, now=at, expected_epoch=expected_epoch)
    create_markdown_artifact(decision_markdown(decided), key="rollback", description=f"v{decided.champion.version}")
    notify_new(place, settings)
    return decided.as_json()
