"""The offline check: challenger, champion and popularity on the same newest rows."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from model.continual.judging import Judgement, holds_offline, judge_cohorts
from model.evaluation import Evaluation, RankerRecommender, Recommender, compare, evaluate
from model.fitted import load_fitted
from model.offered import Offered, offered_rows
from stores.home import Home
from stores.lake import Lake
from stores.settings import Settings
from tasks.allowed import withdrawn_items
from tasks.cohorts import forgetting_report, limits_of, load_cohorts
from tasks.describing import item_facts
from tasks.jobs import TrainingJob, write_json
from tasks.material import Material, load_material
from tasks.progress import report
from tasks.training import load_version


@task(name="evaluate", cache_policy=NO_CACHE)
def evaluate_model(home: Home, settings: Settings, job: TrainingJob) -> Path:
    """Test challenger, champion and popularity on the same newest rows; returns the report's file.

    The offline check: NDCG@k not below the champion's by more than the tolerance, unless by accident, or with no
    champion not below popularity's; and on the frozen cohorts neither forgetting nor instability (`tasks.cohorts`).
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
    recommenders["popularity"] = material.popularity
    lake = Lake.of(home, settings.lake)
    facts = item_facts(lake, version=job.items_version)
    withdrawn = withdrawn_items(lake, version=job.items_version)
    holdout = offered_rows(holdout, withdrawn=withdrawn)
    for number, (name, recommender) in enumerate(recommenders.items(), start=1):
        report("evaluation", number, len(recommenders))
        evaluations[name] = evaluate(
            Offered(recommender, withdrawn=withdrawn),
            holdout,
            k=settings.evaluation.k,
            exclude_seen=settings.policy.exclude_seen,
            facts=facts,
            min_users=settings.privacy.k,
        )
    judgement = _judge_cohorts(home, settings, job, recommenders)
    write_json(file, _evaluation_report(settings, material, evaluations, judgement))
    return file


def _judge_cohorts(
    home: Home, settings: Settings, job: TrainingJob, recommenders: Mapping[str, Recommender]
) -> Judgement | None:
    cohorts = load_cohorts(home, settings, job)
    if cohorts is None:
        return None
    return judge_cohorts(
        champion=recommenders["champion"],
        challenger=recommenders["challenger"],
        cohorts=cohorts,
        limits=limits_of(settings, job.mode),
        k=settings.evaluation.k,
        exclude_seen=settings.policy.exclude_seen,
    )


def _evaluation_report(
    settings: Settings, material: Material, evaluations: dict[str, Evaluation], judgement: Judgement | None
) -> dict[str, Any]:
    ndcg = f"ndcg@{settings.evaluation.k}"
    challenger = evaluations["challenger"]
    rival_name = "champion" if "champion" in evaluations else "popularity"
    rival = evaluations[rival_name]
    ours, theirs = challenger.overall[ndcg], rival.overall[ndcg]
    rows = len(challenger)
    difference = asdict(compare(challenger, rival)) if rows else None
    passed = (
        holds_offline(challenger, rival, tolerance=settings.evaluation.tolerance)
        if rival_name == "champion"
        else rows > 0 and ours >= theirs  # what cannot beat popularity is no first model, not even by accident
    )
    verdict = f"{ndcg} {ours:.4f} against {theirs:.4f} of the {rival_name} on {rows} rows"
    if not rows:
        verdict = "no rows to test on: the newest slice holds no target"
    if judgement is not None and judgement.breaches:
        passed, verdict = False, f"{verdict}; {'; '.join(judgement.breaches)}"
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
        "forgetting": forgetting_report(judgement, k=settings.evaluation.k),
        "rival": rival_name,
        "passed": passed,
        "verdict": verdict,
    }
