"""Test, then train: what a model makes of new events before it may learn from them.

Sources: Dawid, "Statistical theory: the prequential approach", JRSS A 1984; Gama, Sebastião & Rodrigues, "On
evaluating stream learning algorithms", Machine Learning 2013. Shapes: N events, R rows.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from model.evaluation import Recommender, evaluate
from model.metrics.intervals import LEVEL, mean_intervals
from model.sequences import Histories, split_by_time

DAY_US = 86_400_000_000
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


@dataclass(frozen=True)
class Figure:
    """A mean NDCG over `rows` rows, with its standard error over users; None: fewer than two users."""

    mean: float
    error: float | None
    rows: int

    @staticmethod
    def of(mean: float, interval: tuple[float, float] | None, rows: int) -> "Figure":
        """From a 95 % interval, taken for a normal one."""
        return Figure(mean, None if interval is None else (interval[1] - interval[0]) / (2 * Z), rows)

    @staticmethod
    def pooled(figures: Iterable["Figure"]) -> "Figure | None":
        """One mean of them all, each by its rows; None without rows.

        As if no user were in two of them: Var = Σ rowsᵢ² errorᵢ² / (Σ rowsᵢ)². A part without an error takes the
        others' variance a row; where none has one, neither has the whole.
        """
        parts = [figure for figure in figures if figure.rows]
        rows = sum(part.rows for part in parts)
        if not rows:
            return None
        mean = sum(part.rows * part.mean for part in parts) / rows
        known = [(part.rows, part.error) for part in parts if part.error is not None]
        if not known:
            return Figure(mean, None, rows)
        variance = sum((n * error) ** 2 for n, error in known) * rows / sum(n for n, _ in known)
        return Figure(mean, variance**0.5 / rows, rows)

    @staticmethod
    def better(*figures: "Figure | None") -> "Figure | None":
        """The highest mean of those that there are."""
        return max((each for each in figures if each is not None), key=lambda each: each.mean, default=None)


@dataclass(frozen=True)
class Day:
    """Rows whose event is `day` whole days (24 hours each) after the model's cutoff."""

    day: int
    rows: int
    ndcg: float


@dataclass(frozen=True)
class Prequential:
    """`overall`: NDCG@k on all new rows. `known`: on rows whose item the model knows, which is what it could have
    got right. `days`: the decay since the cutoff. Without rows all figures are 0, and there are no days."""

    k: int
    overall: Figure
    known: Figure
    interval: tuple[float, float] | None
    days: tuple[Day, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "k": self.k,
            "rows": self.overall.rows,
            "ndcg": self.overall.mean,
            "error": self.overall.error,
            "interval": None if self.interval is None else list(self.interval),
            "known": {"rows": self.known.rows, "ndcg": self.known.mean, "error": self.known.error},
            "days": [{"day": each.day, "rows": each.rows, "ndcg": each.ndcg} for each in self.days],
        }

    def markdown(self) -> str:
        """A line and a table of days; nothing without rows."""
        if not self.overall.rows:
            return ""
        reach = "" if self.interval is None else f" [{self.interval[0]:.4f}, {self.interval[1]:.4f}]"
        rows = "\n".join(f"| {each.day} | {each.rows:,} | {each.ndcg:.4f} |" for each in self.days)
        return (
            f"Before they were learnt from: NDCG@{self.k} {self.overall.mean:.4f}{reach} on {self.overall.rows:,} "
            f"rows, {self.known.mean:.4f} on the {self.known.rows:,} of items that the parent knew.\n\n"
            f"| days since its cutoff | rows | NDCG@{self.k} |\n|---|---|---|\n{rows}\n\n"
        )

    def metrics(self) -> dict[str, float]:
        """Flat names, as MLflow shows them; nothing without rows."""
        if not self.overall.rows:
            return {}
        name = f"prequential/ndcg@{self.k}"
        found = {
            name: self.overall.mean,
            "prequential/rows": float(self.overall.rows),
            f"{name}/known": self.known.mean,
        }
        if self.interval is not None:
            found |= {f"{name}/low": self.interval[0], f"{name}/high": self.interval[1]}
        return found

    @staticmethod
    def from_json(stated: dict[str, Any]) -> "Prequential":
        known, interval = stated["known"], stated["interval"]
        return Prequential(
            stated["k"],
            Figure(stated["ndcg"], stated["error"], stated["rows"]),
            Figure(known["ndcg"], known["error"], known["rows"]),
            None if interval is None else (interval[0], interval[1]),
            tuple(Day(**each) for each in stated["days"]),
        )


def judge_ahead(
    recommender: Recommender,
    histories: Histories,
    *,
    new_N: np.ndarray,
    cutoff_us: int,
    k: int = 10,
    exclude_seen: bool = True,
    max_users: int = 5_000,
    seed: int = 0,
) -> Prequential:
    """NDCG@k of `recommender` on the events of `new_N`, each with what was visible before it.

    `histories`: of the users with new events, old events included. `cutoff_us`: the model's; a late event from before
    it is no test, since the model has seen what came later. At most `max_users` users, drawn with `seed`, bound the
    cost.
    """
    if not len(histories):
        return _nothing(k)
    holdout = split_by_time(histories, cutoff_us=cutoff_us).holdout
    holdout = holdout.keep(new_N[holdout.event_R]).sample_users(max_users, seed=seed)
    found = evaluate(recommender, holdout, k=k, exclude_seen=exclude_seen, draws=0)
    if not len(found):
        return _nothing(k)
    known_I = np.isin(histories.items, np.array(recommender.items, dtype=object))
    known_R = known_I[histories.item_N[found.event_R]]
    whole, interval = _figure(found.ndcg_R, found.user_R)
    known = _figure(found.ndcg_R[known_R], found.user_R[known_R])[0]
    day_R = (histories.time_N[found.event_R] - cutoff_us) // DAY_US
    days = tuple(
        Day(int(day), int((day_R == day).sum()), float(found.ndcg_R[day_R == day].mean())) for day in np.unique(day_R)
    )
    return Prequential(k, whole, known, interval, days)


def _nothing(k: int) -> Prequential:
    none = Figure(0.0, None, 0)
    return Prequential(k, none, none, None, ())


def _figure(ndcg_R: np.ndarray, user_R: np.ndarray) -> tuple[Figure, tuple[float, float] | None]:
    if not len(ndcg_R):
        return Figure(0.0, None, 0), None
    # one user's rows hang together, and tell nothing about another user
    interval = mean_intervals({"": ndcg_R}, user_R=user_R)[""] if len(np.unique(user_R)) > 1 else None
    return Figure.of(float(ndcg_R.mean()), interval, len(ndcg_R)), interval
