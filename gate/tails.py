"""How much of a metric lies in its few largest users, and what a cap would take away.

Where totals are heavy-tailed (revenue), a few users make up most of the sum, and nearly all of its variance.
Winsorising at a cap bounds what one user can weigh; what is compared is then E[min(S, cap)] instead of E[S].

Shapes: _V one entry a different total.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

QUANTILES = (0.99, 0.999)
"""Of users, at which caps are suggested: the first leaves more power, the second more of the value."""
STEPS = (0.5, 0.25, 0.1, 0.05, 0.02, 0.01)
"""One user's share of all is told as more than the next of these below it: the figure itself would tell of a person."""


@dataclass(frozen=True)
class Tail:
    """Users' totals before any cap: each different one, ascending, and how many users have it."""

    total_V: Array
    users_V: Array

    @property
    def users(self) -> float:
        return float(self.users_V.sum())

    @property
    def value(self) -> float:
        """ΣS."""
        return float(self.total_V @ self.users_V)

    @property
    def largest(self) -> float:
        """The largest user's share of ΣS; 0 where nothing was earned."""
        return float(self.total_V[-1]) / self.value if self.value > 0 else 0.0

    def quantile(self, share: float) -> float:
        """The smallest total that at least this share of users does not exceed (nearest rank). NaN without users."""
        if not self.users:
            return math.nan
        reached_V = np.cumsum(self.users_V) >= share * self.users
        return float(self.total_V[int(reached_V.argmax())])

    def above(self, cap: float) -> float:
        """Users whose total the cap lowers."""
        return float(self.users_V[self.total_V > cap].sum())

    def taken(self, cap: float) -> float:
        """The share of ΣS that the cap takes away; 0 where nothing was earned."""
        over_V = np.maximum(self.total_V - cap, 0.0)
        return float(over_V @ self.users_V) / self.value if self.value > 0 else 0.0


def told_cap(tail: Tail, *, cap: float) -> str:
    """What a cap touches, in words."""
    if not tail.users:
        return f"cap = {cap:g}"
    return (
        f"cap = {cap:g} is exceeded by {tail.above(cap) / tail.users:.2%} of users and takes {tail.taken(cap):.1%} of "
        "the value away"
    )


def suggested_caps(tail: Tail, *, least: int) -> tuple[float, ...]:
    """The totals at `QUANTILES`, to three digits, as far as they are above 0 and at least `least` users exceed them."""
    found = dict.fromkeys(float(f"{cap:.3g}") for share in QUANTILES if (cap := tail.quantile(share)) > 0)
    return tuple(cap for cap in found if tail.above(cap) >= least)


def told_largest(share: float) -> str:
    """How much of all the value one user has, in words and no more exactly than `STEPS`."""
    step = next((step for step in STEPS if share >= step), None)
    return f"no user has {STEPS[-1]:.0%}" if step is None else f"one user has {step:.0%} or more"
