"""What a person finds in the MLflow UI of a training: one run, its figures, its version."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from relations.errors import DataRejected, DependencyFailed
from stores.bundle import Bundle
from stores.home import Home
from stores.lake import Lake
from stores.mlflow_client import tracking_uri
from stores.quarantine import listing
from stores.registry import Registry
from stores.replay import read_sent, replay
from stores.settings import Settings
from stores.spool import Spool, SpooledRun, read_run
from tasks.cohorts import forgetting_metrics
from tasks.evidence import read_prequential
from tasks.figures import loss_figure, popularity_figure, slice_figure
from tasks.jobs import TrainingJob, write_json
from tasks.scheduling import DECISION
from tasks.spooling import within
from tasks.training import LOSS

TRACK, TRACKED = "track.json", "tracked.json"
"""In the folder of a training: what MLflow is to be told of it, and what it answered."""


@dataclass(frozen=True)
class Tracked:
    version: int
    run_id: str


def prepare_tracking(
    home: Home,
    settings: Settings,
    *,
    job: TrainingJob,
    bundle: Bundle,
    verdict: str,
    passed: bool,
    digests: Mapping[str, str],
) -> None:
    """Write down what MLflow is to be told of a training, as it stands now: it may be told much later."""
    name = job.mode.value if job.sabotage is None else "rehearsal"
    tags = {
        "mode": name,
        "digest": bundle.digest,
        "parent": "" if job.parent is None else str(job.parent),
        "events_version": str(job.events_version),
        "events_digest": digests.get("events", ""),
        "items_version": str(job.items_version),
        "items_digest": digests.get("items", ""),
        "offline.passed": str(passed and job.sabotage is None).lower(),
        "offline.verdict": verdict,
    }
    if job.sabotage is not None:
        tags["sabotage"] = job.sabotage
    if (decided := job.path(home) / DECISION).exists():
        decision = _read(decided)
        tags |= {"decision.action": decision["action"], "decision.because": decision["because"]}
    stated = {
        "digest": bundle.digest,
        "title": f"{name} {bundle.digest[:8]}",
        "tags": tags,
        "params": parameters(settings),
        "data": {
            table: {"version": int(tags[f"{table}_version"]), "digest": digest} for table, digest in digests.items()
        },
        "validation": _validation_summary(home),
    }
    write_json(job.path(home) / TRACK, json.loads(json.dumps(stated, default=str)))


def track_training(home: Home, settings: Settings, folder: Path) -> Tracked:
    """Log the run of the training in `folder` and register its version; the same digest finds the version that is
    there. Raises DependencyFailed when MLflow does not answer, and may then be called again."""
    stated, evaluation = _read(folder / TRACK), _read(folder / "evaluation.json")
    training, exported = _read(folder / "fitted" / "training.json"), _read(folder / "export.json")
    variants = exported.get("variants", [])
    registry, prequential = Registry(home, settings), read_prequential(folder)
    key = str(folder.relative_to(home.root))
    with Spool(folder, read_run(folder) or SpooledRun(key, stated["title"])) as spool:
        for step, loss in training["losses"]:
            spool.add(LOSS, step=int(step), value=float(loss))  # those that were measured before there was a spool
    replay(folder, home=home, registry=registry)
    sent = read_sent(folder, uri=registry.uri)
    run_id = sent.run_id if sent else ""
    metric = f"ndcg@{evaluation['k']}"
    tags = stated["tags"] | _privacy_tags(training)
    with registry.start_run(stated["title"], tags=tags, params=stated["params"], key=key, run_id=run_id) as run:
        run.log_metrics(_metrics(evaluation, training, exported["parity"]) | variant_metrics(variants))
        if variants:
            run.log_table(variants, "variants.json")
        if prequential is not None:
            run.log_metrics(prequential.metrics())
            for day in prequential.days:  # the step is the number of days since the parent's cutoff
                run.log_metrics({f"prequential/ndcg@{prequential.k}/by_day": day.ndcg}, step=day.day)
        run.log_figure(loss_figure(training["losses"]), "figures/loss.png")
        run.log_figure(slice_figure(evaluation["models"], metric=metric), "figures/ndcg_by_slice.png")
        run.log_figure(popularity_figure(evaluation["recommended"]), "figures/popularity.png")
        run.log_dict({key: evaluation[key] for key in evaluation if key != "recommended"}, "evaluation.json")
        for table, data in stated["data"].items():
            run.log_data(table, version=data["version"], digest=data["digest"], uri=str(home.lake / table))
        run.log_dict(stated["validation"], "validation.json")
        version = registry.register(home.releases / stated["digest"], run_id=run.run_id, tags=tags)
    write_json(folder / TRACKED, {"version": version, "run_id": run.run_id})
    (folder / TRACK).unlink(missing_ok=True)
    return Tracked(version, run.run_id)


def track_left(home: Home, settings: Settings) -> int:
    """Tell MLflow of trainings that ended while it did not answer, in their order; returns their number.

    Raises DependencyFailed while it still does not. A training whose files are gone is told of, and passed over.
    """
    left = sorted(home.checkpoints.glob(f"*/{TRACK}"), key=lambda file: file.stat().st_mtime)
    for file in left:
        try:
            track_training(home, settings, file.parent)
        except (DataRejected, OSError) as error:
            logging.getLogger(__name__).warning("%s cannot be told to MLflow any more: %s", file.parent.name, error)
    return len(left)


def track_in_time(home: Home, settings: Settings, folder: Path) -> Tracked | None:
    """`track_training`, after what earlier ones have left. None, and a warning, when MLflow does not answer in time:
    the next training tells it. A local database is waited for, a server for `[tracking] wait_seconds`."""
    uri = tracking_uri(home, settings)

    def track() -> Tracked:
        try:
            with FileLock(home.run / "tracking.lock", timeout=settings.tracking.wait_seconds):
                track_left(home, settings)  # this one is the last of them
        except Timeout as error:
            raise DependencyFailed(f"MLflow at {uri}: another training has been telling it for too long") from error
        return Tracked(**_read(folder / TRACKED))

    try:
        return within(track, seconds=settings.tracking.wait_seconds if uri.startswith(("http:", "https:")) else None)
    except DependencyFailed as error:
        logging.getLogger(__name__).warning("not in MLflow yet, the next training tells it: %s", error)
        return None


def _privacy_tags(training: Mapping[str, Any]) -> dict[str, str]:
    """ε and δ of a training with differentially private steps; nothing of any other."""
    stated = training.get("privacy")
    return {f"privacy.{name}": str(stated[name]) for name in ("epsilon", "delta")} if stated else {}


def parameters(settings: Settings) -> dict[str, Any]:
    return {
        f"{section}.{key}": value
        for section in ("model", "features", "objective", "train", "increment", "evaluation", "policy")
        for key, value in getattr(settings, section).model_dump().items()
    }


def _metrics(evaluation: Mapping[str, Any], training: Mapping[str, Any], parity: Mapping[str, Any]) -> dict[str, float]:
    """Flat names: `challenger/ndcg@10`, `challenger/ndcg@10/low`, `challenger/ndcg@10/head_items`,
    `difference/ndcg@10/low`, …"""
    found: dict[str, float] = {
        "train/seconds": float(training["seconds"]),
        "train/steps": float(training["steps"]),
        "parity/max_abs_diff": float(parity["max_abs_diff"]),
        "parity/top10_agreement": float(parity["top10_agreement"]),
    }
    for model, report in evaluation["models"].items():
        found |= {f"{model}/{name}": float(value) for name, value in report["overall"].items()}
        for name, (low, high) in report["intervals"].items():
            found |= {f"{model}/{name}/low": float(low), f"{model}/{name}/high": float(high)}
        for kind in ("by_slice", "by_behaviour"):
            for part, values in report[kind].items():
                found |= {f"{model}/{name}/{part}": float(v) for name, v in values.items() if name != "rows"}
    found |= forgetting_metrics(evaluation.get("forgetting"))
    if evaluation["difference"] is not None:
        metric = f"ndcg@{evaluation['k']}"
        for name in ("difference", "low", "high"):
            found[f"difference/{metric}/{name}"] = float(evaluation["difference"][name])
    return found


def variant_metrics(variants: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """`variants/int8/ndcg_loss`, `variants/int8/ms_batch_1`, `variants/int8/kept` (1 or 0), … of what was measured."""
    return {
        f"variants/{row['name']}/{name}": float(value)
        for row in variants
        for name, value in row.items()
        if isinstance(value, int | float)
    }


def _validation_summary(home: Home) -> dict[str, Any]:
    """Rows by verdict and by broken expectation, of everything delivered so far."""
    lake = Lake(home.lake)
    return {"rows": lake.totals(), "quarantine": [asdict(held) for held in listing(lake)]}


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
