"""Full retrain: a challenger from scratch on everything up to the newest slice."""

from datetime import datetime
from typing import Any

from prefect import flow

from flows.training import train_and_release
from tasks.jobs import Mode


@flow(name="full-retrain", log_prints=False)
def full_retrain(
    home: str, config: str | None = None, submitter: str = "", now: datetime | None = None
) -> dict[str, Any]:
    """Train, test beside the champion, export, prove parity, register. Promotes nobody."""
    return train_and_release(home, config=config, mode=Mode.FULL, submitter=submitter, now=now)
