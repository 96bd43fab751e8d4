"""What a look sees: per metric, the sums of each arm and day, over the users matured so far."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from gate.estimator import ArmSums, total
from gate.trial import CHALLENGER, CHAMPION, stamp
from relations.errors import UsageError


@dataclass(frozen=True)
class DaySums:
    """Users by the UTC day of their first exposure."""

    day: date
    champion: ArmSums
    challenger: ArmSums


@dataclass(frozen=True)
class MetricSums:
    """One metric, by day in ascending order; the arms' totals are the days' sums."""

    days: tuple[DaySums, ...]

    @staticmethod
    def from_rows(rows: Iterable[Mapping[str, Any]]) -> "MetricSums":
        """From rows with `arm`, `day` (a date or its ISO text) and the fifteen sums, in any order.

        Raises UsageError for an arm that is neither champion nor challenger, or an arm and day that come twice.
        """
        found: dict[date, dict[str, ArmSums]] = {}
        for row in rows:
            arm = str(row["arm"])
            day = row["day"] if isinstance(row["day"], date) else date.fromisoformat(str(row["day"]))
            if arm not in (CHAMPION, CHALLENGER):
                raise UsageError(f"sums of {day}: arm {arm!r} is neither {CHAMPION} nor {CHALLENGER}")
            arms = found.setdefault(day, {})
            if arm in arms:
                raise UsageError(f"sums of {day}: {arm} comes twice; pass one row an arm and day")
            arms[arm] = ArmSums.from_mapping(row)
        empty = ArmSums()
        return MetricSums(
            tuple(
                DaySums(day, champion=arms.get(CHAMPION, empty), challenger=arms.get(CHALLENGER, empty))
                for day, arms in sorted(found.items())
            )
        )

    @property
    def champion(self) -> ArmSums:
        return total(day.champion for day in self.days)

    @property
    def challenger(self) -> ArmSums:
        return total(day.challenger for day in self.days)

    def rows(self) -> list[dict[str, Any]]:
        """The inverse of `from_rows`, arms without users left out."""
        return [
            {"day": day.day.isoformat(), "arm": arm, **sums.as_json()}
            for day in self.days
            for arm, sums in ((CHAMPION, day.champion), (CHALLENGER, day.challenger))
            if sums.n
        ]


@dataclass(frozen=True)
class LookSums:
    """One look's data, cumulative from the trial's start.

    `watermark`: event time up to which data are complete. `exposed`: users shown anything, (champion, challenger),
    without bots, matured or not. `metrics`: by name, the primary one and each guardrail, over matured users.
    `crossed`: users seen in both arms. `problems`: why these data cannot be trusted, in words; any problem means HOLD.
    """

    watermark: datetime
    exposed: tuple[int, int]
    metrics: Mapping[str, MetricSums]
    crossed: int = 0
    problems: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "watermark": stamp(self.watermark),
            "exposed": list(self.exposed),
            "metrics": {name: sums.rows() for name, sums in self.metrics.items()},
            "crossed": self.crossed,
            "problems": list(self.problems),
        }

    @staticmethod
    def from_json(stated: Mapping[str, Any]) -> "LookSums":
        """The look whose `as_json` this is; a replay of recorded looks decides the same, bit for bit."""
        champion, challenger = stated["exposed"]
        return LookSums(
            watermark=datetime.fromisoformat(stated["watermark"]),
            exposed=(int(champion), int(challenger)),
            metrics={name: MetricSums.from_rows(rows) for name, rows in stated["metrics"].items()},
            crossed=int(stated["crossed"]),
            problems=tuple(stated["problems"]),
        )


def check_looks(looks: Sequence[LookSums], *, names: Sequence[str]) -> None:
    """Raises UsageError unless there is a look, time does not run backwards, and every look has each metric."""
    if not looks:
        raise UsageError("no look to decide on; pass the looks so far, the newest last")
    for number, look in enumerate(looks, start=1):
        absent = [name for name in names if name not in look.metrics]
        if absent:
            raise UsageError(f"look {number}: no sums of {', '.join(absent)}, which the trial's config names")
        if number > 1 and look.watermark < looks[number - 2].watermark:
            raise UsageError(f"look {number}: its watermark is before the look before it; pass looks in order")
