"""Simulated trials with known truth, judged by the gate's own functions: rows 1 to 13 of what it must prove.

Bars on error rates are the promise plus three standard errors of the simulation. A row that breaks the method on
purpose holds when the simulation notices: a proof that these simulations can fail.

Shapes: _R one entry per trial, _K per look.
"""

import math
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from bench.gate_worlds import RATE, DelayedStreams, Streams, arms, delayed_streams, one_arm, streams
from bench.rows import Row, at_least, at_most, caught, figure, shortfall, slack
from gate.boundaries import Spending, boundaries
from gate.confidence import one_sided_width, tuned_rho, two_sided_width
from gate.estimator import SUMS, ArmSums, estimate
from gate.guardrails import non_inferiority
from gate.metrics import Better
from gate.mismatch import log_bayes_factor

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

ALPHA = 0.025
LOOKS, DAILY = 28, 50  # days, and matured users an arm and day
LONGER = 3  # how many times n_max the always-valid default may take
USERS_K: Array = 2.0 * DAILY * np.arange(1, LOOKS + 1, dtype=np.float64)
MIN_USERS = 400
HALF = (0.5, 0.5)
FIXED, POWER = 1.959964, 0.841621  # quantiles of one-sided α = .025 and of 80 % power
# Share of a user's conversions that have come in by the end of day 0, 1, 2, 3: as many in the end, sooner in B.
ARRIVED = (np.array([0.25, 0.5, 0.75, 1.0]), np.array([0.8, 0.95, 1.0, 1.0]))


def bounds(*, looks: int = LOOKS, alpha: float = ALPHA) -> Array:
    """z at each of `looks` equal looks."""
    times = tuple((look + 1) / looks for look in range(looks))
    return np.array([each.z for each in boundaries(times, spending=Spending.OBF, alpha=alpha, final=True)])


def ever(mask_RK: Flags) -> Flags:
    """Whether a trial was hit at any look."""
    return np.asarray(mask_RK.any(axis=1), dtype=np.bool_)


def share(hits: Iterable[Flags]) -> float:
    return round(100 * float(np.concatenate(list(hits)).mean()), 3)


def null(rng: np.random.Generator, repetitions: int) -> tuple[list[Row], float]:
    """Both arms alike: false promotions, coverage, and two broken variants. Also the final SE, relative to the rate."""
    z, plain, naive, impressions, covered, repeated, errors = [], [], [], [], [], [], []
    rho = tuned_rho(alpha=2 * ALPHA, users=USERS_K[-1])
    watched = USERS_K >= MIN_USERS
    width_K = two_sided_width(USERS_K, rho=rho, alpha=2 * ALPHA)
    for batch in streams(rng, repetitions=repetitions, looks=LOOKS, daily=DAILY):
        found = estimate(batch.champion, batch.challenger)
        raw = estimate(batch.champion, batch.challenger, adjust=False)
        z.append(ever(found.z >= bounds()))
        plain.append(ever(raw.z >= bounds()))
        naive.append(ever(raw.z >= FIXED))
        impressions.append(ever(_impression_z(batch) >= bounds()))
        covered.append(~ever((np.abs(found.z) > width_K)[:, watched]))
        repeated.append(~ever(np.abs(found.z) > bounds()))
        errors.append(found.standard_error[:, -1] / found.champion_rate[:, -1])
    bar = slack(ALPHA, repetitions)
    return [
        at_most("1. A/A, 28 looks: false promotions", share(plain), bar),
        at_most("1. A/A, 28 looks, with CUPED: false promotions", share(z), bar),
        at_least("2. 95 % confidence sequence: covers at every look", share(covered), 95.0),
        at_least(
            "2. intervals at the boundaries: cover at all 28 looks", share(repeated), shortfall(0.95, repetitions)
        ),
        caught("6. broken on purpose: a fixed-horizon test at every look", share(naive), bar),
        caught("6. broken on purpose: impressions taken for independent", share(impressions), bar),
    ], float(np.concatenate(errors).mean())


def _impression_z(batch: Streams) -> Array:
    """z as if every impression were a coin toss of its own."""
    s, i = SUMS.index("s"), SUMS.index("i")
    rates, variances = [], []
    for sums_RKM in (batch.champion, batch.challenger):
        rate = sums_RKM[..., s] / sums_RKM[..., i]
        rates.append(rate)
        variances.append(rate * (1 - rate) / sums_RKM[..., i])
    return np.asarray((rates[1] - rates[0]) / np.sqrt(variances[0] + variances[1]), dtype=np.float64)


def declared_effect(scale: float) -> float:
    """The lift that a fixed-horizon test finds 80 % of the time; `scale`: the final standard error of equal arms,
    relative to the rate. The challenger's variance grows with its rate."""
    effect = (FIXED + POWER) * scale
    return effect * math.sqrt((1 + (1 + effect) ** 2) / 2)


def effects(rng: np.random.Generator, repetitions: int, *, scale: float) -> list[Row]:
    """Power and users needed, at the effect that a fixed-horizon test finds 80 % of the time, and at its double."""
    effect = declared_effect(scale)
    single, double = 1 + effect, 1 + 2 * effect
    # The always-valid default goes on after n_max, to see how many users it needs for the gate's power.
    gate, fixed, always, promoted = [], [], [], []
    for batch in streams(rng, repetitions=repetitions, looks=LONGER * LOOKS, daily=DAILY, factor=single):
        found = estimate(batch.champion, batch.challenger)
        z = found.z
        gate.append(_first(z[:, :LOOKS] >= bounds()))
        won = np.flatnonzero(gate[-1] <= LOOKS)
        promoted.append(found.delta[won, gate[-1][won].astype(int) - 1])
        fixed.append(z[:, LOOKS - 1] >= FIXED)
        always.append(_first(z >= always_valid(LONGER * LOOKS)))
    ours, theirs = np.concatenate(gate), np.concatenate(always)
    power, always_power = (100 * float((looks <= LOOKS).mean()) for looks in (ours, theirs))
    twice = [
        _first(estimate(batch.champion, batch.challenger).z >= bounds())
        for batch in streams(rng, repetitions=repetitions, looks=LOOKS, daily=DAILY, factor=double)
    ]

    def users(looks: Array) -> float:
        """Mean until decided, capped at n_max, as a share of it."""
        return float(np.minimum(looks, LOOKS).mean()) / LOOKS

    overstated = float(np.concatenate(promoted).mean()) / (RATE * (single - 1))
    equal = float(np.quantile(theirs, power / 100, method="inverted_cdf")) / LOOKS
    return [
        at_most("3. power lost to one fixed-horizon look", round(share(fixed) - power, 3), 4.0, unit="points"),
        figure("3. power of the gate at the declared effect", round(power, 2)),
        figure("3. estimate of the promoted over the true effect", round(overstated, 2), "×"),
        at_least("4. power over the always-valid default", round(power / always_power, 2), 1.5, unit="×"),
        figure("4. power of the always-valid default, same users", round(always_power, 2)),
        figure(
            "4. users until decided, both ended at n_max: always-valid over gate",
            round(users(theirs) / users(ours), 2),
            "×",
        ),
        figure("4. users for the gate's power: always-valid over the gate's n_max", round(equal, 2), "×"),
        at_most("5. mean users at 80 % power, share of fixed n", round(users(ours), 3), 0.85, unit=""),
        at_most(
            "5. mean users at twice that effect, share of fixed n", round(users(np.concatenate(twice)), 3), 0.5, unit=""
        ),
    ]


def always_valid(looks: int) -> Array:
    """Width at each look of the default of always-valid libraries: ρ of 5,000 users, whatever the trial's size."""
    users_K = 2.0 * DAILY * np.arange(1, looks + 1, dtype=np.float64)
    return two_sided_width(users_K, rho=tuned_rho(alpha=2 * ALPHA, users=5_000), alpha=2 * ALPHA)


def _first(crossed_RK: Flags) -> Array:
    """The first look that crosses, from 1; infinite where none does."""
    return np.where(ever(crossed_RK), crossed_RK.argmax(axis=1) + 1.0, np.inf)


def delays(rng: np.random.Generator, repetitions: int) -> list[Row]:
    def promoted(pick: Callable[[DelayedStreams], Streams]) -> float:
        return share([ever(_z(pick(batch)) >= bounds()) for batch in found])

    found = list(delayed_streams(rng, repetitions=repetitions, looks=LOOKS, daily=DAILY, arrived=ARRIVED))
    bar = slack(ALPHA, repetitions)
    return [
        at_most("7. same conversions, sooner in B: false promotions", promoted(lambda batch: batch.matured), bar),
        caught("6. broken on purpose: immature outcomes counted", promoted(lambda batch: batch.immature), bar),
    ]


def _z(batch: Streams) -> Array:
    return estimate(batch.champion, batch.challenger).z


def mismatch(rng: np.random.Generator, repetitions: int) -> list[Row]:
    threshold = -math.log(0.001)

    def odds(share: float, *, looks: int, step: int) -> Array:
        champion = rng.binomial(step, share, (repetitions, looks)).cumsum(axis=1)
        users = step * np.arange(1, looks + 1)
        return log_bayes_factor(np.stack([champion, users - champion], axis=-1).astype(np.float64), expected_A=HALF)

    false = share([ever(odds(0.5, looks=400, step=500) > threshold)])
    flagged = odds(0.505, looks=1_000, step=500) > threshold
    reached = np.where(ever(flagged), flagged.argmax(axis=1) + 1, 1_000) * 500
    return [
        at_most("8. no mismatch, 400 looks: flagged", false, 0.3),
        at_most("9. 50.5/49.5: median users until flagged", float(np.median(reached)), 175_000, unit="users"),
    ]


def bootstrap(rng: np.random.Generator, *, data_sets: int = 20, users: int = 500, draws: int = 2_000) -> list[Row]:
    ratios = []
    for _ in range(data_sets):
        spread, errors = np.zeros(draws), []
        for sign in (-1, 1):
            outcome, impressions = one_arm(rng, users)
            weights = rng.multinomial(users, np.full(users, 1 / users), size=draws)
            spread += sign * (weights @ outcome) / (weights @ impressions)
            errors.append(ArmSums.from_users(outcome, impressions, np.zeros(users), np.zeros(users)).array())
        ratios.append(float(estimate(*errors, adjust=False).standard_error) / float(spread.std()))
    off = np.abs(np.array(ratios) - 1)
    mean = round(100 * abs(float(np.mean(ratios)) - 1), 2)
    return [
        at_most(f"10. delta-method SE against {draws:,} bootstraps: mean difference", mean, 1.0),
        at_most(f"10. delta-method SE against {draws:,} bootstraps: largest", round(100 * float(off.max()), 2), 5.0),
    ]


def guardrail(rng: np.random.Generator, repetitions: int, *, margin: float = 0.1) -> list[Row]:
    """The primary metric is taken for won at every look: the guardrail alone prevents a mistake."""
    passed = []
    for batch in streams(rng, repetitions=repetitions, looks=LOOKS, daily=DAILY, factor=1 - margin):
        found = estimate(batch.champion, batch.challenger, adjust=False)
        left, error = non_inferiority(found, margin=margin, better=Better.HIGHER)
        passed.append(ever(left / error >= bounds()))
    return [at_most("11. a guardrail exactly at its margin: promoted", share(passed), slack(ALPHA, repetitions))]


def harm(rng: np.random.Generator, repetitions: int, *, scale: float) -> list[Row]:
    rho = tuned_rho(alpha=0.02, users=USERS_K[-1])
    bound_K = -one_sided_width(USERS_K, rho=rho, alpha=0.01)
    watched = USERS_K >= MIN_USERS
    rows = []
    for errors, judge, bar in ((0, at_most, 1.0), (4, at_least, 70.0), (6, at_least, 99.0)):
        factor = 1 - errors * scale
        hit = [
            ever((_z(batch) < bound_K)[:, watched])
            for batch in streams(rng, repetitions=repetitions, looks=LOOKS, daily=DAILY, factor=factor)
        ]
        rows.append(judge(f"12. harm of {errors} final standard errors: aborted", share(hit), bar))
    return rows


def growing(rng: np.random.Generator, repetitions: int, *, growth: float = 9.0) -> list[Row]:
    """Later users are more active, so that early looks know less than their share of the users."""
    found = list(streams(rng, repetitions=repetitions, looks=LOOKS, daily=DAILY, growth=growth))
    i = SUMS.index("i")
    known = [
        (estimate(batch.champion, batch.challenger).standard_error * (batch.champion + batch.challenger)[..., i]) ** 2
        for batch in found
    ]
    information_K = np.concatenate(known).mean(axis=0)
    times = tuple(USERS_K / USERS_K[-1])
    judged = boundaries(times, information=tuple(information_K), spending=Spending.OBF, alpha=ALPHA, final=True)
    promoted = share([ever(_z(batch) >= np.array([each.z for each in judged])) for batch in found])
    return [
        at_most(f"1. A/A, later users {growth:g}× as active: false promotions", promoted, slack(ALPHA, repetitions))
    ]


def several(rng: np.random.Generator, repetitions: int, *, challengers: int = 3) -> list[Row]:
    """No challenger is better; each meets the champion's users, who are the same for all, at α/K."""
    judged = bounds(alpha=ALPHA / challengers)
    any_promoted, at_full = [], []
    for champion, *others in arms(
        rng, repetitions=repetitions, looks=LOOKS, daily=DAILY, factors=(1.0,) * (challengers + 1)
    ):
        z = [estimate(champion, other).z for other in others]
        any_promoted.append(np.any([ever(each >= judged) for each in z], axis=0))
        at_full.append(np.any([ever(each >= bounds()) for each in z], axis=0))
    bar = slack(ALPHA, repetitions)
    return [
        at_most(f"13. {challengers} null challengers at α/{challengers}: any promoted", share(any_promoted), bar),
        caught(f"13. broken on purpose: {challengers} null challengers at α each", share(at_full), bar),
    ]
