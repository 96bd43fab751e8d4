"""Fitting a training's model. Only references leave a task."""

import json
from dataclasses import replace
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from model.continual.increment import fit_increment
from model.fitted import Fitted, load_fitted, save_fitted
from model.modalities.admission import admit
from model.small_data import fit_small_or_full
from model.trainer import Step
from stores.home import Home
from stores.lake import Lake
from stores.ledger import Ledger
from stores.settings import Settings
from stores.spool import Spool, SpooledRun
from tasks.allowed import withdrawn_items
from tasks.embedding_items import describe_items
from tasks.jobs import Mode, TrainingJob
from tasks.material import Material, load_material
from tasks.options import features_of, objective_of, options_of
from tasks.progress import report
from tasks.sabotage import Sabotage, sabotage_fit
from tasks.spooling import sending

LOSS = "train/loss"
"""In MLflow, with the step."""


@task(name="fit", cache_policy=NO_CACHE)
def fit_model(home: Home, settings: Settings, job: TrainingJob) -> Path:
    """Fit, or go on with a fit that was killed; returns the folder of the fitted model."""
    target = job.path(home) / "fitted"
    if (target / "training.json").exists():
        return target
    material = load_material(home, settings, job)
    spooled = SpooledRun(job.folder, name=job.folder.rpartition("/")[2], tags={"mode": job.mode.value})
    with Spool(job.path(home), spooled) as spool, sending(home, settings, job.path(home)):
        fitted = _fit(home, settings, job, material, spool)
    save_fitted(fitted, target)
    return target


def _fit(home: Home, settings: Settings, job: TrainingJob, material: Material, spool: Spool) -> Fitted:
    def on_step(step: Step) -> None:
        spool.add(LOSS, step=step.step, value=step.loss)
        for name, value in step.parts.items() if len(step.parts) > 1 else ():
            spool.add(f"{LOSS}/{name}", step=step.step, value=value)
        if step.step % settings.train.checkpoint_every_steps == 0:
            spool.flush()  # a training that goes on from the checkpoint of this step will not measure it again
        report("training", step.step, step.total, pace(step))

    network, training, increment = options_of(settings)
    run = job.path(home) / "run"
    if job.sabotage is not None:
        parent = None if job.parent is None else load_version(home, settings, job.parent)
        sabotage = Sabotage(**json.loads(job.sabotage))
        return sabotage_fit(sabotage, material.train, parent=parent, network=network, training=training, run=run)
    parent, parent_folder = None, None
    if job.mode is Mode.INCREMENTAL:
        assert job.parent is not None
        parent = load_version(home, settings, job.parent)
        parent_folder = (home.root / Ledger.of(home, settings).version(job.parent).checkpoint).parent
    described = describe_items(
        home,
        settings,
        items_version=job.items_version,
        folder=job.path(home),
        train=material.train,
        parent=parent_folder,
        modalities=None if parent is None else tuple(parent.ranker.config.modalities),
    )
    if parent is None:
        fitted = fit_small_or_full(
            material.train,
            network=network,
            training=training,
            objective=objective_of(settings),
            modalities=described.vectors,
            features=features_of(settings),
            run=run,
            on_step=on_step,
        )
    else:
        teaches = increment.distillation and job.champion not in (None, job.parent)
        fitted = fit_increment(
            parent,
            teacher=load_version(home, settings, job.champion) if teaches and job.champion is not None else None,
            new=material.new,
            past=material.past,
            replayed_N=material.replayed_N,
            training=training,
            increment=increment,
            modalities=described.vectors,
            run=run,
            on_step=on_step,
        )
    fitted = admit(fitted, described.vectors, items=described.new_items)
    withdrawn = withdrawn_items(Lake.of(home, settings.lake), version=job.items_version)
    return replace(fitted, vocabulary=fitted.vocabulary.withdrawing(withdrawn))


def pace(step: Step) -> str:
    return f"{step.targets / step.seconds:,.0f} targets/s" if step.seconds > 0 else ""


def load_version(home: Home, settings: Settings, version: int) -> Fitted:
    return load_fitted(home.root / Ledger.of(home, settings).version(version).checkpoint)
