"""Incremental fine-tune: go on from the candidate with what arrived since, and replayed history."""

from datetime import datetime
from typing import Any

from prefect import flow

from flows.runs import settle_in
from flows.training import gave_way, train_and_release
from relations.errors import TrainingUnderWay
from tasks.jobs import Mode


@flow(name="incremental", log_prints=False, on_running=[settle_in])
def incremental(
    home: str, config: str | None = None, submitter: str = "", now: datetime | None = None
) -> dict[str, Any]:
    """Train on what is new, test beside the champion, export, prove parity, register. Without news, says so."""
    try:
        return train_and_release(home, config=config, mode=Mode.INCREMENTAL, submitter=submitter, now=now)
    except TrainingUnderWay as other:
        return gave_way(other)
