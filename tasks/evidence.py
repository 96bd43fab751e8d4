"""What is known about how well the present model still fits what arrives: measured before anything is trained."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from model.continual.choosing import Evidence, RetrainOptions
from model.continual.drift import Shift, item_vectors, measure_drift
from model.continual.prequential import DAY_US, Figure, Prequential, judge_ahead
from model.evaluation import RankerRecommender
from model.fitted import Fitted
from relations.errors import UsageError
from stores.home import Home
from stores.lake import Lake
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.settings import Settings
from tasks.allowed import Consented, consented
from tasks.describing_users import with_user_attributes
from tasks.jobs import Mode, TrainingJob, plan_training, write_json
from tasks.options import retrain_of
from tasks.training import load_version

PREQUENTIAL = "prequential.json"
"""In the folder of an increment: what its parent made of the events, before they were learnt from."""


@task(name="test first", cache_policy=NO_CACHE)
def judge_parent(home: Home, settings: Settings, job: TrainingJob) -> Path:
    """Test an increment's parent on what the increment will learn from; returns the report's file.

    On events that arrived after the parent's data version and happened after its cutoff: its own test slice has its
    figure in evaluation.json already. Only users who have new events are loaded.
    """
    file = job.path(home) / PREQUENTIAL
    if file.exists():
        return file
    assert job.parent is not None
    record, found = Ledger.of(home, settings).version(job.parent), consented(home, settings)
    sequences = found.sequences
    known_N = found.allowed_N & (sequences.arrived_N <= job.events_version)
    new_N = known_N & (sequences.arrived_N > record.events_version)
    user_N = sequences.user_N()
    known_N &= np.bincount(user_N[new_N], minlength=len(sequences.user_U)).astype(bool)[user_N]
    histories = with_user_attributes(
        Lake.of(home, settings.lake), sequences.histories(known_N), names=settings.features.user
    )
    measured = judge_ahead(
        RankerRecommender.of(load_version(home, settings, job.parent)),
        histories,
        new_N=new_N[known_N],
        cutoff_us=record.cutoff_us,
        k=settings.evaluation.k,
        exclude_seen=settings.policy.exclude_seen,
        max_users=settings.retrain.max_users,
        seed=settings.train.seed,
    )
    write_json(file, {"parent": job.parent, **measured.as_json()})
    return file


def read_prequential(folder: Path) -> Prequential | None:
    """None where the training in `folder` is no increment, or was made before there was such a test."""
    stated = _read(folder / PREQUENTIAL)
    if stated is None:
        return None
    stated.pop("parent")
    return Prequential.from_json(stated)


@task(name="gather evidence", cache_policy=NO_CACHE)
def gather_evidence(home: Home, settings: Settings, *, now: datetime) -> Evidence:
    """Staleness, drift, forgetting and cost, as far as they are known. Trains nothing.

    Raises UsageError without events.
    """
    options, found = retrain_of(settings), consented(home, settings)
    if found.sequences.absorbed < 0 or not found.allowed_N.any():
        raise UsageError(f"{home.root}: there are no events yet; `ratchet ingest FILE` brings some in")
    ledger = Ledger.of(home, settings)
    versions = ledger.versions()
    champion, candidate = ledger.champion(), ledger.candidate()
    parent = candidate if candidate is not None else None if champion is None else ledger.version(champion.version)
    full = _newest(versions, Mode.FULL)
    version, events = found.sequences.absorbed, int(found.allowed_N.sum())
    if full is None:
        return Evidence(version, None if parent is None else parent.version, events, events, events, None)
    lineage = _since_full(versions, parent)
    root = lineage[-1] if lineage and lineage[-1].mode == Mode.FULL else full
    reports = [_read(_folder(home, record) / "evaluation.json") for record in (root, *lineage[:1])]
    increments = [record for record in versions if record.mode == Mode.INCREMENTAL and record.version > full.version]
    return Evidence(
        events_version=version,
        parent=None if parent is None else parent.version,
        new_events=0 if parent is None else _arrived_since(found, parent),
        events=events,
        since_full=_arrived_since(found, full),
        full_age_days=(now - full.created) / timedelta(days=1),
        baseline=Figure.better(*(_tested(report) for report in reports if report is not None)),
        prequential=_staleness(home, settings, lineage, since=now - timedelta(days=options.window_days)),
        shifts=() if parent is None else _drift(found, root, load_version(home, settings, parent.version), options),
        forgotten=_forgotten(_read(_folder(home, increments[-1]) / "evaluation.json")) if increments else (),
        full_seconds=_expected_seconds(home, full, events),
        increment_seconds=None
        if parent is None or not increments
        else _expected_seconds(home, increments[-1], _arrived_since(found, parent)),
    )


def _newest(versions: tuple[VersionRecord, ...], mode: Mode) -> VersionRecord | None:
    return max((record for record in versions if record.mode == mode), key=lambda record: record.version, default=None)


def _since_full(versions: tuple[VersionRecord, ...], parent: VersionRecord | None) -> list[VersionRecord]:
    """The version that would be gone on from and those it stands on, back to a full retrain."""
    by_number, found = {record.version: record for record in versions}, []
    while parent is not None:
        found.append(parent)
        further = parent.mode == Mode.INCREMENTAL and parent.parent is not None
        parent = by_number.get(parent.parent) if further else None  # type: ignore[arg-type]
    return found


def _arrived_since(found: Consented, record: VersionRecord) -> int:
    return int((found.allowed_N & (found.sequences.arrived_N > record.events_version)).sum())


def _staleness(home: Home, settings: Settings, lineage: list[VersionRecord], *, since: datetime) -> Figure | None:
    """NDCG on known items, of the parent on what no model has learnt from yet and, pooled, of the models before it
    since the last full retrain on what they had not learnt from then."""
    figures = []
    if lineage:
        job = plan_training(home, settings, mode=Mode.INCREMENTAL)
        if isinstance(job, TrainingJob):
            judge_parent.fn(home, settings, job)
            figures.append(read_prequential(job.path(home)))
    earlier = [record for record in lineage if record.mode == Mode.INCREMENTAL and record.created >= since]
    figures += [read_prequential(_folder(home, record)) for record in earlier]
    return Figure.pooled(each.known for each in figures if each is not None)


def _tested(report: dict[str, Any]) -> Figure | None:
    """The challenger's NDCG on the items that it knew, of its own test slice. None: there were no rows.

    A slice of new items too small to be reported is counted among the known.
    """
    ours, name = report["models"]["challenger"], f"ndcg@{report['k']}"
    new = ours["by_slice"].get("new_items", {"rows": 0, name: 0.0})
    rows, unknown = int(report["rows"]), int(new["rows"])
    if rows <= unknown:
        return None
    mean = (rows * ours["overall"][name] - unknown * new[name]) / (rows - unknown)
    interval = ours["intervals"].get(name)
    whole = Figure.of(mean, None if interval is None else tuple(interval), rows - unknown)
    return Figure(mean, None if whole.error is None else whole.error * rows / (rows - unknown), rows - unknown)


def _drift(found: Consented, root: VersionRecord, parent: Fitted, options: RetrainOptions) -> tuple[Shift, ...]:
    """What happened since the full retrain's cutoff, against the time before it. Nothing from less than a day:
    nights are no drift of days."""
    sequences = found.sequences
    time_N = np.asarray(sequences.time_N)
    newest_us = int(time_N[found.allowed_N].max())
    begin_us = max(root.cutoff_us, newest_us - int(options.window_days * DAY_US) + 1)
    span_us = newest_us + 1 - begin_us
    if span_us < DAY_US:
        return ()
    seen_N = found.allowed_N & (sequences.arrived_N <= root.events_version) & (time_N < root.cutoff_us)
    seen_N &= time_N >= root.cutoff_us - int(options.reference_days * DAY_US)
    reference, recent = (sequences.histories(which_N) for which_N in (seen_N, found.allowed_N & (time_N >= begin_us)))
    return measure_drift(reference, recent, span_us=span_us, vectors=item_vectors(parent), alpha=options.alpha)


def _forgotten(report: dict[str, Any] | None) -> tuple[str, ...]:
    """Cohorts that the newest increment has lost, where it was judged on cohorts."""
    forgetting = (report or {}).get("forgetting") or {"cohorts": ()}
    return tuple(change["cohort"] for change in forgetting["cohorts"] if change["breach"])


def _expected_seconds(home: Home, record: VersionRecord, events: int) -> float | None:
    """As many seconds an event as that training took."""
    training = _read(home.root / record.checkpoint / "training.json")
    report = _read(_folder(home, record) / "evaluation.json")
    if training is None or report is None or not report["new_events"]:
        return None
    return float(training["seconds"]) * events / int(report["new_events"])


def _folder(home: Home, record: VersionRecord) -> Path:
    return (home.root / record.checkpoint).parent


def _read(file: Path) -> dict[str, Any] | None:
    """None where the file is not there: what is old may have been dropped."""
    if not file.exists():
        return None
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
