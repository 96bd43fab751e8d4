"""A person's approval, as a flow: the champion changes, and the run keeps who decided on what."""

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
from stores.ledger_records import Waiting
from stores.settings import Settings
from tasks.deciding import Decided, approve_trial, decision_markdown
from tasks.notifying import notify_new
from tasks.trial_page.summary import plain_markdown

WAIT_SECONDS = 10.0


@task(name="approve", cache_policy=NO_CACHE)
def approve(
    home: Home, settings: Settings, *, trial: str, actor: str, reason: str, evidence: str | None, now: datetime
) -> Decided | Waiting:
    return approve_trial(
        home, settings, trial, actor=actor, reason=reason, evidence=evidence, now=now, wait_seconds=WAIT_SECONDS
    )


@flow(name="promote")
def promote(
    home: str,
    trial: str,
    actor: str = "",
    reason: str = "",
    config: str | None = None,
    now: datetime | None = None,
    code: str = "",
) -> dict[str, Any]:
    """Promote the challenger of `trial`, or give the first of two approvals. Run again, it changes nothing and answers
    the same.

    `code`: a one-time code, which says who approves what; in a simulation home `actor` names somebody.
    """
    place, settings = open_home(home, config)
    at = now or home_now(place, settings)
    who, seen = decider(place, Ledger.of(place, settings), step="approve", subject=trial, actor=actor, code=code)
    decided = approve(place, settings, trial=trial, actor=who, reason=reason, evidence=seen, now=at)
    create_markdown_artifact(approval_markdown(decided), key="promote", description=trial)
    notify_new(place, settings)
    return approval_json(decided)


def approval_markdown(decided: Decided | Waiting) -> str:
    if isinstance(decided, Waiting):
        names = ", ".join(plain_markdown(name) for name in decided.approved_by)
        return (
            f"# {decided.trial} waits for another approval\n\n{len(decided.approved_by)} of {decided.quorum}: {names}\n"
        )
    return decision_markdown(decided)


def approval_json(decided: Decided | Waiting) -> dict[str, Any]:
    if isinstance(decided, Waiting):
        named = {"approved_by": list(decided.approved_by), "quorum": decided.quorum}
        return {"action": "approve", "trial": decided.trial, "state": "AWAIT_APPROVAL", **named}
    return decided.as_json()
