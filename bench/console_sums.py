"""Trials as a gate would have seen them: sums drawn from plausible users, judged by the gate itself.

Nothing is made up behind the numbers: each look's decision is `gate.decision.decide` of its sums, so that a replay
decides the same, bit for bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

import numpy as np

from gate.decision import Judgement, decide
from gate.estimator import ArmSums
from gate.looks import LookSums, MetricSums
from gate.metrics import Metric, Value
from gate.states import TrialMode
from gate.trial import CHAMPION, StagePlan, TrialConfig

RATES = {"clicks": 0.11, "purchases": 0.02, "revenue": 0.4, "latency": 21.0, "failures": 0.001}
"""Of outcomes an impression."""
SHARES = {"new users": 0.3, "known users": 0.7, "app": 0.55}
"""Of the users."""
SHADOW_HOURS = 7


@dataclass(frozen=True)
class Study:
    """What users make of a challenger. `lift`: of the primary metric, relative; `slices`: where a slice differs.

    `users`: of one arm that mature on a day.
    """

    lift: float
    users: int = 600
    slices: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    def look(self, config: TrialConfig, day: int, *, since: datetime) -> LookSums:
        """All users matured by the end of day `day` of the comparison."""
        arms = config.arms
        metrics = {
            metric.name: MetricSums.from_rows(
                {"arm": arm, "day": (since + timedelta(days=number)).date(), **sums.as_json()}
                for number in range(day)
                for arm in arms
                for sums in [self._sums(metric, arm, place=place, number=number, primary=metric is config.primary)]
            )
            for place, metric in enumerate((config.primary, *config.guardrails))
        }
        slices = {part.name: {arm: self._slice(part.name, arm, day=day) for arm in arms} for part in config.slices}
        return LookSums(
            watermark=since + timedelta(days=day, hours=1),
            since=since,
            metrics=metrics,
            slices=slices,
            exposed={arm: (day + 1) * self.users + 3 * place for place, arm in enumerate(arms)},
            crossed=1,
            bots=dict.fromkeys(arms, 3 * day + 9),
            late=dict.fromkeys(arms, 40 + day),
        )

    def judge(self, config: TrialConfig, days: int, *, since: datetime) -> list[Judgement]:
        """A look a day."""
        looks = [self.look(config, day, since=since) for day in range(1, days + 1)]
        return [decide(config, looks[:number]) for number in range(1, days + 1)]

    def _sums(self, metric: Metric, arm: str, *, place: int, number: int, primary: bool) -> ArmSums:
        moved = self.lift if primary and arm != CHAMPION else 0.0
        spread = 1.0 if metric.value is Value.COUNT else 0.5
        seed = 100_000 * self.seed + 1_000 * number + 10 * place + (arm != CHAMPION)
        return day_sums(seed, self.users, moved, RATES.get(metric.name, 0.1), spread)

    def _slice(self, name: str, arm: str, *, day: int) -> ArmSums:
        moved = 0.0 if arm == CHAMPION else self.slices.get(name, self.lift)
        seed = 100_000 * self.seed + 77_000 + 10 * len(name) + (arm != CHAMPION)
        return day_sums(seed, round(day * self.users * SHARES.get(name, 0.5)), moved, RATES["clicks"], 1.0)


@lru_cache(maxsize=4096)
def day_sums(seed: int, users: int, lift: float, rate: float, spread: float) -> ArmSums:
    """One arm and day: outcomes at `rate` · (1 + lift) an impression, and a pre-period of the same tastes."""
    random = np.random.default_rng(seed)
    taste_U = rate * random.gamma(4.0, 0.25, users)
    shown_U, before_U = 1 + random.poisson(8, users), random.poisson(6, users)
    hits_U = random.poisson(taste_U * (1 + lift) * shown_U * spread) / spread
    hits_before_U = random.poisson(taste_U * before_U)
    columns = (each.astype(float) for each in (hits_U, shown_U, hits_before_U, before_U))
    return ArmSums.from_users(*columns)


def served(config: TrialConfig, requests: int) -> dict[str, Any]:
    """How each arm's answers came, the challenger a little slower."""
    digests = {CHAMPION: config.champion_digest, **{each.name: each.digest for each in config.challengers}}
    return {
        arm: {
            "requests": requests - 11 * place,
            "failures": 2 + place,
            "p50_ms": 6.25 + 0.5 * place,
            "p99_ms": 21.5 + 2.0 * place,
            "digests": [digests[arm]],
        }
        for place, arm in enumerate(config.arms)
    }


def stage_look(config: TrialConfig, place: int, *, since: datetime, stays: bool = False) -> dict[str, Any]:
    """A look at the stage before the comparison that stands at `place` of the plan: it goes on, or (`stays`) waits."""
    plan = config.stages[place]
    following: StagePlan | None = None if stays else config.stages[place + 1]
    name = {TrialMode.SHADOW: "requests were scored", TrialMode.CANARY: "users were shown the challenger"}[plan.mode]
    if following is None:
        said = f"{plan.mode}: {plan.least // 2:,} of {plan.least:,} {name}"
    else:
        share = f" with {following.share:g} of users" if following.share else ""
        said = f"on to {following.mode}{share}: {plan.hours:g} hours are over, and {plan.least + 211:,} {name}"
    return {
        "stage": str(plan.mode),
        "since": since.isoformat(),
        "watermark": (since + timedelta(hours=SHADOW_HOURS)).isoformat(),
        "verdict": "CONTINUE",
        "decision": "CONTINUE",
        "reasons": [said],
        "out": [],
        "next": None if following is None else {"mode": str(following.mode), "share": following.share},
        "digests": {each.name: each.digest for each in config.challengers},
        "served": served(config, 2_000 if plan.mode is TrialMode.SHADOW else round(20_000 * plan.share) + 300),
    }


def compare_look(judgement: Judgement, config: TrialConfig, *, day: int) -> dict[str, Any]:
    stated = judgement.as_json()
    return {
        **stated,
        "decision": stated["verdict"],
        "stage": str(TrialMode.COMPARE),
        "served": served(config, 5_200 * day),
    }
