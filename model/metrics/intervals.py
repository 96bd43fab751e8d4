"""Intervals of metrics over users: rows of one user hang together, so users are the unit.

Shapes: R rows, U users, M metrics, D draws of a bootstrap.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

LEVEL = 0.95
GROUPS = 100
"""Most groups of users that the jackknife leaves out in turn."""
BLOCK = 1 << 22
"""Draws × users that are held at once."""


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
    level: float = LEVEL,
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """Mean of `ours − theirs` over rows, with its interval (`mean_intervals`).

    Raises ValueError without rows or for unequal lengths.
    """
    if not len(ours_R) or not len(ours_R) == len(theirs_R) == len(user_R):
        raise ValueError(f"need equally many rows, at least one: {len(ours_R)}, {len(theirs_R)}, {len(user_R)}")
    difference_R = ours_R - theirs_R
    found = mean_intervals({"": difference_R}, user_R=user_R, level=level, draws=draws, seed=seed)
    return Interval(float(difference_R.mean()), *found[""], len(np.unique(user_R)))


def mean_intervals(
    values: Mapping[str, np.ndarray], *, user_R: np.ndarray, level: float = LEVEL, draws: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals of the means of `values` over rows; all metrics share the draws.

    A draw takes as many users as there are, with replacement; its value is the sum over their rows, over the number of
    these. NaN is a row for which the metric is not defined, and counts in neither; a metric without any is absent.
    One user gives an interval of no width: do not show it. Source: Davison & Hinkley 1997, §3.8 and §5.3.
    """
    named = {name: value_R for name, value_R in values.items() if (~np.isnan(value_R)).any()}
    if not named:
        return {}
    _, place_R = np.unique(user_R, return_inverse=True)
    users = int(place_R.max()) + 1

    def sums_of(part_R: np.ndarray) -> np.ndarray:
        return np.bincount(place_R, weights=part_R, minlength=users)

    sum_UM = np.stack([sums_of(np.nan_to_num(value_R)) for value_R in named.values()], axis=1)
    rows_UM = np.stack([sums_of(~np.isnan(value_R)) for value_R in named.values()], axis=1)
    parts = []
    for count_DU in _resampled(users, draws=draws, seed=seed):
        sum_DM, rows_DM = count_DU @ sum_UM, count_DU @ rows_UM
        parts.append(np.divide(sum_DM, rows_DM, out=np.full_like(sum_DM, np.nan), where=rows_DM > 0))
    # a draw may hold no user with a defined row
    edge_EM = np.nanquantile(np.concatenate(parts), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {name: (float(edge_EM[0, at]), float(edge_EM[1, at])) for at, name in enumerate(named)}


def share_interval(
    statistic: Callable[[np.ndarray], float], *, user_R: np.ndarray, level: float = LEVEL, seed: int = 0
) -> tuple[float, float]:
    """Interval of a statistic in [0, 1] that is no mean, such as coverage, given as a function of the rows that are in.

    Estimate ± z · standard error of the jackknife that leaves out a group of users at a time, of which there are at
    most 100, drawn with `seed`. The bootstrap fails here: a draw holds 63 % of the users, so its coverage is always
    lower and its inequality higher than those of all. The jackknife's variance is not too small on average (Efron &
    Stein, Annals of Statistics 1981; groups: Kott, Journal of Official Statistics 2001). The interval is about what
    other users, as many, would give. Of one user it has no width: do not show it.
    """
    _, place_R = np.unique(user_R, return_inverse=True)
    users = int(place_R.max(initial=-1)) + 1
    estimate = statistic(np.ones(len(user_R), dtype=bool))
    groups = min(users, GROUPS)
    if groups < 2:
        return estimate, estimate
    group_U = np.random.default_rng(seed).permutation(users) * groups // users
    group_R = group_U[place_R]
    value_G = np.array([statistic(group_R != group) for group in range(groups)])
    error = np.sqrt((groups - 1) / groups * np.square(value_G - value_G.mean()).sum())
    reach = NormalDist().inv_cdf((1 + level) / 2) * float(error)
    return max(0.0, estimate - reach), min(1.0, estimate + reach)


def _resampled(users: int, *, draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each user is in each draw, float [D, U], in blocks."""
    rng = np.random.default_rng(seed)
    most = max(1, BLOCK // users)
    for begin in range(0, draws, most):
        rows = min(most, draws - begin)
        at = rng.integers(0, users, size=(rows, users)) + users * np.arange(rows)[:, None]
        yield np.bincount(at.ravel(), minlength=rows * users).reshape(rows, users).astype(np.float64)
