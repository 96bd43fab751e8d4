"""What a policy would have earned, from the log of another one; and when that cannot be told.

A logged row is one choice: the action that was shown, the probability with which it was shown, its reward. With the
weight w = target probability / logged probability:

- IPS (Horvitz & Thompson, JASA 1952): V = Σ w·r / n. Unbiased, and wild where weights are large
- SNIPS (Swaminathan & Joachims, NeurIPS 2015): V = Σ w·r / Σ w. Bias O(1/n), bounded by the rewards' range
- DR (Dudík, Langford & Li, ICML 2011; Dudík, Erhan, Langford & Li, Statistical Science 2014):
  V = Σ [q̂(x, π) + w·(r − q̂(x, a))] / n with a reward model q̂. Unbiased where the propensities are right, whatever q̂
  is; q̂ must not have seen the row that it is used on (`cross_fitted`)

Rows of one user are not independent, so errors are of user totals (linearised ratios, as in `gate.estimator`):
SE = √(G/(G − 1)·Σ_g (Σ_{i in g} u_i)²)/D with u = w·r − V and D = n for IPS, u = w·(r − V) and D = Σw for SNIPS.

An answer needs overlap. Where the target seldom does what was logged, few rows carry all the weight, and an interval
from them is too short and in the wrong place. There is no answer then, but the reasons why.

Shapes: _N one entry per logged row, _G one per cluster.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

Array = NDArray[np.float64]

LEAST_EFFECTIVE = 0.1
"""Effective sample size over rows below which there is no answer (GATE.md §1)."""
MEAN_WEIGHT = (0.9, 1.1)
"""The mean weight is 1 in expectation; farther off than this, the log does not hold what the target would do."""


class Estimator(StrEnum):
    IPS = "ips"
    SNIPS = "snips"
    DR = "dr"


@dataclass(frozen=True)
class RewardModel:
    """What a reward model says of each logged row, in reward units.

    `logged_N`: q̂(x, a) of the action that was logged. `target_N`: q̂ of the target policy, Σ_a π(a|x)·q̂(x, a).
    """

    logged_N: ArrayLike
    target_N: ArrayLike


@dataclass(frozen=True)
class Overlap:
    """How much of the log speaks for the target. `effective` rows: (Σw)²/Σw² (Kish 1965); `share` of all rows."""

    rows: int
    clusters: int
    effective: float
    share: float
    mean_weight: float
    largest_weight: float

    def reasons(self) -> tuple[str, ...]:
        """Why there is no answer; none where there is one."""
        lowest, highest = MEAN_WEIGHT
        found = []
        if self.share < LEAST_EFFECTIVE:
            found.append(
                f"the {self.rows:,} rows weigh as much as {self.effective:,.0f} ({self.share:.1%} of them; "
                f"{LEAST_EFFECTIVE:.0%} are needed): the target seldom does what was logged"
            )
        if not lowest <= self.mean_weight <= highest:
            found.append(
                f"the mean weight is {self.mean_weight:.3f}, outside [{lowest:g}, {highest:g}]: the target does what "
                "was hardly ever logged, or the propensities are wrong"
            )
        return tuple(found)


@dataclass(frozen=True)
class PolicyValue:
    """One estimate, in reward units a row, and the ends of its interval."""

    estimator: Estimator
    value: float
    standard_error: float
    lower: float
    upper: float


@dataclass(frozen=True)
class OffPolicy:
    """`values` is empty where `reasons` say why there is no answer. The intervals hold jointly at `level`."""

    overlap: Overlap
    level: float
    values: tuple[PolicyValue, ...]
    reasons: tuple[str, ...]

    @property
    def refused(self) -> bool:
        return bool(self.reasons)

    def value(self, estimator: Estimator) -> PolicyValue:
        """Raises KeyError where it was refused or not asked for."""
        for each in self.values:
            if each.estimator is estimator:
                return each
        raise KeyError(f"no {estimator} estimate: {'; '.join(self.reasons) or 'it needs a reward model'}")

    def as_json(self) -> dict[str, Any]:
        return {
            "overlap": dict(vars(self.overlap)),
            "level": self.level,
            "refused": self.refused,
            "reasons": list(self.reasons),
            "values": {
                each.estimator.value: {
                    "value": each.value,
                    "standard_error": each.standard_error,
                    "interval": [each.lower, each.upper],
                }
                for each in self.values
            },
        }


def evaluate_policy(
    *,
    reward_N: ArrayLike,
    target_N: ArrayLike,
    propensity_N: ArrayLike,
    cluster_N: ArrayLike | None = None,
    model: RewardModel | None = None,
    level: float = 0.95,
    jointly: int | None = None,
) -> OffPolicy:
    """The target policy's value by IPS, SNIPS and, with a reward model, DR; or the reasons why there is none.

    `target_N`: probability with which the target would have taken the logged action. `propensity_N`: with which it was
    taken. `cluster_N`: whose row it is, any labels; None: rows are independent rounds.
    `jointly`: over how many intervals `level` holds together (Bonferroni), for several policies; default: over the
    estimators of this call. Intervals are Student's with clusters − 1 degrees of freedom.

    Refused: poor overlap, fewer than two clusters, and no reward with any weight, from which every estimate would be 0
    with error 0. Raises ValueError for rows of unequal number, none at all, NaN, a propensity outside (0, 1] or a
    target probability outside [0, 1]: clipping would hide a logging bug.
    """
    reward_N, target_N, propensity_N = (
        np.asarray(each, dtype=np.float64) for each in (reward_N, target_N, propensity_N)
    )
    rows = len(reward_N)
    _check_rows({"reward_N": reward_N, "target_N": target_N, "propensity_N": propensity_N}, rows=rows)
    if (propensity_N <= 0).any() or (propensity_N > 1).any():
        worst = propensity_N[(propensity_N <= 0) | (propensity_N > 1)][0]
        raise ValueError(f"propensity_N holds {worst}; a logged action had a probability in (0, 1]")
    if (target_N < 0).any() or (target_N > 1).any():
        raise ValueError(f"target_N holds {target_N[(target_N < 0) | (target_N > 1)][0]}; probabilities lie in [0, 1]")
    if not 0 < level < 1:
        raise ValueError(f"level {level} is outside (0, 1)")
    cluster_N, clusters = _codes(cluster_N, rows=rows)
    weight_N = target_N / propensity_N
    overlap = _overlap(weight_N, clusters=clusters)
    reasons = overlap.reasons()
    if clusters < 2:
        reasons = (*reasons, "all rows are of one user; an error needs two")
    if not (weight_N * reward_N).any():
        reasons = (*reasons, f"none of the {rows:,} rows has an outcome on an action that the target would take")
    if reasons:
        return OffPolicy(overlap, level, (), reasons)
    found = [_ips(weight_N * reward_N, cluster_N), _snips(weight_N, reward_N, cluster_N)]
    kinds = [Estimator.IPS, Estimator.SNIPS]
    if model is not None:
        logged_N, expected_N = (np.asarray(each, dtype=np.float64) for each in (model.logged_N, model.target_N))
        _check_rows({"model.logged_N": logged_N, "model.target_N": expected_N}, rows=rows)
        found.append(_ips(expected_N + weight_N * (reward_N - logged_N), cluster_N))
        kinds.append(Estimator.DR)
    tail = (1 - level) / (2 * max(len(found), jointly or 0))
    width = float(-stdtrit(clusters - 1, tail))
    values = tuple(
        PolicyValue(kind, value, error, value - width * error, value + width * error)
        for kind, (value, error) in zip(kinds, found, strict=True)
    )
    return OffPolicy(overlap, level, values, ())


def cross_fitted(
    fit: Callable[[NDArray[np.bool_]], RewardModel], *, cluster_N: ArrayLike, folds: int = 5, seed: int = 0
) -> RewardModel:
    """Predictions of each row by a model that has seen no row of its cluster.

    `fit(train_N)`: fits on the rows that are True and answers for all rows. With fewer clusters than folds, each
    cluster is a fold. Source: Chernozhukov et al., Econometrics Journal 2018.

    Raises ValueError for fewer than two clusters.
    """
    rows = len(np.asarray(cluster_N))
    codes_N, clusters = _codes(cluster_N, rows=rows)
    if clusters < 2:
        raise ValueError("cross-fitting needs two clusters; all rows are of one")
    fold_N = (np.random.default_rng(seed).permutation(clusters) % min(folds, clusters))[codes_N]
    logged_N, target_N = np.empty(rows), np.empty(rows)
    for fold in range(min(folds, clusters)):
        held_N = fold_N == fold
        found = fit(~held_N)
        logged_N[held_N] = np.asarray(found.logged_N)[held_N]
        target_N[held_N] = np.asarray(found.target_N)[held_N]
    return RewardModel(logged_N, target_N)


def _check_rows(columns_N: dict[str, Array], *, rows: int) -> None:
    for name, column in columns_N.items():
        if column.ndim != 1 or len(column) != rows:
            raise ValueError(f"{name} has shape {column.shape}; pass one number for each of the {rows} rows")
        if not np.isfinite(column).all():
            raise ValueError(f"{name} holds a number that is not finite, first at row {np.argmin(np.isfinite(column))}")
    if not rows:
        raise ValueError("no logged rows; an off-policy estimate needs a log")


def _codes(cluster_N: ArrayLike | None, *, rows: int) -> tuple[NDArray[np.intp], int]:
    """Each row's cluster as 0 … G − 1, and G."""
    if cluster_N is None:
        return np.arange(rows), rows
    labels, codes_N = np.unique(np.asarray(cluster_N), return_inverse=True)
    if len(codes_N) != rows:
        raise ValueError(f"cluster_N has {len(codes_N)} entries for {rows} rows")
    return codes_N, len(labels)


def _overlap(weight_N: Array, *, clusters: int) -> Overlap:
    rows, squares = len(weight_N), float(weight_N @ weight_N)
    effective = float(weight_N.sum()) ** 2 / squares if squares else 0.0
    return Overlap(rows, clusters, effective, effective / rows, float(weight_N.mean()), float(weight_N.max()))


def _ips(worth_N: Array, cluster_N: NDArray[np.intp]) -> tuple[float, float]:
    """Mean over rows and its clustered error."""
    value = float(worth_N.mean())
    return value, _error(worth_N - value, cluster_N) / len(worth_N)


def _snips(weight_N: Array, reward_N: Array, cluster_N: NDArray[np.intp]) -> tuple[float, float]:
    total = float(weight_N.sum())
    value = float(weight_N @ reward_N) / total
    return value, _error(weight_N * (reward_N - value), cluster_N) / total


def _error(residual_N: Array, cluster_N: NDArray[np.intp]) -> float:
    """√(G/(G − 1)·Σ_g (Σ residuals)²): of a total whose clusters are independent."""
    total_G = np.bincount(cluster_N, weights=residual_N)
    return float(np.sqrt(len(total_G) / (len(total_G) - 1) * (total_G @ total_G)))
