"""Full retrain: a challenger from scratch on everything up to the newest slice."""

from datetime import datetime
from typing import Any

from prefect import flow

from flows.runs import settle_in
from flows.training import gave_way, train_and_release
from relations.errors import TrainingUnderWay
from tasks.jobs import Mode


@flow(name="full-retrain", log_prints=False, on_running=[settle_in])
def full_retrain(
    home: str, config: str | None = None, submitter: str = "", now: datetime | None = None
) -> dict[str, Any]:
    """Train, test beside the champion, export, prove parity, register. Promotes nobody."""
    try:
        return train_and_release(home, config=config, mode=Mode.FULL, submitter=submitter, now=now)
    except TrainingUnderWay as other:
        return gave_way(other)
