"""The schedules of one home, served by one process: `python -m flows.deployments --home DIR`."""

import argparse
from datetime import timedelta
from pathlib import Path
from typing import cast

from prefect import serve
from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Interval

from flows.full_retrain import full_retrain
from flows.incremental import incremental
from flows.ingest import ingest
from flows.maintenance import maintenance
from flows.opening import open_home
from flows.promote import promote
from flows.rollback import rollback
from flows.trial import trial
from flows.tune import tune


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--config")
    stated = parser.parse_args()
    home, settings = open_home(str(stated.home), stated.config)
    given = {"home": str(home.root), "config": stated.config}
    schedules = settings.schedules
    every = {
        "ingest": timedelta(seconds=schedules.ingest_seconds),
        "incremental": timedelta(minutes=schedules.incremental_minutes),
        "full-retrain": timedelta(days=schedules.full_retrain_days),
        "trial": timedelta(minutes=schedules.trial_minutes),
        "maintenance": timedelta(hours=schedules.maintenance_hours),
    }
    # Promote, rollback and tune have no schedule: people start them, from the Prefect UI as from the command line.
    deployments = [
        each.to_deployment(
            each.name,
            parameters={**given, "start": True} if each is trial else given,
            schedules=[Interval(every[each.name])] if each.name in every else None,
        )
        for each in (ingest, incremental, full_retrain, trial, maintenance, promote, rollback, tune)
    ]
    # Two at a time, one ingest beside one training: more would wait for the same cores and locks.
    serve(*cast("list[RunnerDeployment]", deployments), limit=2, pause_on_shutdown=False)


if __name__ == "__main__":
    main()
