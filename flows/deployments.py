"""The schedules of one home, served by one process: `python -m flows.deployments --home DIR`."""

import argparse
from datetime import timedelta
from pathlib import Path

from prefect import serve
from prefect.schedules import Interval

from flows.full_retrain import full_retrain
from flows.incremental import incremental
from flows.ingest import ingest
from flows.opening import open_home
from flows.promote import promote
from flows.rollback import rollback
from flows.trial import trial


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--config")
    stated = parser.parse_args()
    home, settings = open_home(str(stated.home), stated.config)
    given = {"home": str(home.root), "config": stated.config}
    schedules = settings.schedules
    serve(
        ingest.to_deployment(
            "ingest", parameters=given, schedules=[Interval(timedelta(seconds=schedules.ingest_seconds))]
        ),
        incremental.to_deployment(
            "incremental", parameters=given, schedules=[Interval(timedelta(minutes=schedules.incremental_minutes))]
        ),
        full_retrain.to_deployment(
            "full-retrain", parameters=given, schedules=[Interval(timedelta(days=schedules.full_retrain_days))]
        ),
        trial.to_deployment(
            "trial",
            parameters={**given, "start": True},
            schedules=[Interval(timedelta(minutes=schedules.trial_minutes))],
        ),
        # These two are started by people, from the Prefect UI as from the command line.
        promote.to_deployment("promote", parameters=given),
        rollback.to_deployment("rollback", parameters=given),
        limit=2,  # one ingest beside one training: more would wait for the same cores and locks
        pause_on_shutdown=False,
    )


if __name__ == "__main__":
    main()
