"""A challenger made worse on purpose, for simulation homes: the gate must be seen to keep it out."""

from datetime import datetime
from typing import Any

from prefect import flow

from flows.opening import open_home
from flows.runs import settle_in
from flows.training import gave_way, train_and_release
from relations.errors import TrainingUnderWay, UsageError
from tasks.jobs import Mode
from tasks.sabotage import Sabotage, SabotageKind


@flow(name="rehearsal", log_prints=False, on_running=[settle_in])
def rehearsal(
    home: str,
    kind: str,
    scale: float = 0.0,
    seed: int = 0,
    config: str | None = None,
    submitter: str = "",
    now: datetime | None = None,
) -> dict[str, Any]:
    """Train, test, export and register a sabotaged model. Raises UsageError in a home that is no simulation."""
    place, _ = open_home(home, config)
    if not place.simulation:
        raise UsageError(f"{home}: bad challengers are for simulation homes only (`ratchet init --simulation`)")
    sabotage = Sabotage(SabotageKind(kind), scale=scale, seed=seed)
    mode = Mode.FULL if sabotage.kind is SabotageKind.SHUFFLED_ITEMS else Mode.INCREMENTAL
    try:
        return train_and_release(home, config=config, mode=mode, submitter=submitter, now=now, sabotage=sabotage)
    except TrainingUnderWay as other:
        return gave_way(other)
