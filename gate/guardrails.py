"""Guardrails: a challenger may win the primary metric only without losing these by more than their margins.

Non-inferiority on R_B − (1 − m)·R_A with variance s²_B/n_B + (1 − m)²·s²_A/n_A, on the primary metric's boundary.
Where less is better, on (1 + m)·R_A − R_B. An absolute margin d is added to either. No α is divided among guardrails:
all of them must pass, so each more makes a false promotion less likely (Schultzberg et al., "Risk-aware product
decisions in A/B tests", 2024). Slices of users are judged alike, on the primary metric.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gate.confidence import one_sided_p, tuned_rho
from gate.estimator import ArmSums, Array, Estimate, estimable, estimate
from gate.metrics import Better, Metric, Slice
from gate.trial import finite


@dataclass(frozen=True)
class Guardrail:
    """One guardrail at one look. `slack` ≥ 0 is within the margin; `z` is the slack in standard errors.

    `harm_p`: always-valid p of the hypothesis that the metric is within its margin; small means proven harm.
    """

    name: str
    champion_rate: float
    challenger_rate: float
    margin: float
    slack: float
    standard_error: float
    z: float
    boundary: float | None
    holds: bool
    harm_p: float

    def as_json(self) -> dict[str, float | str | bool | None]:
        numbers = {key: value for key, value in vars(self).items() if isinstance(value, float)}
        return {
            **{key: finite(value) for key, value in numbers.items()},
            "name": self.name,
            "boundary": self.boundary,
            "holds": self.holds,
        }


@dataclass(frozen=True)
class SliceResult:
    """One slice at one look. `rail`: its non-inferiority; None while an arm has too few users to be estimated."""

    name: str
    margin: float
    protected: bool
    users: tuple[int, int]
    rail: Guardrail | None

    @property
    def unproven(self) -> bool:
        return self.protected and (self.rail is None or not self.rail.holds)

    def as_json(self) -> dict[str, Any]:
        found = {} if self.rail is None else self.rail.as_json()
        shown = {"name": self.name, "margin": self.margin, "protected": self.protected, "users": list(self.users)}
        return {**found, **shown}


def non_inferiority(found: Estimate, *, margin: float, better: Better, absolute: float = 0.0) -> tuple[Array, Array]:
    """What is left of the margins, in outcomes per impression, and its standard error. `found` is unadjusted."""
    factor, sign = (1 - margin, 1) if better is Better.HIGHER else (1 + margin, -1)
    slack = sign * (found.challenger_rate - factor * found.champion_rate) + absolute
    return slack, np.sqrt(found.challenger_variance + factor**2 * found.champion_variance)


def judge_guardrail(
    metric: Metric, *, champion: ArmSums, challenger: ArmSums, boundary: float | None, harm_alpha: float, n_max: int
) -> Guardrail:
    """`boundary`: this look's critical z; None where the look may not promote, and then `holds` is False.

    A metric without any outcome in either arm has z = 0 and does not hold: that is missing data, and missing data never
    passes. Where an absolute margin says that none is what one hopes for, it is judged as if each arm had one outcome
    more, with the standard error 1/ΣN of that.
    """
    found = estimate(champion.array(), challenger.array(), adjust=False)
    slack, error = (
        float(part)
        for part in non_inferiority(found, margin=metric.margin, better=metric.better, absolute=metric.absolute)
    )
    if metric.absolute > 0:
        error = max(error, float(np.hypot(1 / champion.i, 1 / challenger.i)))
    z = slack / error if error > 0 else 0.0
    users = champion.n + challenger.n
    rho = tuned_rho(alpha=2 * harm_alpha, users=n_max)
    return Guardrail(
        name=metric.name,
        champion_rate=float(found.champion_rate),
        challenger_rate=float(found.challenger_rate),
        margin=metric.margin,
        slack=slack,
        standard_error=error,
        z=z,
        boundary=boundary,
        holds=boundary is not None and z >= boundary,
        harm_p=one_sided_p(z, users=users, rho=rho),
    )


def judge_slice(
    part: Slice,
    *,
    metric: Metric,
    champion: ArmSums,
    challenger: ArmSums,
    boundary: float | None,
    harm_alpha: float,
    n_max: int,
) -> SliceResult:
    """The primary `metric` among the users of one slice, with the slice's margin."""
    rail = None
    if estimable(champion, challenger):
        rail = judge_guardrail(
            replace(metric, name=part.name, margin=part.margin, absolute=0.0),
            champion=champion,
            challenger=challenger,
            boundary=boundary,
            harm_alpha=harm_alpha,
            n_max=n_max,
        )
    return SliceResult(part.name, part.margin, part.protected, (int(champion.n), int(challenger.n)), rail)
