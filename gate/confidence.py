"""Asymptotic confidence sequences: intervals that may be watched at every moment without losing their level.

Dashboards show them, and the harm rule uses their one-sided form. They are wider than the group-sequential intervals
at its looks, which is why they never promote.

Source: Waudby-Smith et al., "Time-uniform central limit theory and asymptotic confidence sequences", arXiv 2103.06476.
`users` is N = n_A + n_B; widths are in standard errors of the estimate at N; `rho` is a pure number.
"""

import math
from typing import overload

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def tuned_rho(*, alpha: float, users: float) -> float:
    """The ρ that makes the two-sided sequence at level `alpha` tightest at `users`.

    For a one-sided sequence at α, tune at 2α. Raises ValueError for α outside (0, 1) or users below 1.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha {alpha} is outside (0, 1)")
    if users < 1:
        raise ValueError(f"users {users} is below 1; tune at the trial's n_max")
    return math.sqrt((-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / users)


@overload
def two_sided_width(users: float, *, rho: float, alpha: float) -> float: ...
@overload
def two_sided_width(users: Array, *, rho: float, alpha: float) -> Array: ...
def two_sided_width(users: float | Array, *, rho: float, alpha: float) -> float | Array:
    """Half-width in standard errors: √[2(Nρ² + 1)/(Nρ²) · ln(√(Nρ² + 1)/α)]."""
    scaled = users * rho**2
    return _plain(np.sqrt(2 * (scaled + 1) / scaled * np.log(np.sqrt(scaled + 1) / alpha)))


@overload
def one_sided_width(users: float, *, rho: float, alpha: float) -> float: ...
@overload
def one_sided_width(users: Array, *, rho: float, alpha: float) -> Array: ...
def one_sided_width(users: float | Array, *, rho: float, alpha: float) -> float | Array:
    """Distance of the bound in standard errors: √[2(Nρ² + 1)/(Nρ²) · ln(1 + √(Nρ² + 1)/(2α))]."""
    scaled = users * rho**2
    return _plain(np.sqrt(2 * (scaled + 1) / scaled * np.log1p(np.sqrt(scaled + 1) / (2 * alpha))))


def one_sided_p(z: float, *, users: float, rho: float) -> float:
    """Always-valid p that the effect is not below 0: the smallest α whose upper bound lies below 0. 1 where z ≥ 0.

    The inverse of `one_sided_width` in α: √(Nρ² + 1) / (2·(e^{z²Nρ²/(2(Nρ² + 1))} − 1)).
    """
    if z >= 0:
        return 1.0
    scaled = users * rho**2
    exponent = z**2 * scaled / (2 * (scaled + 1))
    if exponent > 700:  # e^700 is the last that a double holds
        return 0.0
    return min(1.0, math.sqrt(scaled + 1) / (2 * math.expm1(exponent)))


def holm(p_values: dict[str, float], *, alpha: float) -> tuple[str, ...]:
    """Names rejected by Holm's step-down procedure at family-wise level `alpha`, smallest p first."""
    ordered = sorted(p_values.items(), key=lambda pair: (pair[1], pair[0]))
    rejected = []
    for rank, (name, p) in enumerate(ordered):
        if p > alpha / (len(ordered) - rank):
            break
        rejected.append(name)
    return tuple(rejected)


def _plain(width: "float | Array | np.floating") -> float | Array:
    return width if isinstance(width, np.ndarray) else float(width)
