"""Learn by evidence: measure, decide between nothing, an increment and a full retrain, and do it."""

from datetime import datetime
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event

from flows.opening import open_home
from flows.runs import settle_in
from flows.training import gave_way, train_and_release
from model.continual.choosing import Action, Decision
from relations.errors import TrainingUnderWay
from stores.clock import home_now
from stores.home import Home
from tasks.scheduling import MODES, decide_training

DRIFT = "ratchet.drift"
"""The event of a full retrain that was decided on what was measured."""


@flow(name="learn", log_prints=False, on_running=[settle_in])
def learn(
    home: str, config: str | None = None, submitter: str = "", now: datetime | None = None, hand_over: bool = False
) -> dict[str, Any]:
    """Decide on the evidence and train accordingly; the decision is in the log, the artifact and the answer.

    `hand_over`: a full retrain that drift, decay or forgetting asks for is left to the deployment that waits for the
    event `ratchet.drift`, on another work pool perhaps. Set it only where there is one.
    """
    place, settings = open_home(home, config)
    now = now or home_now(place, settings)
    decision = decide_training(place, settings, now=now)
    create_markdown_artifact(decision.markdown(), key="learning-decision", description=decision.because)
    stated = {"action": decision.action.value, "because": decision.because}
    if decision.action is Action.SKIP:
        return {"version": None, "mode": None, "reason": decision.because, "decision": stated}
    if decision.drifted and hand_over:
        raise_drift(place, decision)
        reason = f"left to the deployment that waits for {DRIFT}: {decision.because}"
        return {"version": None, "mode": "full", "reason": reason, "decision": stated}
    try:
        answer = train_and_release(home, config=config, mode=MODES[decision.action], submitter=submitter, now=now)
    except TrainingUnderWay as other:
        return gave_way(other)
    return {**answer, "decision": stated}


def raise_drift(home: Home, decision: Decision) -> None:
    """Tell Prefect, so that a trigger on `ratchet.drift` of this home starts what is to be started."""
    emit_event(
        event=DRIFT,
        resource={"prefect.resource.id": f"ratchet.home.{home.root.name}", "ratchet.home": str(home.root)},
        payload={
            "because": decision.because,
            "events_version": decision.evidence.events_version,
            "measures": [each.measure for each in decision.reasons if each.breached],
        },
    )
