"""Bootstrap intervals over users.

Shapes: R rows, U users.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    difference: float
    low: float
    high: float
    users: int


def difference_interval(
    ours_R: np.ndarray,
    theirs_R: np.ndarray,
    *,
    user_R: np.ndarray,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """Mean of `ours − theirs` over rows, with a percentile bootstrap interval that resamples users.

    Rows of one user hang together, so users are the unit; a draw's value is its sum of differences over its number
    of rows. Source: Davison & Hinkley 1997, §3.8. Raises ValueError without rows or for unequal lengths.
    """
    if not len(ours_R) or not len(ours_R) == len(theirs_R) == len(user_R):
        raise ValueError(f"need equally many rows, at least one: {len(ours_R)}, {len(theirs_R)}, {len(user_R)}")
    _, place_R = np.unique(user_R, return_inverse=True)
    sum_U = np.bincount(place_R, weights=ours_R - theirs_R)
    rows_U = np.bincount(place_R).astype(np.float64)
    rng = np.random.default_rng(seed)
    values = np.empty(draws)
    for draw in range(draws):
        drawn_U = rng.integers(0, len(sum_U), size=len(sum_U))
        values[draw] = sum_U[drawn_U].sum() / rows_U[drawn_U].sum()
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(sum_U.sum() / rows_U.sum()), float(low), float(high), len(sum_U))
