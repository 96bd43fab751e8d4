"""Does a challenger still rank what the champion ranked well? NDCG on frozen cohorts, before and after.

Shapes: R rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from model.evaluation import Evaluation
from model.metrics.intervals import LEVEL, difference_interval


@dataclass(frozen=True)
class CohortChange:
    """NDCG@k of one cohort by the champion (`before`) and the challenger (`after`), and the change over `before` with
    its interval. `judged` is false for a cohort that says nothing, of too few users or never hit by the champion."""

    cohort: str
    users: int
    rows: int
    before: float
    after: float
    change: float
    low: float
    high: float
    judged: bool
    breach: bool

    @property
    def said(self) -> str:
        return "breach" if self.breach else "held" if self.judged else "too few to tell"

    def verdict(self, *, k: int, margin: float) -> str:
        return (
            f"forgetting: ndcg@{k} of {self.cohort} {self.before:.4f} → {self.after:.4f}, {self.change:+.1%} "
            f"[{self.low:+.1%}, {self.high:+.1%}] over {self.users} users, beyond [forgetting] margin = {margin:g}"
        )


def measure_forgetting(
    *,
    champion: Evaluation,
    challenger: Evaluation,
    cohort_R: Mapping[str, np.ndarray],
    margin: float,
    min_users: int,
    hide_below: int = 1,
    level: float = LEVEL,
) -> tuple[CohortChange, ...]:
    """The change in every cohort, and whether it is a breach: a loss of more than `margin` of the champion's NDCG that
    is no accident, the whole of its interval (bootstrap over users) lying below no change.

    The intervals hold together with probability `level` (Bonferroni over the cohorts): with six at 95 % each, up to
    one clean challenger in seven would be stopped by chance. To ask that an interval lie beyond the margin would let
    through, with a few hundred users, losses of many times the margin. Absent are empty cohorts, and those that would
    give away fewer than `hide_below` users: by being them, or by being all others. Raises ValueError when the two were
    not evaluated on the same rows.
    """
    if not np.array_equal(challenger.event_R, champion.event_R) or challenger.k != champion.k:
        raise ValueError("the two evaluations differ in rows or k; evaluate both on one holdout")
    shown = {name: chosen_R for name, chosen_R in cohort_R.items() if _may_show(champion.user_R, chosen_R, hide_below)}
    level = 1 - (1 - level) / max(1, len(shown))
    found = []
    for name, chosen_R in shown.items():
        user_R, before_R, after_R = champion.user_R[chosen_R], champion.ndcg_R[chosen_R], challenger.ndcg_R[chosen_R]
        difference = difference_interval(after_R, before_R, user_R=user_R, level=level)
        before = float(before_R.mean())
        judged = difference.users >= max(2, min_users) and before > 0
        change, low, high = (
            (difference.difference / before, difference.low / before, difference.high / before)
            if judged
            else (0.0,) * 3
        )
        found.append(
            CohortChange(
                cohort=name,
                users=difference.users,
                rows=int(chosen_R.sum()),
                before=before,
                after=float(after_R.mean()),
                change=change,
                low=low,
                high=high,
                judged=judged,
                breach=judged and change < -margin and high < 0,
            )
        )
    return tuple(found)


def _may_show(user_R: np.ndarray, chosen_R: np.ndarray, least: int) -> bool:
    inside, outside = (len(np.unique(user_R[which_R])) for which_R in (chosen_R, ~chosen_R))
    return inside >= max(1, least) and not 0 < outside < least
