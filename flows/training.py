"""The steps that every training goes through, as one sequence of tasks."""

from datetime import datetime
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.opening import open_home
from stores.clock import home_now
from tasks.evaluating import evaluate_model
from tasks.jobs import Mode, NothingToLearn, plan_training
from tasks.releasing import Released, export_model, register_model, summary_markdown
from tasks.sabotage import Sabotage
from tasks.training import fit_model


def train_and_release(
    home: str,
    *,
    config: str | None,
    mode: Mode,
    submitter: str,
    now: datetime | None,
    sabotage: Sabotage | None = None,
) -> dict[str, Any]:
    """Plan, fit, evaluate, export, register; returns the released version as plain values.

    Every step finds what an earlier, killed run of the same training has finished.
    """
    place, settings = open_home(home, config)
    job = plan_training(place, settings, mode=mode, sabotage=sabotage)
    if isinstance(job, NothingToLearn):
        create_markdown_artifact(f"Nothing to learn: {job.reason}", key=f"{mode.value}-training")
        return {"version": None, "mode": mode.value, "reason": job.reason}
    fit_model(place, settings, job)
    evaluate_model(place, settings, job)
    export_model(place, settings, job)
    released: Released = register_model(place, settings, job, submitter=submitter, now=now or home_now(place, settings))
    create_markdown_artifact(summary_markdown(released), key=f"{mode.value}-training", description=released.verdict)
    create_table_artifact(released.table, key=f"{mode.value}-metrics", description="challenger and rivals, same rows")
    return released.as_json()
