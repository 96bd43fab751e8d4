"""The offline check: challenger, champion and popularity on the same newest rows."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from model.evaluation import Evaluation, RankerRecommender, Recommender, compare, evaluate
from model.fitted import load_fitted
from model.popularity import Popularity
from stores.home import Home
from stores.lake import Lake
from stores.settings import Settings
from tasks.describing import item_facts
from tasks.jobs import TrainingJob, write_json
from tasks.material import Material, load_material
from tasks.progress import report
from tasks.training import load_version


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
