"""Who wins an interleaved list: sequential evidence from users, each of whom saw both rankings mixed.

A user is one sign: a win when more of the clicks that count fell on the challenger's picks than on the champion's, a
loss when fewer; ties say nothing and are left out. Clicks on agreed picks count for nobody ("neutral credit"), so two
rankings of equal worth win equally often: P(win) = ½. Two one-sided hypotheses are tested against all users so far:

- the challenger is no better, P(win) ≤ ½, by the e-value E⁺ = ∫ (2q)^w·(2(1 − q))^l dπ(q), π = Beta(c, c) on (½, 1)
- the challenger is no worse, P(win) ≥ ½, by its mirror image E⁻, with π on (0, ½)

Either is a non-negative supermartingale from 1 under its hypothesis, since a next user multiplies a term's mean by
1 + (2p − 1)(2q − 1), so that by Ville's inequality it ever reaches 1/α with probability at most α. This is exact at
any number of users and valid at every look. In closed form
E⁺ = 2·2ⁿ·B(c + w, c + l)/B(c, c)·P(Beta(c + w, c + l) > ½).

What it needs: users enter once their sign can no longer change, and in an order that does not depend on the signs.
What it does not say: by how much. A ranking may win lists and lose sales, so nothing is promoted here.

Sources: Ville 1939; Robbins, Annals of Mathematical Statistics 1970 (mixtures); Howard, Ramdas, McAuliffe & Sekhon,
"Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of Statistics 2021 (one-sided beta-binomial
mixture); Radlinski, Kurup & Joachims, CIKM 2008 (team draft, users as votes).
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import betainc, betaln

from relations.errors import UsageError

Array = NDArray[np.float64]

CONCENTRATION = 30.0
"""c: P(win) is expected within some 0.06 of ½, which makes the test tightest at a few hundred users with a sign."""
EDGE = 1e-9
"""Bounds of P(win) are looked for this far from 0 and 1; nearer, the prior's tail is below what a double holds."""
LARGEST = 690.0
"""ln of the largest e-value that is told as a number; e^690 is 1e299."""


class Preference(StrEnum):
    """What follows. Nothing here promotes."""

    PRUNE = "PRUNE"
    """The challenger is proven to lose: it need not be compared."""
    PREFERRED = "PREFERRED"
    """The challenger is proven to win: it may go on to the comparison."""
    OPEN = "OPEN"
    """Neither; more users, or the comparison, will tell."""


@dataclass(frozen=True)
class InterleavingVerdict:
    """Signs of users and what they prove, at one-sided level `alpha` each way.

    `e_win`, `e_loss`: evidence that the challenger wins, or loses; `p_win`, `p_loss`: anytime-valid p, min(1, 1/e).
    `win_rate`: wins among users with a sign, None without any. `lower`, `upper`: confidence sequence of P(win); it
    holds at all looks at once with probability 1 − 2α, and excludes ½ exactly when the preference is not OPEN.
    """

    preference: Preference
    wins: int
    losses: int
    alpha: float
    e_win: float
    e_loss: float
    p_win: float
    p_loss: float
    win_rate: float | None
    lower: float
    upper: float

    @property
    def reason(self) -> str:
        """One sentence for people."""
        seen = (
            f"the challenger's picks won {self.wins:,} users and lost {self.losses:,}; "
            f"P(win) in [{self.lower:.3f}, {self.upper:.3f}]"
        )
        if self.preference is Preference.PRUNE:
            return f"interleaving: proven to lose, p = {self.p_loss:.2g}: {seen}"
        if self.preference is Preference.PREFERRED:
            return f"interleaving: proven to win, p = {self.p_win:.2g}: {seen}"
        return f"interleaving: no winner yet, {seen}"

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "preference": self.preference.value, "reason": self.reason}


def judge_interleaving(wins: int, losses: int, *, alpha: float) -> InterleavingVerdict:
    """Judge all users so far; the same counts give the same verdict, whenever and however often they are looked at.

    Raises UsageError for negative counts or an α outside (0, 0.5).
    """
    if wins < 0 or losses < 0:
        raise UsageError(f"interleaving: {wins} wins and {losses} losses; counts of users are 0 or more")
    if not 0 < alpha < 0.5:
        raise UsageError(f"interleaving: alpha {alpha} is outside (0, 0.5)")
    log_win, log_loss = float(log_e(wins, losses)), float(log_e(losses, wins))
    preference = Preference.OPEN
    if max(log_win, log_loss) >= -math.log(alpha):
        preference = Preference.PREFERRED if log_win > log_loss else Preference.PRUNE
    return InterleavingVerdict(
        preference=preference,
        wins=wins,
        losses=losses,
        alpha=alpha,
        e_win=math.exp(min(log_win, LARGEST)),
        e_loss=math.exp(min(log_loss, LARGEST)),
        p_win=math.exp(min(0.0, -log_win)),
        p_loss=math.exp(min(0.0, -log_loss)),
        win_rate=wins / (wins + losses) if wins + losses else None,
        lower=_lower(wins, losses, alpha=alpha),
        upper=1 - _lower(losses, wins, alpha=alpha),
    )


def log_e(wins: ArrayLike, losses: ArrayLike, *, against: float = 0.5) -> Array:
    """ln E⁺ of the hypothesis P(win) ≤ `against`, elementwise; 0 for no users. Swap wins and losses for E⁻ at ½.

    Elsewhere than at ½ the prior is Beta(c, c) on (`against`, 1). An e-value below what a double holds is 0: −inf.
    """
    won, lost, c = np.asarray(wins, dtype=np.float64), np.asarray(losses, dtype=np.float64), CONCENTRATION
    with np.errstate(divide="ignore"):
        tail = np.log(betainc(c + lost, c + won, 1 - against)) - math.log(betainc(c, c, 1 - against))
    evidence = betaln(c + won, c + lost) - betaln(c, c) + tail
    return np.asarray(evidence - won * math.log(against) - lost * math.log1p(-against), dtype=np.float64)


def _lower(wins: int, losses: int, *, alpha: float) -> float:
    """The smallest P(win) that E⁺ does not refuse at `alpha`; 0 without wins. Up to the share seen E⁺ only falls."""

    def short(against: float) -> float:
        """Below 0 where `against` is refused."""
        return -math.log(alpha) - float(log_e(wins, losses, against=against))

    if not wins:
        return 0.0
    top = min(wins / (wins + losses), 1 - EDGE)
    if short(EDGE) >= 0:
        return 0.0
    return top if short(top) < 0 else float(brentq(short, EDGE, top, xtol=1e-12))
