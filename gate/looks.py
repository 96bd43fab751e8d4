"""What a look sees: per metric, the sums of each arm and day, over the users matured so far."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property
from typing import Any

from gate.estimator import ArmSums, total
from gate.trial import stamp
from relations.errors import UsageError


@dataclass(frozen=True)
class DaySums:
    """Users by the UTC day of their first exposure; an arm without users may be missing."""

    day: date
    arms: Mapping[str, ArmSums]


@dataclass(frozen=True)
class MetricSums:
    """One metric, by day in ascending order; an arm's total is its days' sum."""

    days: tuple[DaySums, ...]

    @staticmethod
    def from_rows(rows: Iterable[Mapping[str, Any]]) -> "MetricSums":
        """From rows with `arm`, `day` (a date or its ISO text) and the fifteen sums, in any order.

        Raises UsageError for an arm and day that come twice.
        """
        found: dict[date, dict[str, ArmSums]] = {}
        for row in rows:
            arm = str(row["arm"])
            day = row["day"] if isinstance(row["day"], date) else date.fromisoformat(str(row["day"]))
            arms = found.setdefault(day, {})
            if arm in arms:
                raise UsageError(f"sums of {day}: {arm} comes twice; pass one row an arm and day")
            arms[arm] = ArmSums.from_mapping(row)
        return MetricSums(tuple(DaySums(day, dict(sorted(arms.items()))) for day, arms in sorted(found.items())))

    def arm(self, name: str) -> ArmSums:
        return self._totals.get(name, ArmSums())

    @cached_property
    def _totals(self) -> Mapping[str, ArmSums]:
        """Every later look asks for each earlier one's."""
        names = {name for day in self.days for name in day.arms}
        return {name: total(day.arms[name] for day in self.days if name in day.arms) for name in names}

    def rows(self) -> list[dict[str, Any]]:
        """The inverse of `from_rows`, arms without users left out."""
        return [
            {"day": day.day.isoformat(), "arm": arm, **sums.as_json()}
            for day in self.days
            for arm, sums in sorted(day.arms.items())
            if sums.n
        ]


@dataclass(frozen=True)
class LookSums:
    """One look's data, cumulative from the comparison's beginning. Counts and sums are by arm; a missing one is 0.

    `watermark`: event time up to which data are complete. `since`: when the comparison began. `exposed`: users shown
    anything, without bots, matured or not. `metrics`: by name, the primary one and each guardrail, over matured users.
    `slices`: the primary metric of each declared slice. `crossed`: users seen in two arms. `bots`: users with a request
    that the bot rules left out. `late`: outcomes after their user's window, counted and left out. `out`: challengers
    that an earlier look has rejected. `problems`: why these data cannot be trusted, in words; any problem means HOLD.
    `dominance`: where the primary metric is of values, the largest share of an arm's ΣS that one user has; told beside
    the decision, never a part of it.
    """

    watermark: datetime
    since: datetime
    exposed: Mapping[str, int]
    metrics: Mapping[str, MetricSums]
    slices: Mapping[str, Mapping[str, ArmSums]] = field(default_factory=dict)
    crossed: int = 0
    bots: Mapping[str, int] = field(default_factory=dict)
    late: Mapping[str, int] = field(default_factory=dict)
    out: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    dominance: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        told = {"dominance": dict(self.dominance)} if self.dominance else {}  # looks at counts are as they ever were
        return {
            "watermark": stamp(self.watermark),
            "since": stamp(self.since),
            "exposed": dict(self.exposed),
            "metrics": {name: sums.rows() for name, sums in self.metrics.items()},
            "slices": {name: {arm: sums.as_json() for arm, sums in arms.items()} for name, arms in self.slices.items()},
            "crossed": self.crossed,
            "bots": dict(self.bots),
            "late": dict(self.late),
            "out": list(self.out),
            "problems": list(self.problems),
            **told,
        }

    @staticmethod
    def from_json(stated: Mapping[str, Any]) -> "LookSums":
        """The look whose `as_json` this is; a replay of recorded looks decides the same, bit for bit."""
        return LookSums(
            watermark=datetime.fromisoformat(stated["watermark"]),
            since=datetime.fromisoformat(stated["since"]),
            exposed={arm: int(users) for arm, users in stated["exposed"].items()},
            metrics={name: MetricSums.from_rows(rows) for name, rows in stated["metrics"].items()},
            slices={
                name: {arm: ArmSums.from_mapping(sums) for arm, sums in arms.items()}
                for name, arms in stated["slices"].items()
            },
            crossed=int(stated["crossed"]),
            bots={arm: int(users) for arm, users in stated["bots"].items()},
            late={arm: int(outcomes) for arm, outcomes in stated["late"].items()},
            out=tuple(stated["out"]),
            problems=tuple(stated["problems"]),
            dominance={arm: float(share) for arm, share in stated.get("dominance", {}).items()},
        )


def check_looks(looks: Sequence[LookSums], *, metrics: Sequence[str], slices: Sequence[str]) -> None:
    """Raises UsageError unless there is a look, time does not run backwards, and each has every metric and slice."""
    if not looks:
        raise UsageError("no look to decide on; pass the looks so far, the newest last")
    for number, look in enumerate(looks, start=1):
        absent = [name for name in metrics if name not in look.metrics]
        absent += [name for name in slices if name not in look.slices]
        if absent:
            raise UsageError(f"look {number}: no sums of {', '.join(absent)}, which the trial's config names")
        if number > 1 and look.watermark < looks[number - 2].watermark:
            raise UsageError(f"look {number}: its watermark is before the look before it; pass looks in order")
