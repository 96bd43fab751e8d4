"""The schedules of one home, served by one process: `python -m flows.deployments --home DIR`.

`prefect.yaml` deploys the same flows, at the same times, to work pools; a test holds the two together.
"""

import argparse
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from prefect import Flow, serve
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.schedules import Interval

from flows.bake import bake
from flows.full_retrain import full_retrain
from flows.incremental import incremental
from flows.ingest import ingest
from flows.learn import DRIFT, learn
from flows.maintenance import maintenance
from flows.opening import open_home
from flows.promote import promote
from flows.review import review
from flows.rollback import rollback
from flows.runs import reap_killed
from flows.trial import trial
from flows.tune import tune
from stores.home import Home
from stores.settings import SchedulesSettings

MONDAY = datetime(2024, 1, 1, tzinfo=UTC)
"""Intervals count from here and not from the deploying, or a machine that starts every day would never come to a
weekly run. The minutes keep the weekly retrain off the hourly run, which would have it cancelled."""
ONE = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
"""Of each scheduled deployment one run at a time: the newer one is cancelled."""


@dataclass(frozen=True)
class Scheduled:
    """A flow that runs by itself: `every` so often, counted from `anchor`."""

    flow: Flow[..., Any]
    every: timedelta
    anchor: datetime
    parameters: dict[str, Any]


def scheduled(settings: SchedulesSettings) -> tuple[Scheduled, ...]:
    return (
        Scheduled(ingest, timedelta(seconds=settings.ingest_seconds), MONDAY, {}),
        Scheduled(learn, timedelta(minutes=settings.learn_minutes), MONDAY, {"hand_over": True}),
        Scheduled(full_retrain, timedelta(days=settings.full_retrain_days), MONDAY.replace(hour=2, minute=30), {}),
        Scheduled(trial, timedelta(minutes=settings.trial_minutes), MONDAY.replace(minute=5), {"start": True}),
        Scheduled(bake, timedelta(minutes=settings.bake_minutes), MONDAY.replace(minute=2), {}),
        Scheduled(maintenance, timedelta(hours=settings.maintenance_hours), MONDAY.replace(hour=3, minute=45), {}),
    )


def deployments_of(home: Home, settings: SchedulesSettings, *, config: str | None) -> list[RunnerDeployment]:
    """Every flow that a person or a schedule may start in `home`; drift starts a full retrain as well."""
    given = {"home": str(home.root), "config": config}
    drift = DeploymentEventTrigger(
        name="drift asks for a full retrain",
        expect={DRIFT},
        match={"prefect.resource.id": f"ratchet.home.{home.root.name}"},
    )
    found = [
        each.flow.to_deployment(
            each.flow.name,
            parameters={**given, **each.parameters},
            schedules=[Interval(each.every, anchor_date=each.anchor, timezone="UTC")],
            concurrency_limit=ONE,
            triggers=[drift] if each.flow is full_retrain else None,
        )
        for each in scheduled(settings)
    ]
    # People start these, from the Prefect UI as from the command line; the trial's flow starts reviews.
    found += [
        each.to_deployment(each.name, parameters=given) for each in (incremental, promote, review, rollback, tune)
    ]
    return cast("list[RunnerDeployment]", found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--config")
    stated = parser.parse_args()
    home, settings = open_home(str(stated.home), stated.config)
    with get_client(sync_client=True) as client:
        reap_killed(home, client=client)
    deployments = deployments_of(home, settings.schedules, config=stated.config)
    serve(*deployments, limit=settings.schedules.runs_at_once, pause_on_shutdown=False)


if __name__ == "__main__":
    main()
