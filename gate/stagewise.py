"""What a test that may stop at several looks knows of the effect: p-value, estimate and interval by stage-wise order.

Outcomes are ordered by when and how they stopped: crossing the boundary at an earlier look is more extreme than at a
later one, and at one look a larger z than a smaller; a last look that does not cross is the least. With μ the effect in
standard errors of the look that stopped (k, at z):

    P_μ(k, z) = Pr_μ(the boundary is crossed before look k) + Pr_μ(it is not, and Z_k ≥ z)

rises with μ. P_0 is the one-sided p-value, P_μ = α and 1 − α give the ends of an interval of confidence 1 − 2α, and
P_μ = ½ the estimate, which lies above the truth as often as below. It needs the looks up to the one that stopped, not
those that would have followed. P_μ is at least the plain 1 − Φ(z − μ): all three lie at or below the plain figures, and
are equal to them at the first look.

Sources: Tsiatis, Rosner & Mehta, Biometrics 1984; Jennison & Turnbull, Group Sequential Methods (2000), ch. 8.

Shapes: _K one entry per look up to the one that stopped, _J per look before that one.
"""

from dataclasses import dataclass
from functools import lru_cache

from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from gate.boundaries import crossing_probability

_SMALLEST, _NEAR_ONE = 1e-300, 1e-12
"""What is below the first, or nearer to 1 than the second, is not told from it."""


@dataclass(frozen=True)
class Stagewise:
    """`median`, `lower` and `upper` are effects in standard errors of the look that stopped."""

    p_value: float
    median: float
    lower: float
    upper: float


@lru_cache(maxsize=256)
def stagewise(
    information_K: tuple[float, ...],
    errors_K: tuple[float, ...],
    critical_J: tuple[float, ...],
    *,
    z: float,
    alpha: float,
) -> Stagewise:
    """Of a test that stopped at its last look with `z`. `alpha`: beyond each end of the interval.

    `information_K`: what correlates the looks' z, in any unit, strictly increasing. `errors_K`: the estimate's standard
    errors, which say how the mean of z grows. `critical_J`: the boundaries that were not reached before.
    Raises ValueError for information that does not increase, and for errors or boundaries of another number.
    """
    times_K = tuple(each / information_K[-1] for each in information_K)
    if len(errors_K) != len(times_K):
        raise ValueError(f"{len(errors_K)} standard errors for {len(times_K)} looks; pass one a look")
    rising_K = [errors_K[-1] / error / time**0.5 for error, time in zip(errors_K, times_K, strict=True)]

    def above(effect: float) -> float:
        """P of the outcome, as a normal quantile: nearly a straight line of slope 1."""
        beyond = sum(crossing_probability(times_K, (*critical_J, z), drift=[effect * each for each in rising_K]))
        return float(ndtri(min(max(beyond, _SMALLEST), 1 - _NEAR_ONE)))

    def effect_at(level: float) -> float:
        wanted = float(ndtri(level))
        high = z + wanted  # the plain one, which the looks before can only lower
        low, step = high, 0.0
        while (over := above(low) - wanted) > 0:
            high, step = low, over + 2 * step + 1e-3
            low -= step
        return low if low == high else float(brentq(lambda effect: above(effect) - wanted, low, high, xtol=1e-6))

    return Stagewise(
        p_value=float(ndtr(above(0.0))), median=effect_at(0.5), lower=effect_at(alpha), upper=effect_at(1 - alpha)
    )
