"""What luck may have promoted: the α that a home's trials have spent, added up.

Each trial keeps its own promise: at most α false promotions if its challenger is no better. A home that tries again
and again makes that promise again and again. If no challenger were ever better, the expected number of false promotions
is at most the sum of what the trials spent, whatever depends on what (linearity of expectation; with K challengers at
α/K each, their sum). Divided by the promotions that were made, it says what share of them luck alone could explain: a
cautious reading, as some challengers surely were better (compare the false discovery rate of Benjamini & Hochberg,
JRSS B 1995).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

YEAR = timedelta(days=365.25)
SHORTEST = timedelta(days=28)
"""A yearly rate from less time than this would be noise: a younger ledger counts as so old."""
PACES = (6, 12, 26, 52, 104)
"""Trials a year that the outlook is told for."""


@dataclass(frozen=True)
class TrialSpending:
    """One trial, A/A trials left out: `spent` by its newest look, all its challengers together; 0 before the first."""

    trial: str
    opened: datetime
    spent: float
    promoted: bool


@dataclass(frozen=True)
class Pace:
    """So many trials a year that all run to their end: false promotions expected, and the chance of at least one.

    Both if no challenger were better than its champion, and trials independent.
    """

    trials_a_year: int
    expected_false: float
    any_false: float


@dataclass(frozen=True)
class AlphaLedger:
    """`a_year`, `trials_a_year`: at the trailing year's pace. `may_be_false`: share of all promotions that may be luck.

    `spendings`: oldest first. `may_be_false` is None without a promotion.
    """

    spendings: tuple[TrialSpending, ...]
    expected_false: float
    trailing_year: float
    trials_a_year: float
    a_year: float
    promotions: int
    may_be_false: float | None
    paces: tuple[Pace, ...]

    def as_json(self) -> dict[str, Any]:
        """What evidence and `ratchet trial alpha --json` hold."""
        return {
            "trials": len(self.spendings),
            "expected_false": self.expected_false,
            "trailing_year": self.trailing_year,
            "trials_a_year": self.trials_a_year,
            "a_year": self.a_year,
            "promotions": self.promotions,
            "may_be_false": self.may_be_false,
            "paces": [vars(each) for each in self.paces],
            "spent": {each.trial: each.spent for each in self.spendings},
        }


def alpha_ledger(trials: Sequence[TrialSpending], *, now: datetime, alpha: float) -> AlphaLedger:
    """Add up. `alpha`: of one trial that runs to its end, for the outlook.

    Trials that were opened after `now` (a simulation's clock went back) count as opened now. Raises ValueError for an α
    outside (0, 1), or a trial that spent less than 0 or more than 1.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha {alpha} is outside (0, 1)")
    for each in trials:
        if not 0 <= each.spent <= 1:
            raise ValueError(f"{each.trial} spent {each.spent}; a probability lies in [0, 1]")
    ordered = tuple(sorted(trials, key=lambda each: (each.opened, each.trial)))
    expected = sum(each.spent for each in ordered)
    late = [each for each in ordered if each.opened > now - YEAR]
    promotions = sum(each.promoted for each in ordered)
    # of the year, how much the ledger has seen
    part = min(1.0, max(SHORTEST, now - ordered[0].opened) / YEAR) if ordered else 1.0
    trailing = sum(each.spent for each in late)
    return AlphaLedger(
        spendings=ordered,
        expected_false=expected,
        trailing_year=trailing,
        trials_a_year=len(late) / part,
        a_year=trailing / part,
        promotions=promotions,
        may_be_false=min(1.0, expected / promotions) if promotions else None,
        paces=tuple(Pace(count, count * alpha, 1 - (1 - alpha) ** count) for count in PACES),
    )
