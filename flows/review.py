"""A trial's review as a run that waits without a process: suspended with a form, resumed from the Prefect UI or API.

What the form says ends in the same step of the ledger as the console's button and `ratchet approve`. A resumed run
begins at its first line again: what was typed is taken once, from the newest form, and a refusal asks again.
"""

import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import deployment
from prefect.runtime import flow_run as this_run
from prefect.states import Cancelled
from pydantic import Field, ValidationError

from flows.deciders import decider
from flows.opening import open_home
from flows.promote import WAIT_SECONDS, approval_markdown
from gate.states import TrialState
from relations.errors import GateRefused, RatchetError, UsageError
from stores.clock import home_now
from stores.home import Home
from stores.ledger import Ledger
from stores.ledger_records import TrialRecord, Waiting
from stores.settings import Settings
from tasks.deciding import approve_trial, reject_trial
from tasks.linking import page_link
from tasks.notifying import notify_new
from tasks.trial_page.summary import plain_markdown, summary_markdown

_LOG = logging.getLogger(__name__)
DEPLOYMENT = "review/review"
LEAST_WAIT = timedelta(minutes=1)
_Reason = Field(min_length=1, max_length=2000, description="Kept in the ledger for good.")
_Evidence = Field(default="", description="The look that you decide on; leave it as it is.")


class Review(RunInput):
    """What a person answers."""

    decision: Literal["approve", "reject"]
    code: str = Field(min_length=1, description="A one-time code for this decision; never a token.")
    reason: str = _Reason
    evidence: str = _Evidence


class SimulatedReview(RunInput):
    """In a simulation home a name is enough."""

    decision: Literal["approve", "reject"]
    name: str = Field(min_length=1)
    reason: str = _Reason
    evidence: str = _Evidence


@flow(name="review", log_prints=False)
def review(home: str, trial: str, config: str | None = None, wait_hours: float | None = None) -> dict[str, Any]:
    """Wait for a person's answer to `trial`, for what is left of its time, and carry it out.

    `wait_hours`: for no longer than this. Ends by itself where the trial waits no more.
    """
    place, settings = open_home(home, config)
    if deployment.get_id() is None:
        raise UsageError("review: only a deployment's run can wait without a process; start one of `review/review`")
    ledger, now = Ledger.of(place, settings), home_now(place, settings)
    form: type[RunInput] = SimulatedReview if place.simulation else Review
    asked, said = _times_asked(), ""
    if asked:
        said = _answer(place, settings, ledger, _typed(form, asked), trial=trial, now=now)
        notify_new(place, settings)
    ledger.expire(now)
    record = ledger.trial(trial)
    if record.state is not TrialState.AWAIT_APPROVAL:
        return {"trial": trial, "state": str(record.state), "decided_by": record.decided_by, "reason": record.reason}
    seen = record.evidence[-1].sha256
    told = {**record.evidence[-1].evidence, "state": str(record.state), "evidence_sha256": seen}
    create_markdown_artifact(summary_markdown(told), key=f"{trial}-review", description="waits for a person")
    asks = form.with_initial_data(
        description=_asking(place, settings, record, said=said),
        evidence=seen,
        reason=...,
    )
    wait = _left(record, settings, now=now, most=wait_hours)
    suspend_flow_run(wait_for_input=asks, key=str(asked + 1), timeout=int(wait.total_seconds()))
    raise AssertionError("a suspended run does not go on")


def keep_reviews(home: Home, settings: Settings, *, config: str | None) -> None:
    """One run of the deployment `review/review` for the newest look of each trial that waits, and none for any other.

    Does nothing without that deployment, or outside a flow's run. A Prefect that fails is logged: people can decide in
    other places.
    """
    if this_run.get_id() is None:
        return
    try:
        waiting = [each for each in Ledger.of(home, settings).trials() if each.state is TrialState.AWAIT_APPROVAL]
        with get_client(sync_client=True) as client:
            _keep(client, home, waiting, config=config)
    except Exception as error:
        _LOG.warning("reviews in Prefect are not up to date: %s", type(error).__name__)


def _keep(client: SyncPrefectClient, home: Home, waiting: list[TrialRecord], *, config: str | None) -> None:
    try:
        found = client.read_deployment_by_name(DEPLOYMENT)
    except ObjectNotFound:
        return
    mine = f"ratchet-review:{home.root}:"
    wanted = {f"{mine}{each.id}:{each.evidence[-1].sha256}": each.id for each in waiting}
    for key, trial in wanted.items():
        given = {"home": str(home.root), "trial": trial, "config": config}
        client.create_flow_run_from_deployment(
            found.id, parameters=given, idempotency_key=key, name=f"review of {trial}"
        )
    for run in _unanswered(client, found.id):
        if (run.idempotency_key or "").startswith(mine) and run.idempotency_key not in wanted:
            why = "the trial waits no more, or a newer look has one of its own"
            client.set_flow_run_state(run.id, Cancelled(message=why))


def _unanswered(client: SyncPrefectClient, deployment_id: Any) -> Iterator[FlowRun]:
    states = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED, StateType.SCHEDULED]))
    chosen = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment_id]), state=states)
    yield from client.read_flow_runs(flow_run_filter=chosen)


def _times_asked() -> int:
    """How often this run has asked before."""
    with get_client(sync_client=True) as client:
        keys = client.read_flow_run(UUID(this_run.get_id())).empirical_policy.pause_keys or ()
    return max((int(key) for key in keys if key.isdigit()), default=0)  # a person's own suspending has another kind


def _typed(form: type[RunInput], asked: int) -> RunInput | None:
    """The newest form as it was filled in; None where the run was set going without it."""
    try:
        return suspend_flow_run(wait_for_input=form, key=str(asked))
    except ValidationError:
        return None


def _answer(home: Home, settings: Settings, ledger: Ledger, form: Any, *, trial: str, now: datetime) -> str:
    """Take the step that the form asks for; returns why another answer is needed, where one is."""
    if form is None:
        return "The form was not filled in."
    try:
        who, seen = decider(
            home,
            ledger,
            step=form.decision,
            subject=trial,
            actor=getattr(form, "name", ""),
            code=getattr(form, "code", ""),
        )
        if form.decision == "reject":
            reject_trial(home, settings, trial, actor=who, reason=form.reason, now=now)
            return ""
        shown = form.evidence.strip() or None
        if seen is not None and shown not in (None, seen):
            raise GateRefused(
                f"{trial}: the code is for another look than this form's; read the newest, and decide again"
            )
        decided = approve_trial(
            home,
            settings,
            trial,
            actor=who,
            reason=form.reason,
            evidence=seen or shown,
            now=now,
            wait_seconds=WAIT_SECONDS,
        )
    except RatchetError as error:
        return f"Not accepted: {plain_markdown(str(error))}"
    create_markdown_artifact(approval_markdown(decided), key=f"{trial}-decision", description=trial)
    if isinstance(decided, Waiting):
        return f"{plain_markdown(who)} approved. Another person's approval is needed."
    return ""


def _asking(home: Home, settings: Settings, record: TrialRecord, *, said: str) -> str:
    trial = plain_markdown(record.id)
    link = page_link(home, settings, trial=record.id)
    who = (
        "This is a simulation: a name is enough."
        if home.simulation
        else f"The code is good once: `ratchet people code {trial} --step approve --as NAME`, or the console's button."
    )
    lines = [
        *([f"**{said}**"] if said else []),
        f"{trial} waits for a person. Its evidence is this run's artifact `{record.id}-review`.",
        *([f"It is [shown here]({link}) too."] if link.startswith("http") else []),
        f"Submitted by {plain_markdown(record.submitter)}, who cannot approve it.",
        who,
    ]
    return "\n\n".join(lines)


def _left(record: TrialRecord, settings: Settings, *, now: datetime, most: float | None) -> timedelta:
    """Of the time within which the trial has to be decided."""
    since = record.awaiting_since or now
    left = since + timedelta(hours=settings.ledger.approval_hours) - now
    return max(left if most is None else min(left, timedelta(hours=most)), LEAST_WAIT)
