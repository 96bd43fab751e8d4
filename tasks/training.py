"""Training: choose the data by lineage, fit, and test on the newest slice. Only references leave a task.

Each training has a folder named by what determines it (mode, parent, data versions, settings), so the same training
asked for twice is one, and a killed one goes on where it stopped.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from model.evaluation import Evaluation, RankerRecommender, Recommender, compare, evaluate
from model.features import FeatureOptions, Kind
from model.fit import fit_full, fit_increment
from model.fitted import Fitted, load_fitted, save_fitted
from model.modalities.admission import admit
from model.objectives.options import ObjectiveOptions
from model.options import IncrementOptions, NetworkOptions, TrainOptions
from model.popularity import Popularity
from model.sequences import Histories, Holdout, merge, split_by_time
from model.trainer import Step
from relations.consent import opted_out
from relations.errors import DataRejected, UsageError
from stores.home import Home
from stores.lake import Lake
from stores.ledger import Ledger
from stores.sequences.arrays import Sequences
from stores.sequences.store import SequenceStore
from stores.settings import Settings
from stores.spool import Spool, SpooledRun
from tasks.describing import item_facts
from tasks.describing_users import with_user_attributes
from tasks.embedding_items import describe_items
from tasks.progress import report
from tasks.sabotage import Sabotage, sabotage_fit
from tasks.spooling import sending

LOSS = "train/loss"
"""In MLflow, with the step."""


class Mode(StrEnum):
    FULL = "full"
    INCREMENTAL = "incremental"


@dataclass(frozen=True)
class TrainingJob:
    """What one training is determined by. `events_version`: the newest delivery's, of which and of those before it
    learns. `parent`: the version whose weights it starts from (incremental), or that it was tested against (full).
    `folder` is relative to the home."""

    mode: Mode
    events_version: int
    items_version: int
    parent: int | None
    champion: int | None
    sabotage: str | None
    folder: str

    def path(self, home: Home) -> Path:
        return home.root / self.folder

    def save(self, home: Home) -> None:
        folder = self.path(home)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "job.json", asdict(self))


@dataclass(frozen=True)
class NothingToLearn:
    """A training that would change nothing, and why."""

    reason: str


@dataclass(frozen=True)
class Material:
    """The rows of a training, on both sides of its cutoff."""

    new: Histories
    past: Histories
    holdout: Holdout
    cutoff_us: int
    new_events: int

    @property
    def train(self) -> Histories:
        return merge(self.past, self.new)[0] if len(self.past) else self.new


def plan_training(
    home: Home, settings: Settings, *, mode: Mode, sabotage: Sabotage | None = None
) -> TrainingJob | NothingToLearn:
    """Choose data versions and parent. Raises UsageError without events, or for an increment without a champion."""
    ledger, found = Ledger.of(home, settings), _consented(home, settings)
    events, items = found.sequences.absorbed, Lake(home.lake).version("items")
    if events < 0:
        raise UsageError(f"{home.root}: there are no events yet; `ratchet ingest FILE` brings some in")
    champion, candidate = ledger.champion(), ledger.candidate()
    if mode is Mode.INCREMENTAL and champion is None:
        raise UsageError(f"{home.root}: an increment needs a champion; run `ratchet train --mode full` first")
    parent = champion.version if champion else None
    if mode is Mode.INCREMENTAL and candidate is not None:
        parent = candidate.version
    if mode is Mode.INCREMENTAL and sabotage is None and parent is not None:
        record = ledger.version(parent)
        # what the parent was tested on is not news by itself
        arrived = int((found.allowed_N & (found.sequences.arrived_N > record.events_version)).sum())
        if arrived < settings.increment.min_new_events:
            return NothingToLearn(f"no new events since v{parent} (events version {record.events_version})")
    facts = {
        "mode": mode.value,
        "events": events,
        "items": items,
        "users": Lake(home.lake).version("users") if settings.features.user else None,
        "parent": parent,
        "champion": champion.version if champion else None,
        "sabotage": asdict(sabotage) if sabotage else None,
        # A deletion or an opt-out leaves the events version as it is, and must not find the old training done.
        "rows": int(found.allowed_N.sum()),
        "left_out": found.left_out,
        "settings": {
            name: getattr(settings, name).model_dump(mode="json")
            for name in ("model", "features", "objective", "train", "increment", "evaluation")
        },
        "modalities": {name: stated.model_dump(mode="json") for name, stated in settings.modalities.items()},
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    job = TrainingJob(
        mode=mode,
        events_version=events,
        items_version=items,
        parent=parent,
        champion=champion.version if champion else None,
        sabotage=json.dumps(asdict(sabotage), sort_keys=True) if sabotage else None,
        folder=f"checkpoints/{mode.value}-{key}",
    )
    job.save(home)
    return job


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
        fitted = fit_full(
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
        fitted = fit_increment(
            parent,
            new=material.new,
            past=material.past,
            training=training,
            increment=increment,
            modalities=described.vectors,
            run=run,
            on_step=on_step,
        )
    return admit(fitted, described.vectors, items=described.new_items)


def objective_of(settings: Settings) -> ObjectiveOptions:
    return ObjectiveOptions(**settings.objective.model_dump())


def features_of(settings: Settings) -> FeatureOptions:
    said = settings.features
    return FeatureOptions(
        user={name: Kind(kind) for name, kind in said.user.items()}, buckets=said.buckets, k=settings.privacy.k
    )


def pace(step: Step) -> str:
    return f"{step.targets / step.seconds:,.0f} targets/s" if step.seconds > 0 else ""


@task(name="evaluate", cache_policy=NO_CACHE)
def evaluate_model(home: Home, settings: Settings, job: TrainingJob) -> Path:
    """Test challenger, champion and popularity on the same newest rows; returns the report's file.

    The offline check: NDCG@k at least the champion's less the tolerance, or, with no champion, at least popularity's.
    """
    file = job.path(home) / "evaluation.json"
    if file.exists():
        return file
    material = load_material(home, settings, job)
    holdout = material.holdout.sample_users(settings.evaluation.max_users, seed=settings.train.seed)
    fitted = load_fitted(job.path(home) / "fitted")
    evaluations: dict[str, Evaluation] = {}
    recommenders: dict[str, Recommender] = {"challenger": RankerRecommender.of(fitted)}
    if job.champion is not None:
        recommenders["champion"] = RankerRecommender.of(load_version(home, settings, job.champion))
    recommenders["popularity"] = Popularity.of(material.train)
    facts = item_facts(Lake.of(home, settings.lake), version=job.items_version)
    for number, (name, recommender) in enumerate(recommenders.items(), start=1):
        report("evaluation", number, len(recommenders))
        evaluations[name] = evaluate(
            recommender,
            holdout,
            k=settings.evaluation.k,
            exclude_seen=settings.policy.exclude_seen,
            facts=facts,
            min_users=settings.privacy.k,
        )
    write_json(file, _evaluation_report(settings, material, evaluations))
    return file


def load_material(home: Home, settings: Settings, job: TrainingJob) -> Material:
    """The job's rows. `past` is what the parent was trained on; a full retrain has no past, all rows are new.

    Users who have opted out by now are in none of it, with their old events neither. Raises DataRejected when nothing
    is left to learn from.
    """
    found = _consented(home, settings)
    sequences, share = found.sequences, settings.evaluation.holdout_share
    known_N = found.allowed_N & (sequences.arrived_N <= job.events_version)
    lake = Lake.of(home, settings.lake)

    def described(histories: Histories) -> Histories:
        return with_user_attributes(lake, histories, names=settings.features.user)

    if job.mode is Mode.FULL or job.parent is None:
        split = split_by_time(described(sequences.histories(known_N)), holdout_share=share)
        nothing = split.train.keep(np.zeros(len(split.train), dtype=bool))
        return Material(split.train, nothing, split.holdout, split.cutoff_us, len(split.train))
    record = Ledger.of(home, settings).version(job.parent)
    seen_N = (sequences.arrived_N <= record.events_version) & (sequences.time_N < record.cutoff_us)
    new, past = (described(sequences.histories(which_N)) for which_N in (known_N & ~seen_N, known_N & seen_N))
    if not len(new):
        raise DataRejected(f"events version {job.events_version}: nothing that v{job.parent} has not seen")
    # Late rows may lie before the parent's cutoff; the test slice must not reach into what the parent trained on.
    cutoff_us = max(split_by_time(new, holdout_share=share).cutoff_us, record.cutoff_us)
    whole = merge(past, new)[0]
    return Material(new.before(cutoff_us), past, split_by_time(whole, cutoff_us=cutoff_us).holdout, cutoff_us, len(new))


@dataclass(frozen=True)
class _Consented:
    """All sequences, and which of their events may be learnt from. `left_out`: a digest of the users who may not."""

    sequences: Sequences
    allowed_N: np.ndarray
    left_out: str


def _consented(home: Home, settings: Settings) -> _Consented:
    lake = Lake.of(home, settings.lake)
    sequences = SequenceStore(home.sequences).read(lake)
    out_U = sequences.among(opted_out(lake.relation("users")).to_pyarrow().column("user").to_pylist())
    left_out = hashlib.sha256(b"".join(sequences.user_U[out_U].tolist())).hexdigest()
    return _Consented(sequences, ~out_U[sequences.user_N()], left_out)


def load_version(home: Home, settings: Settings, version: int) -> Fitted:
    return load_fitted(home.root / Ledger.of(home, settings).version(version).checkpoint)


def options_of(settings: Settings) -> tuple[NetworkOptions, TrainOptions, IncrementOptions]:
    return (
        NetworkOptions(**settings.model.model_dump(exclude={"preset"})),
        TrainOptions(**settings.train.model_dump()),
        IncrementOptions(**settings.increment.model_dump()),
    )


def write_json(file: Path, value: dict[str, Any]) -> None:
    """Whole or not at all."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    temporary.replace(file)


def _evaluation_report(settings: Settings, material: Material, evaluations: dict[str, Evaluation]) -> dict[str, Any]:
    ndcg = f"ndcg@{settings.evaluation.k}"
    challenger = evaluations["challenger"]
    rival_name = "champion" if "champion" in evaluations else "popularity"
    rival = evaluations[rival_name]
    tolerance = settings.evaluation.tolerance if rival_name == "champion" else 0.0
    ours, theirs = challenger.overall[ndcg], rival.overall[ndcg]
    rows = len(challenger)
    difference = asdict(compare(challenger, rival)) if rows else None
    passed = rows > 0 and ours >= theirs * (1 - tolerance)
    verdict = f"{ndcg} {ours:.4f} against {theirs:.4f} of the {rival_name} on {rows} rows"
    if not rows:
        verdict = "no rows to test on: the newest slice holds no target"
    return {
        "k": settings.evaluation.k,
        "rows": rows,
        "cutoff_us": material.cutoff_us,
        "new_events": material.new_events,
        "models": {
            name: {
                "overall": dict(e.overall),
                "intervals": dict(e.intervals),
                "by_slice": dict(e.by_slice),
                "by_behaviour": dict(e.by_behaviour),
            }
            for name, e in evaluations.items()
        },
        "recommended": {name: dict(e.recommended) for name, e in evaluations.items()},
        "difference": difference,
        "rival": rival_name,
        "passed": passed,
        "verdict": verdict,
    }
