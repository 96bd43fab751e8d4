"""How many users a trial needs, before it begins: the sample size of the group-sequential test that will judge it.

With R the champion's rate, s² the variance of the linearised metric of one user, and shares p_A, p_B of the users of
the comparison, a relative effect e seen by n users has the drift θ = e·R/√(s²/n·(1/p_A + (1 + e)²/p_B)): an effect that
multiplies what users do multiplies its variance too. The power at n_max is the exact probability that a path with this
drift crosses the boundary at one of the planned looks
(`gate.boundaries.crossing_probability`), so n_max = θ²·s²(1/p_A + (1 + e)²/p_B)/(e·R)² for the θ with the wanted power.
A single look needs θ = z_{1−α} + z_{power}; the square of the ratio is what looking costs ("inflation factor",
Jennison & Turnbull, Group Sequential Methods (2000), ch. 2).

Guardrails must be proven not inferior when nothing has changed: the distance is m·R + absolute there, and the variance
s²(1/p_B + (1 − m)²/p_A), without CUPED, as `gate.guardrails` judges them.

Shapes: _K one entry per planned look.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

from scipy.optimize import brentq
from scipy.special import ndtri

from gate.boundaries import Spending, boundaries, crossing_probability
from gate.estimator import ArmSums, estimate
from gate.metrics import Better, Metric
from relations.errors import UsageError

MAX_DRIFT = 20.0
"""No power below 1 − 1e-30 needs more."""


@dataclass(frozen=True)
class Observed:
    """A metric as the champion's users show it. `rate` is ΣS/ΣN, `impressions` N a user.

    `variance`: of one user's linearised ratio ψ; `adjusted`: what CUPED leaves of it. `share`: of all users that these
    are, for a slice.
    """

    name: str
    users: int
    rate: float
    impressions: float
    variance: float
    adjusted: float
    share: float = 1.0

    @staticmethod
    def from_sums(name: str, sums: ArmSums) -> "Observed":
        """From the sums of any users without a trial. Raises UsageError for fewer than two users or none exposed."""
        if sums.n < 2 or sums.i <= 0:
            raise UsageError(
                f"metric {name}: {sums.n:,.0f} matured users with {sums.i:,.0f} in its denominator; a variance needs "
                "two users: serve for longer, or wait until those shown something have matured"
            )
        itself = estimate(sums.array(), sums.array())  # two equal arms: Var(Δ) = 2·s²/n
        return Observed(
            name=name,
            users=int(sums.n),
            rate=sums.s / sums.i,
            impressions=sums.i / sums.n,
            variance=float(itself.raw_standard_error) ** 2 * sums.n / 2,
            adjusted=float(itself.standard_error) ** 2 * sums.n / 2,
        )

    @staticmethod
    def assumed(name: str, *, rate: float) -> "Observed":
        """A stated rate of yes-or-no outcomes, with one impression a user: more of them make the trial shorter.

        Raises UsageError for a rate outside (0, 1).
        """
        if not 0 < rate < 1:
            raise UsageError(f"metric {name}: an assumed rate of {rate:g} must lie in (0, 1)")
        return Observed(name, 0, rate, 1.0, rate * (1 - rate), rate * (1 - rate))

    @property
    def reduction(self) -> float:
        """Share of the variance that CUPED takes away."""
        return 1 - self.adjusted / self.variance if self.variance > 0 else 0.0


@dataclass(frozen=True)
class Design:
    """One comparison's test. `alpha`: of this comparison (α/K with K challengers), one-sided. `looks`: equally spaced.

    `challenger_share`: of the users of the two arms. Raises UsageError, naming the field, for what no test can have.
    """

    alpha: float
    spending: Spending = Spending.OBF
    looks: int = 10
    power: float = 0.8
    challenger_share: float = 0.5

    def __post_init__(self) -> None:
        for name, law, holds in (
            ("alpha", "lie in (0, 0.5)", 0 < self.alpha < 0.5),
            ("looks", "be 1 or more", self.looks >= 1),
            ("power", "lie above alpha and below 1", self.alpha < self.power < 1),
            ("challenger_share", "lie in (0, 1)", 0 < self.challenger_share < 1),
        ):
            if not holds:
                raise UsageError(f"plan: {name} = {getattr(self, name)} must {law}")

    @property
    def fixed_drift(self) -> float:
        """z_{1−α} + z_{power}: of the test with one look."""
        return float(ndtri(1 - self.alpha) + ndtri(self.power))

    @cached_property
    def drift(self) -> float:
        """The effect in standard errors at n_max that is found with the wanted power."""
        return _drift(self.alpha, self.spending, self.looks, self.power)

    @property
    def inflation(self) -> float:
        """Users at n_max over those of a test with one look."""
        return (self.drift / self.fixed_drift) ** 2

    def power_at(self, drift: float) -> float:
        times_K, critical_K = _boundary(self.alpha, self.spending, self.looks)
        return sum(crossing_probability(times_K, critical_K, drift=drift))

    def mean_share(self, drift: float) -> float:
        """Mean users when the trial ends, over n_max, if nothing else ends it."""
        times_K, critical_K = _boundary(self.alpha, self.spending, self.looks)
        first_K = crossing_probability(times_K, critical_K, drift=drift)
        return sum(p * time for p, time in zip(first_K, times_K, strict=True)) + 1 - sum(first_K)


@dataclass(frozen=True)
class Requirement:
    """Users of both arms that one metric asks for. None: no number of users proves it. `why` says what is proven."""

    metric: str
    users: int | None
    why: str


@dataclass(frozen=True)
class Plan:
    """What a trial needs for one relative effect. All users are matured ones of the two arms compared.

    `n_max`: the largest requirement that can be met, `binding` whose it is. `fixed`: of the primary metric's test with
    one look; `without_cuped`: of its sequential test without the adjustment; `mean_users`: when the effect is as large.
    """

    effect: float
    n_max: int
    binding: str
    fixed: int
    without_cuped: int
    mean_users: int
    requirements: tuple[Requirement, ...]

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "requirements": [vars(each) for each in self.requirements]}


def plan(
    primary: Observed,
    guardrails: Sequence[tuple[Metric, Observed]] = (),
    *,
    design: Design,
    effect: float,
) -> Plan:
    """What it takes to find the relative `effect` and to prove every guardrail. Raises UsageError as its parts do."""
    first = users_needed(primary, design=design, effect=effect)
    asked = [Requirement(primary.name, first, f"an effect of {effect:+.2%} found with {design.power:.0%} power")]
    for metric, observed in guardrails:
        asked.append(
            Requirement(observed.name, guardrail_users(observed, metric=metric, design=design), _proof(metric, design))
        )
    binding = max(asked, key=lambda each: each.users or 0)
    users = binding.users or 0
    drift = design.drift * math.sqrt(users / first)
    return Plan(
        effect=effect,
        n_max=users,
        binding=binding.metric,
        fixed=_whole(first / design.inflation),
        without_cuped=users_needed(replace(primary, adjusted=primary.variance), design=design, effect=effect),
        mean_users=_whole(users * design.mean_share(drift)),
        requirements=tuple(asked),
    )


def users_needed(observed: Observed, *, design: Design, effect: float) -> int:
    """Users of both arms at n_max that find the relative `effect` with the design's power.

    Raises UsageError for an effect of 0 or less, and for a rate of 0 or without variance, of which nothing is relative.
    """
    if not effect > 0 or not math.isfinite(effect):
        raise UsageError(f"plan: an effect of {effect} cannot be looked for; pass a relative one above 0, such as 0.03")
    _check(observed)
    distance = effect * observed.rate
    return _whole(_users(observed.adjusted, design=design, distance=distance, factors=(1.0, 1 + effect)))


def detectable_effect(observed: Observed, *, design: Design, users: float) -> float:
    """The relative effect that `users` of both arms find with the design's power: the inverse of `users_needed`.

    Infinite where they are too few for any. Raises UsageError for no users, and as `users_needed` does.
    """
    if not users > 0:
        raise UsageError(f"plan: {users:,.0f} users detect nothing; pass more days or more traffic")
    _check(observed)
    share = design.challenger_share
    # (e·R)² = θ²·s²/n·(1/p_A + (1 + e)²/p_B), a square equation in e
    noise = design.drift**2 * observed.adjusted / (users * observed.rate**2)
    a, half_b, c = 1 - noise / share, noise / share, noise * (1 / (1 - share) + 1 / share)
    return (half_b + math.sqrt(half_b**2 + a * c)) / a if a > 0 else math.inf


def guardrail_users(observed: Observed, *, metric: Metric, design: Design) -> int | None:
    """Users of both arms until equal arms are proven to be within the margin, with the design's power.

    None where the margin is 0 at this rate: equal arms never prove it. A rate without variance (no failure seen) counts
    as in `gate.guardrails.judge_guardrail`: one outcome more in each arm.
    """
    distance = metric.margin * observed.rate + metric.absolute
    if not distance > 0:
        return None
    factor = 1 - metric.margin if metric.better is Better.HIGHER else 1 + metric.margin
    users = _users(observed.variance, design=design, distance=distance, factors=(factor, 1.0))
    if metric.absolute > 0 and observed.impressions > 0:
        share = design.challenger_share
        users = max(users, design.drift * math.hypot(1 / (1 - share), 1 / share) / (observed.impressions * distance))
    return _whole(users / observed.share)


def _users(variance: float, *, design: Design, distance: float, factors: tuple[float, float]) -> float:
    """`factors`: by which the arms' linearised ratios, champion's first, stand in the difference."""
    share = design.challenger_share
    return design.drift**2 * variance * (factors[0] ** 2 / (1 - share) + factors[1] ** 2 / share) / distance**2


def _check(observed: Observed) -> None:
    if not observed.rate > 0 or not observed.variance > 0:
        raise UsageError(
            f"metric {observed.name}: its rate is {observed.rate:g} over {observed.users:,} users, with variance "
            f"{observed.variance:g}; an effect relative to that cannot be planned. Wait for outcomes, or choose "
            "another metric"
        )


def _proof(metric: Metric, design: Design) -> str:
    absolute = f" and {metric.absolute:g} more" if metric.absolute else ""
    kept = f"not worse by its margin of {metric.margin:.1%}{absolute}"
    if metric.margin == 0 and metric.absolute == 0:
        return "a margin of 0 is proven by a true improvement alone; give it a margin"
    return f"{kept} when nothing changed, proven with {design.power:.0%} power"


def _whole(users: float) -> int:
    """Rounded up, to an even number, so that both halves are whole."""
    return 2 * math.ceil(users / 2 - 1e-9)


@lru_cache(maxsize=64)
def _boundary(alpha: float, spending: Spending, looks: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    times_K = tuple((number + 1) / looks for number in range(looks))
    found = boundaries(times_K, spending=spending, alpha=alpha, final=True)
    return times_K, tuple(each.z for each in found)


@lru_cache(maxsize=64)
def _drift(alpha: float, spending: Spending, looks: int, power: float) -> float:
    times_K, critical_K = _boundary(alpha, spending, looks)

    def missing(drift: float) -> float:
        return sum(crossing_probability(times_K, critical_K, drift=drift)) - power

    return float(brentq(missing, 0.0, MAX_DRIFT, xtol=1e-9))
