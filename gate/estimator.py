"""The effect of a challenger on a ratio metric, from fifteen numbers an arm: a count and fourteen sums.

A user is the unit. Per matured user: outcome S, impressions N, and the pre-period X = (S0, N0). With R = ΣS/ΣN:

- ψ_i = (S_i − R·N_i)/N̄ linearises the ratio; Var(R) = s²_ψ/n (Deng, Knoblich & Lu, KDD 2018; Budylin et al., WSDM 2018)
- CUPED (Deng et al., WSDM 2013): θ = (C_XX,A + C_XX,B)⁻¹(c_Xψ,A + c_Xψ,B), Δ_adj = R_B − R_A − θᵀ(X̄_B − X̄_A),
  per-arm variance s²_ψ − 2θᵀc_Xψ + θᵀC_XXθ
- the lift is Δ_adj/R_A, its interval Fieller's: all r with |Δ_adj − r·R_A| ≤ z·SE(Δ_adj − r·R_A), so that it excludes 0
  exactly when the interval of Δ_adj does

Every function takes arrays whose last axis is `SUMS`; leading axes are independent comparisons. The decision on one
trial and a benchmark over thousands of simulated ones therefore run the same lines.

Shapes: _U users, _M the fifteen sums.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SUMS: tuple[str, ...] = (
    "n",  # users
    "s",  # Σ S: outcomes within the window
    "i",  # Σ N: impressions within the window
    "s0",  # Σ S0: outcomes of the pre-period
    "i0",  # Σ N0: impressions of the pre-period
    "ss",  # Σ S², with `si` and `ii` the variance of ψ
    "si",  # Σ S·N
    "ii",  # Σ N²
    "s_s0",  # Σ S·S0, with the next three the covariance of ψ and X
    "s_i0",  # Σ S·N0
    "i_s0",  # Σ N·S0
    "i_i0",  # Σ N·N0
    "s0s0",  # Σ S0², with the next two the covariance of X
    "s0i0",  # Σ S0·N0
    "i0i0",  # Σ N0²
)
"""Order of the sums in arrays, and their names in tables and in JSON."""

SINGULAR = 1e-9
"""Below this share of variance left, a covariate repeats what the other says, and takes no part."""


@dataclass(frozen=True)
class ArmSums:
    """The sums of one arm, over any set of matured users. Adding two disjoint sets adds their sums."""

    n: float = 0.0
    s: float = 0.0
    i: float = 0.0
    s0: float = 0.0
    i0: float = 0.0
    ss: float = 0.0
    si: float = 0.0
    ii: float = 0.0
    s_s0: float = 0.0
    s_i0: float = 0.0
    i_s0: float = 0.0
    i_i0: float = 0.0
    s0s0: float = 0.0
    s0i0: float = 0.0
    i0i0: float = 0.0

    @staticmethod
    def from_users(outcome_U: Array, impressions_U: Array, before_U: Array, impressions_before_U: Array) -> "ArmSums":
        """From one row a user, in the order S, N, S0, N0."""
        columns = (outcome_U, impressions_U, before_U, impressions_before_U)
        return ArmSums.from_array(products(*(np.asarray(part, dtype=np.float64) for part in columns)).sum(axis=0))

    @staticmethod
    def from_array(sums_M: Array) -> "ArmSums":
        return ArmSums(*(float(value) for value in sums_M))

    @staticmethod
    def from_mapping(row: Mapping[str, Any]) -> "ArmSums":
        """From a table's row or from JSON; other keys are ignored. Raises KeyError for a sum that is missing."""
        return ArmSums(**{name: float(row[name]) for name in SUMS})

    def array(self) -> Array:
        return np.array([getattr(self, name) for name in SUMS], dtype=np.float64)

    def as_json(self) -> dict[str, float]:
        return {name: float(getattr(self, name)) for name in SUMS}

    def __add__(self, other: "ArmSums") -> "ArmSums":
        return ArmSums(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


def products(outcome: Array, impressions: Array, before: Array, impressions_before: Array) -> Array:
    """What one user adds to each of `SUMS`, along a new last axis."""
    s, i, s0, i0 = outcome, impressions, before, impressions_before
    moments = (s * s, s * i, i * i, s * s0, s * i0, i * s0, i * i0, s0 * s0, s0 * i0, i0 * i0)
    return np.stack((np.ones_like(s), s, i, s0, i0, *moments), axis=-1)


def total(parts: Iterable[ArmSums]) -> ArmSums:
    return sum(parts, ArmSums())


def estimable(*arms: ArmSums) -> bool:
    """Whether each arm has the users and impressions that an estimate with an error needs."""
    return all(arm.n >= 2 and arm.i > 0 for arm in arms)


@dataclass(frozen=True)
class Estimate:
    """One comparison, or as many as the leading axes held. Rates and `delta` are outcomes per impression.

    `delta` and `standard_error` are CUPED-adjusted; `raw_delta` and `raw_standard_error` are not.
    `champion_variance` and `challenger_variance` are Var(R_A) and Var(R_B), unadjusted.
    `covariance` is Cov(Δ_adj, R_A). All are NaN where an arm has fewer than two users or no impression.
    """

    champion_rate: Array
    challenger_rate: Array
    delta: Array
    standard_error: Array
    raw_delta: Array
    raw_standard_error: Array
    champion_variance: Array
    challenger_variance: Array
    covariance: Array

    @property
    def z(self) -> Array:
        """Δ_adj in standard errors; 0 where both are 0 (two arms without any outcome), ±inf never."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.standard_error > 0, self.delta / self.standard_error, 0.0)

    @property
    def lift(self) -> Array:
        """Δ_adj/R_A; NaN where the champion's rate is 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.champion_rate != 0, self.delta / self.champion_rate, np.nan)

    def lift_interval(self, width: float) -> tuple[Array, Array]:
        """Fieller's interval at `width` standard errors; NaN where the champion's rate is not told from 0."""
        squared = width**2
        a = self.champion_rate**2 - squared * self.champion_variance
        b = self.champion_rate * self.delta - squared * self.covariance
        c = self.delta**2 - squared * self.standard_error**2
        with np.errstate(divide="ignore", invalid="ignore"):
            half = np.sqrt(np.maximum(b * b - a * c, 0.0))
            known = (a > 0) & (self.champion_rate > 0)
            return np.where(known, (b - half) / a, np.nan), np.where(known, (b + half) / a, np.nan)


@dataclass(frozen=True)
class _Arm:
    n: Array
    rate: Array
    variance: Array  # of ψ
    before: tuple[Array, Array]  # X̄
    with_before: tuple[Array, Array]  # c_Xψ
    of_before: tuple[Array, Array, Array]  # C_XX: S0S0, S0N0, N0N0


def estimate(champion_M: Array, challenger_M: Array, *, adjust: bool = True) -> Estimate:
    """Compare two arms. `adjust=False` leaves CUPED out. The sign is challenger − champion."""
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = _arm(np.asarray(champion_M, dtype=np.float64)), _arm(np.asarray(challenger_M, dtype=np.float64))
        raw = b.rate - a.rate
        raw_error = np.sqrt(a.variance / a.n + b.variance / b.n)
        zero = np.zeros_like(raw)
        theta = _theta(a, b) if adjust else (zero, zero)
        delta = raw - theta[0] * (b.before[0] - a.before[0]) - theta[1] * (b.before[1] - a.before[1])
        adjusted = _residual(a, theta) / a.n + _residual(b, theta) / b.n
        explained = theta[0] * a.with_before[0] + theta[1] * a.with_before[1]
        return Estimate(
            champion_rate=a.rate,
            challenger_rate=b.rate,
            delta=delta,
            standard_error=np.sqrt(np.maximum(adjusted, 0.0)),
            raw_delta=raw,
            raw_standard_error=raw_error,
            champion_variance=a.variance / a.n,
            challenger_variance=b.variance / b.n,
            covariance=-(a.variance - explained) / a.n,
        )


def _arm(sums_M: Array) -> _Arm:
    n, s, i, s0, i0, ss, si, ii, s_s0, s_i0, i_s0, i_i0, s0s0, s0i0, i0i0 = np.moveaxis(sums_M, -1, 0)

    def covariance(product: Array, first: Array, second: Array) -> Array:
        unbiased: Array = (product - first * second / n) / (n - 1)
        return unbiased

    rate, mean = s / i, i / n
    variance = covariance(ss, s, s) - 2 * rate * covariance(si, s, i) + rate**2 * covariance(ii, i, i)
    return _Arm(
        n=n,
        rate=rate,
        variance=np.maximum(variance, 0.0) / mean**2,  # rounding can leave −1e-18 where every ψ is 0
        before=(s0 / n, i0 / n),
        with_before=(
            (covariance(s_s0, s, s0) - rate * covariance(i_s0, i, s0)) / mean,
            (covariance(s_i0, s, i0) - rate * covariance(i_i0, i, i0)) / mean,
        ),
        of_before=(covariance(s0s0, s0, s0), covariance(s0i0, s0, i0), covariance(i0i0, i0, i0)),
    )


def _theta(a: _Arm, b: _Arm) -> tuple[Array, Array]:
    """CUPED's coefficients of S0 and N0; 0 for a covariate that does not vary or only repeats the other."""
    c_s, c_si, c_i = (x + y for x, y in zip(a.of_before, b.of_before, strict=True))
    d_s, d_i = (x + y for x, y in zip(a.with_before, b.with_before, strict=True))
    determinant = c_s * c_i - c_si**2
    both = (c_s > 0) & (c_i > 0) & (determinant > SINGULAR * c_s * c_i)
    only_s = ~both & (c_s > 0)  # S0 is nearer to the metric than N0
    only_i = ~both & ~only_s & (c_i > 0)
    theta_s = np.where(both, (c_i * d_s - c_si * d_i) / determinant, np.where(only_s, d_s / c_s, 0.0))
    theta_i = np.where(both, (c_s * d_i - c_si * d_s) / determinant, np.where(only_i, d_i / c_i, 0.0))
    return theta_s, theta_i


def _residual(arm: _Arm, theta: tuple[Array, Array]) -> Array:
    """Variance of ψ − θᵀX in one arm."""
    c_s, c_si, c_i = arm.of_before
    explained = theta[0] * arm.with_before[0] + theta[1] * arm.with_before[1]
    own = theta[0] ** 2 * c_s + 2 * theta[0] * theta[1] * c_si + theta[1] ** 2 * c_i
    return arm.variance - 2 * explained + own
