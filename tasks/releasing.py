"""From a fitted model to a registered version: export, parity, bundle, tracking run, ledger entry."""

import importlib.metadata
import json
import platform
import shutil
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from prefect import task
from prefect.cache_policies import NO_CACHE

from model.compression.forms import markdown
from model.continual.prequential import Prequential
from model.export import export_release
from model.fitted import load_fitted
from model.nearest import add_nearest
from relations.arrivals import visible
from relations.digest import content_digest
from relations.errors import GateRefused
from relations.schemas import OUTSIDE_DIGEST, SCHEMAS
from stores.bundle import open_bundle, write_bundle
from stores.home import Home
from stores.lake import Lake
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.settings import Settings
from stores.signatures import sign
from tasks.cohorts import forgetting_markdown
from tasks.compressing import add_variants, described
from tasks.jobs import Mode, TrainingJob, write_json
from tasks.material import load_material
from tasks.options import nearest_of
from tasks.tracking import Tracked, prepare_tracking, track_in_time


@dataclass(frozen=True)
class Released:
    """A registered version, as plain values."""

    version: int
    digest: str
    mode: str
    passed: bool
    verdict: str
    parity: dict[str, Any]
    fit_seconds: float
    run_id: str
    evaluation: dict[str, Any]
    variants: list[dict[str, Any]]
    """A row a form of the network, float32 first."""

    def as_json(self) -> dict[str, Any]:
        stated = asdict(self)
        evaluation = stated.pop("evaluation")
        return {
            **stated,
            "metrics": {name: each["overall"] for name, each in evaluation["models"].items()},
            "forgetting": evaluation["forgetting"],
        }

    @property
    def table(self) -> list[dict[str, Any]]:
        """One row a model and slice."""
        rows = []
        for model, report in self.evaluation["models"].items():
            for name, values in [("overall", report["overall"]), *sorted(report["by_slice"].items())]:
                rows.append({"model": model, "slice": name, **{key: round(value, 4) for key, value in values.items()}})
        return rows


@task(name="export", cache_policy=NO_CACHE)
def export_model(home: Home, settings: Settings, job: TrainingJob) -> str:
    """Write the ONNX files, prove parity, add the variants that hold, and release the bundle; returns its digest.

    Raises GateRefused, and leaves no bundle, when torch and ONNX Runtime disagree. Raises UsageError for a signing key
    that is none; the next try finds the training done.
    """
    file = job.path(home) / "export.json"
    if file.exists():
        digest: str = json.loads(file.read_text(encoding="utf-8"))["digest"]
        open_bundle(home.releases, digest)
        return digest
    fitted = load_fitted(job.path(home) / "fitted")
    folder = job.path(home) / "exported"
    shutil.rmtree(folder, ignore_errors=True)
    material = load_material(home, settings, job)
    exported = export_release(
        fitted,
        folder,
        histories=material.train,
        top10=settings.release.parity_top10,
        max_abs=settings.release.parity_max_abs,
    )
    parity = asdict(exported.parity)
    if not exported.parity.holds:
        shutil.rmtree(folder, ignore_errors=True)
        raise GateRefused(
            f"{job.folder}: ONNX Runtime does not reproduce torch: top-10 agreement {parity['top10_agreement']:.4f} "
            f"(at least {settings.release.parity_top10}), largest difference {parity['max_abs_diff']:.2g} "
            f"(at most {settings.release.parity_max_abs}); no bundle was written"
        )
    made = add_variants(home, settings, job, fitted=fitted, exported=exported, material=material)
    variants = [each.row.as_json() for each in made]
    # last, since it moves the graph's weights into a file of their own
    nearest = add_nearest(fitted, folder, holdout=material.holdout, options=nearest_of(settings))
    attestation = {
        "parity": parity,
        "variants": variants,
        "nearest": nearest.stated(),
        "events_version": job.events_version,
        "items_version": job.items_version,
        "machine": {"system": platform.platform(), "python": platform.python_version()},
        "libraries": {name: importlib.metadata.version(name) for name in ("torch", "onnx", "transformers")},
    }
    describe = exported.describe | described(made)
    if job.mode is Mode.INCREMENTAL and job.parent is not None:
        describe["parent_digest"] = Ledger.of(home, settings).version(job.parent).digest
    bundle = write_bundle(folder, describe=describe, releases=home.releases, attestation=attestation)
    if settings.release.signing_key:
        sign(bundle, Path(settings.release.signing_key))
    shutil.rmtree(folder, ignore_errors=True)
    write_json(file, {"digest": bundle.digest, "parity": parity, "variants": variants})
    return bundle.digest


@task(name="register", cache_policy=NO_CACHE)
def register_model(home: Home, settings: Settings, job: TrainingJob, *, submitter: str, now: datetime) -> Released:
    """Log the run, register the version, enter it in the ledger. One version a digest, however often it is repeated."""
    folder = job.path(home)
    exported = _read(folder / "export.json")
    evaluation = _read(folder / "evaluation.json")
    training = _read(folder / "fitted" / "training.json")
    ledger = Ledger.of(home, settings)
    known = next((record for record in ledger.versions() if record.digest == exported["digest"]), None)
    if known is None:
        prepare_tracking(
            home,
            settings,
            job=job,
            bundle=open_bundle(home.releases, exported["digest"]),
            verdict=evaluation["verdict"],
            passed=evaluation["passed"],
            digests=_data_digests(home, settings, job),
        )
        tracked = track_in_time(home, settings, folder)
        number = _number(ledger, tracked)
        ledger.record_version(
            VersionRecord(
                version=number,
                digest=exported["digest"],
                mode=job.mode.value if job.sabotage is None else "sabotage",
                parent=job.parent if job.sabotage is None else None,
                events_version=job.events_version,
                items_version=job.items_version,
                cutoff_us=evaluation["cutoff_us"],
                offline_passed=evaluation["passed"] and job.sabotage is None,
                metrics={name: each["overall"] for name, each in evaluation["models"].items()},
                run_id=tracked.run_id if tracked else "",
                created=now,
                checkpoint=f"{job.folder}/fitted",
                note=evaluation["verdict"] if job.sabotage is None else f"made worse on purpose: {job.sabotage}",
                submitter=submitter,
            )
        )
        known = ledger.version(number)
    shutil.rmtree(folder / "run", ignore_errors=True)  # the resume checkpoint; the fitted model is what stays
    return Released(
        version=known.version,
        digest=known.digest,
        mode=known.mode,
        passed=known.offline_passed,
        verdict=evaluation["verdict"],
        parity=exported["parity"],
        fit_seconds=training["seconds"],
        run_id=known.run_id,
        evaluation=evaluation,
        variants=exported.get("variants", []),
    )


def summary_markdown(released: Released, prequential: Prequential | None = None) -> str:
    """A training for the Prefect UI: what came in, what was learnt, what it cost."""
    evaluation = released.evaluation
    rows = "\n".join(
        f"| {row['model']} | {row['slice']} | {row.get('rows', '')} | "
        + " | ".join(f"{row[name]:.4f}" for name in (f"ndcg@{evaluation['k']}", f"hr@{evaluation['k']}", "mrr"))
        + " |"
        for row in released.table
    )
    forms = f"{markdown(released.variants)}\n\n" if len(released.variants) > 1 else ""
    difference = evaluation["difference"]
    against = (
        ""
        if difference is None
        else f"Against the {evaluation['rival']}: {difference['difference']:+.4f} "
        f"[{difference['low']:+.4f}, {difference['high']:+.4f}] over {difference['users']:,} users.\n\n"
    )
    return (
        f"# v{released.version} ({released.mode})\n\n{released.verdict} → "
        f"{'candidate' if released.passed else 'not a candidate'}\n\n{against}"
        f"{evaluation['new_events']:,} new events · fit {released.fit_seconds:.1f} s · "
        f"parity: top-10 agreement {released.parity['top10_agreement']:.4f}, "
        f"largest difference {released.parity['max_abs_diff']:.1e}\n\n"
        f"{'' if prequential is None else prequential.markdown()}"
        f"{forgetting_markdown(evaluation['forgetting'])}"
        f"| model | slice | rows | NDCG@{evaluation['k']} | HR@{evaluation['k']} | MRR |\n"
        f"|---|---|---|---|---|---|\n{rows}\n\n"
        f"{forms}"
        f"MLflow run `{released.run_id}` · digest `{released.digest}`\n"
    )


def _number(ledger: Ledger, tracked: Tracked | None) -> int:
    """MLflow's number, so that people find the version by it. While MLflow is away versions are numbered on without
    it, and it goes by their digests."""
    taken = [record.version for record in ledger.versions()]
    if tracked is not None and tracked.version not in taken:
        return tracked.version
    return max(taken, default=0) + 1


def _data_digests(home: Home, settings: Settings, job: TrainingJob) -> dict[str, str]:
    """Content digests of the table versions that were trained on: equal digests, equal data.

    What a version held is told by receipts: its own files may be vacuumed by now.
    """
    lake = Lake.of(home, settings.lake)
    deliveries = lake.relation("deliveries")
    versions = {"events": job.events_version, "items": job.items_version}
    found = {}
    for table, version in versions.items():
        if version >= 0:
            names = [name for name in SCHEMAS[table].names if name not in OUTSIDE_DIGEST[table]]
            rows = visible(lake.relation(table), deliveries, version=version, table=table).select(names)
            schema = pa.schema([SCHEMAS[table].field(name) for name in names])
            found[table] = content_digest(rows.to_pyarrow().cast(schema))
    return found


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
