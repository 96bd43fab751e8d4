"""What a person finds in the MLflow UI: one run a training, its figures, its version, and what the trials said."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from relations.errors import DependencyFailed
from stores.bundle import Bundle
from stores.home import Home
from stores.lake import Lake
from stores.ledger import Ledger
from stores.quarantine import listing
from stores.registry import Registry
from stores.settings import Settings
from tasks.deciding import mirror_decision
from tasks.figures import loss_figure, popularity_figure, slice_figure
from tasks.training import TrainingJob


@dataclass(frozen=True)
class Tracked:
    version: int
    run_id: str


def track_training(
    home: Home,
    settings: Settings,
    *,
    job: TrainingJob,
    bundle: Bundle,
    evaluation: Mapping[str, Any],
    training: Mapping[str, Any],
    parity: Mapping[str, Any],
    digests: Mapping[str, str],
) -> Tracked:
    """Log the run and register the version; the same digest again finds the version that is there."""
    registry = Registry(home, settings)
    name = job.mode.value if job.sabotage is None else "rehearsal"
    tags = {
        "mode": name,
        "digest": bundle.digest,
        "parent": "" if job.parent is None else str(job.parent),
        "events_version": str(job.events_version),
        "events_digest": digests.get("events", ""),
        "items_version": str(job.items_version),
        "items_digest": digests.get("items", ""),
        "offline.passed": str(bool(evaluation["passed"] and job.sabotage is None)).lower(),
        "offline.verdict": str(evaluation["verdict"]),
    }
    if job.sabotage is not None:
        tags["sabotage"] = job.sabotage
    metric = f"ndcg@{evaluation['k']}"
    title, params = f"{name} {bundle.digest[:8]}", _parameters(settings)
    with registry.start_run(title, tags=tags, params=params, key=job.folder) as run:
        run.log_curve("train/loss", [(int(step), float(loss)) for step, loss in training["losses"]])
        run.log_metrics(_metrics(evaluation, training, parity))
        run.log_figure(loss_figure(training["losses"]), "figures/loss.png")
        run.log_figure(slice_figure(evaluation["models"], metric=metric), "figures/ndcg_by_slice.png")
        run.log_figure(popularity_figure(evaluation["recommended"]), "figures/popularity.png")
        run.log_dict({key: evaluation[key] for key in evaluation if key != "recommended"}, "evaluation.json")
        for table, digest in digests.items():
            version = job.events_version if table == "events" else job.items_version
            run.log_data(table, version=version, digest=digest, uri=str(home.lake / table))
        run.log_dict(_validation_summary(home), "validation.json")
        version = registry.register(bundle.folder, run_id=run.run_id, tags=tags)
        return Tracked(version, run.run_id)


@task(name="track look", cache_policy=NO_CACHE)
def track_look(home: Home, settings: Settings, evidence: dict[str, Any]) -> None:
    """The look's numbers on the challenger's version and run. MLflow failing is reported, and stops nothing."""
    record = Ledger.of(home, settings).trial(evidence["trial_id"])
    interval = evidence["lift_interval"]
    metrics = {
        "lift": evidence["lift"],
        "lift_low": interval[0] if interval else None,
        "lift_high": interval[1] if interval else None,
        "matured_users": float(sum(evidence["matured"])),
        "srm_p": evidence["srm_p"],
    }
    try:
        Registry(home, settings).log_trial(
            record.challenger, record.id, metrics=metrics, look=evidence["look"], files=[Path(evidence["report"])]
        )
    except DependencyFailed as error:
        logging.getLogger(__name__).warning("%s look %d is not in MLflow: %s", record.id, evidence["look"], error)
        return
    mirror_decision(home, settings)


def _parameters(settings: Settings) -> dict[str, Any]:
    return {
        f"{section}.{key}": value
        for section in ("model", "train", "increment", "evaluation", "policy")
        for key, value in getattr(settings, section).model_dump().items()
    }


def _metrics(evaluation: Mapping[str, Any], training: Mapping[str, Any], parity: Mapping[str, Any]) -> dict[str, float]:
    """Flat names: `challenger/ndcg@10`, `challenger/ndcg@10/head_items`, `difference/ndcg@10`, …"""
    found: dict[str, float] = {
        "train/seconds": float(training["seconds"]),
        "train/steps": float(training["steps"]),
        "parity/max_abs_diff": float(parity["max_abs_diff"]),
        "parity/top10_agreement": float(parity["top10_agreement"]),
    }
    for model, report in evaluation["models"].items():
        found |= {f"{model}/{name}": float(value) for name, value in report["overall"].items()}
        for kind in ("by_slice", "by_behaviour"):
            for part, values in report[kind].items():
                found |= {f"{model}/{name}/{part}": float(v) for name, v in values.items() if name != "rows"}
    if evaluation["difference"] is not None:
        metric = f"ndcg@{evaluation['k']}"
        for name in ("difference", "low", "high"):
            found[f"difference/{metric}/{name}"] = float(evaluation["difference"][name])
    return found


def _validation_summary(home: Home) -> dict[str, Any]:
    """Rows by verdict and by broken expectation, of everything delivered so far."""
    lake = Lake(home.lake)
    return {"rows": lake.totals(), "quarantine": [asdict(held) for held in listing(lake)]}
