"""The judgement on a challenger before anybody sees it: the offline comparison, forgetting, and stability."""

from dataclasses import dataclass

from model.continual.cohorts import Cohorts
from model.continual.forgetting import CohortChange, measure_forgetting
from model.continual.stability import Stability, StabilityBounds, measure_stability
from model.evaluation import Evaluation, Recommender, compare, evaluate


@dataclass(frozen=True)
class Judgement:
    cohorts: tuple[CohortChange, ...]
    stability: Stability | None
    """None where no row of the panel could be ranked."""
    breaches: tuple[str, ...]


@dataclass(frozen=True)
class Limits:
    """`margin`, `min_users`: see `measure_forgetting`; cohorts of fewer than `hide_below` users show no figures."""

    margin: float
    min_users: int
    stability: StabilityBounds
    hide_below: int = 1


def judge_cohorts(
    *,
    champion: Recommender,
    challenger: Recommender,
    cohorts: Cohorts,
    limits: Limits,
    k: int = 10,
    exclude_seen: bool = True,
) -> Judgement:
    """Both rank the frozen rows. One breach, of any cohort or bound, is enough to stop the challenger."""
    before, after = (
        evaluate(model, cohorts.holdout, k=k, exclude_seen=exclude_seen, draws=0) for model in (champion, challenger)
    )
    changes = measure_forgetting(
        champion=before,
        challenger=after,
        cohort_R=cohorts.of_rows(before.event_R),
        margin=limits.margin,
        min_users=limits.min_users,
        hide_below=limits.hide_below,
    )
    stability = measure_stability(champion=champion, challenger=challenger, holdout=cohorts.holdout, k=k)
    breaches = [change.verdict(k=k, margin=limits.margin) for change in changes if change.breach]
    return Judgement(changes, stability, (*breaches, *stability.breaches(limits.stability, k=k)))


def holds_offline(challenger: Evaluation, champion: Evaluation, *, tolerance: float) -> bool:
    """NDCG@k at least the champion's less `tolerance` of it, or worse by an accident: the interval of the difference
    over users holds 0. False without rows."""
    if not len(challenger):
        return False
    name = f"ndcg@{challenger.k}"
    worse = challenger.overall[name] < champion.overall[name] * (1 - tolerance)
    return not (worse and compare(challenger, champion).high < 0)
