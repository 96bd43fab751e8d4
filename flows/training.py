"""The steps that every training goes through, as one sequence of tasks."""

from datetime import datetime
from typing import Any, cast

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.runtime import flow_run
from prefect.states import Cancelled

from flows.opening import open_home
from flows.submitting import submitted_by
from model.machine import choose_device
from model.options import Device
from relations.errors import TrainingUnderWay
from stores.clock import home_now
from stores.turns import training_turn
from tasks.evaluating import evaluate_model
from tasks.evidence import judge_parent, read_prequential
from tasks.jobs import Mode, NothingToLearn, plan_training
from tasks.releasing import Released, export_model, register_model, summary_markdown
from tasks.replaying import keep_replay
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

    Every step finds what an earlier, killed run of the same training has finished. Raises TrainingUnderWay while
    another training is at work in the home, and DependencyFailed for a device that is not there, before anything else.
    """
    place, settings = open_home(home, config)
    who = submitted_by(submitter)
    with training_turn(place, who=f"{flow_run.flow_name} run {flow_run.name}"):
        choose_device(Device(settings.train.device))
        job = plan_training(place, settings, mode=mode, sabotage=sabotage)
        if isinstance(job, NothingToLearn):
            create_markdown_artifact(f"Nothing to learn: {job.reason}", key=f"{mode.value}-training")
            return {"version": None, "mode": mode.value, "reason": job.reason}
        if mode is Mode.INCREMENTAL and sabotage is None:
            judge_parent(place, settings, job)  # before a weight has met the new events
        fit_model(place, settings, job)
        evaluate_model(place, settings, job)
        export_model(place, settings, job)
        at = now or home_now(place, settings)
        released: Released = register_model(place, settings, job, submitter=who, now=at)
        keep_replay(place, settings, version=released.version)
    summary = summary_markdown(released, read_prequential(job.path(place)))
    create_markdown_artifact(summary, key=f"{mode.value}-training", description=released.verdict)
    create_table_artifact(released.table, key=f"{mode.value}-metrics", description="challenger and rivals, same rows")
    return released.as_json()


def gave_way(other: TrainingUnderWay) -> dict[str, Any]:
    """What a flow returns that met another training: its run ends as Cancelled, with `other` for who called it.

    Prefect takes a state that a flow returns for the run's own, and raises what it holds; failed would be wrong, for
    nothing is broken, and so would completed, for nothing was trained.
    """
    return cast("dict[str, Any]", Cancelled(message=str(other), data=other))
