"""Revenue per user with a heavy tail: rows 17, what the gate promises of it with and without a cap.

A fifth of the users are customers, and one in four of those buys within the window: one user in twenty. What a buyer
spends is log-normal with σ = 2, or Pareto with α = 1.5, whose variance is infinite; spending in the pre-period is as
likely, and correlates by ½ (in the normal deviates behind it). An effect is on how many buy, not on how much.

The cap is the .99 or the .999 quantile of users of another time, as `ratchet trial plan` would have it.

Shapes: _R one entry per trial, _K per look, _M the gate's sums, _U per customer.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from bench.gate_trials import ALPHA, LOOKS, bounds, ever, share
from bench.gate_worlds import batches
from bench.rows import Row, at_least, at_most, caught, figure, slack
from gate.confidence import one_sided_width, tuned_rho
from gate.estimator import SUMS, estimate, products

Array = NDArray[np.float64]
Spend = Callable[[Array], Array]
"""From standard normal deviates."""

DAILY = 700  # users an arm and day: 19,600 an arm in all, of whom 980 buy
FEW, MANY = 350, 1_400  # of the champion and of the challenger, where the split is 1:4
CUSTOMERS, BUYING, KNOWN = 0.2, 0.25, 0.7
LIFT = 0.2  # of buyers
HARM_ALPHA = 0.01
LEAST_GAIN = 40.0  # points of power that the tighter cap must bring
PAST = 2_000_000  # users that caps are chosen by
UNCAPPED = math.inf
CAPS = ("no cap", "cap at the .999 quantile", "cap at the .99 quantile")
STREAM = 17
"""Of the benchmark's random numbers."""


@dataclass(frozen=True)
class World:
    """`caps`: no cap, the .999 quantile of users, the .99 quantile."""

    name: str
    spend: Spend
    caps: tuple[float, float, float]

    @staticmethod
    def of(rng: np.random.Generator, name: str, spend: Spend) -> "World":
        buyers = rng.binomial(PAST, CUSTOMERS * BUYING)
        total = np.concatenate([np.zeros(PAST - buyers), spend(rng.standard_normal(buyers))])
        most, more = np.quantile(total, (0.999, 0.99))
        return World(name, spend, (UNCAPPED, float(most), float(more)))


def log_normal(deviate: Array, *, sigma: float = 2.0) -> Array:
    return np.exp(sigma * deviate)


def pareto(deviate: Array, *, alpha: float = 1.5) -> Array:
    return np.asarray(ndtr(-deviate) ** (-1 / alpha), dtype=np.float64)


def rows(rng: np.random.Generator, repetitions: int) -> list[Row]:
    found: list[Row] = []
    worlds = []
    for name, spend in (("log-normal, σ = 2", log_normal), ("Pareto, α = 1.5", pareto)):
        worlds.append(World.of(rng, name, spend))
        found += _rows(rng, worlds[-1], repetitions)
    return [*found, *(row for world in worlds for row in _dominance(rng, world))]


def _rows(rng: np.random.Generator, world: World, repetitions: int) -> list[Row]:
    equal = _scores(rng, world, repetitions=repetitions, daily=(DAILY, DAILY))
    better = _scores(rng, world, repetitions=repetitions, daily=(DAILY, DAILY), factor=1 + LIFT)
    uneven = _scores(rng, world, repetitions=repetitions, daily=(FEW, MANY))
    users_K = (FEW + MANY) * np.arange(1, LOOKS + 1, dtype=np.float64)
    width_K = one_sided_width(users_K, rho=tuned_rho(alpha=2 * HARM_ALPHA, users=users_K[-1]), alpha=HARM_ALPHA)
    none, less, least = CAPS
    even, few, power = ([share([ever(z >= bounds())]) for z in each] for each in (equal, uneven, better))
    # The arms the other way round: the challenger has the fewer users, and its z the other sign.
    harmed = [share([ever(z > width_K)]) for z in uneven]
    bar, harm_bar = slack(ALPHA, repetitions), slack(HARM_ALPHA, repetitions)
    what, more = f"17. revenue, {world.name}", f"{LIFT:.0%} more buyers"
    fifth = f"revenue, {world.name}, A/A, the champion has a fifth of the users"
    return [
        at_most(f"{what}, A/A, {none}: false promotions", even[0], bar),
        at_most(f"{what}, A/A, {less}: false promotions", even[1], bar),
        at_most(f"{what}, A/A, {least}: false promotions", even[2], bar),
        caught(f"17. broken on purpose: {fifth}, {none}: false promotions", few[0], bar),
        figure(f"17. {fifth}, {less}: false promotions", few[1]),
        at_most(f"17. {fifth}, {least}: false promotions", few[2], bar),
        figure(f"{what}, A/A, the challenger has a fifth of the users, {none}: aborted", harmed[0]),
        figure(f"{what}, A/A, the challenger has a fifth of the users, {less}: aborted", harmed[1]),
        at_most(f"{what}, A/A, the challenger has a fifth of the users, {least}: aborted", harmed[2], harm_bar),
        figure(f"{what}, {more}, {none}: power", power[0]),
        figure(f"{what}, {more}, {less}: power", power[1]),
        figure(f"{what}, {more}, {least}: power", power[2]),
        at_least(f"{what}, {more}, {least}: power gained", round(power[2] - power[0], 2), LEAST_GAIN, unit="points"),
    ]


def _dominance(rng: np.random.Generator, world: World, *, arms: int = 200) -> list[Row]:
    """The largest user's share of an arm's ΣS when the trial ends, as the looks record it."""
    shares = []
    for buyers in rng.binomial(LOOKS * DAILY, CUSTOMERS * BUYING, arms):
        total_U = world.spend(rng.standard_normal(buyers))
        shares.append([min(cap, total_U.max()) / np.minimum(total_U, cap).sum() for cap in world.caps])
    return [
        figure(
            f"17. revenue, {world.name}, {cap}: the largest user's share of an arm's revenue, median", round(each, 2)
        )
        for cap, each in zip(CAPS, 100 * np.median(shares, axis=0), strict=True)
    ]


def _scores(
    rng: np.random.Generator, world: World, *, repetitions: int, daily: tuple[int, int], factor: float = 1.0
) -> list[Array]:
    """z_RK, with CUPED, for each of the world's caps. `daily`: the champion's users a look, and the challenger's."""
    found: list[list[Array]] = [[] for _ in world.caps]
    for size in batches(repetitions, users=LOOKS * max(daily)):
        arms = zip(
            _sums(rng, world, trials=size, daily=daily[0], factor=1.0),
            _sums(rng, world, trials=size, daily=daily[1], factor=factor),
            strict=True,
        )
        for z, (champion_RKM, challenger_RKM) in zip(found, arms, strict=True):
            z.append(estimate(champion_RKM, challenger_RKM).z)
    return [np.concatenate(z) for z in found]


def _sums(rng: np.random.Generator, world: World, *, trials: int, daily: int, factor: float) -> Iterator[Array]:
    """Cumulative sums of an arm with `daily` users a look, for each of the world's caps; the same users for all.

    Customers alone are drawn one by one: of the others only who has a pre-period matters.
    """
    cells = trials * LOOKS
    customers = rng.binomial(daily, CUSTOMERS, cells)
    cell_U = np.repeat(np.arange(cells), customers)
    taste_U = rng.standard_normal(len(cell_U))
    known_U = rng.random(len(cell_U)) < KNOWN
    spent_U = _spent(rng, world, taste_U) * (rng.random(len(cell_U)) < BUYING * factor)
    before_U = _spent(rng, world, taste_U) * (known_U & (rng.random(len(cell_U)) < BUYING))
    others_M = products(np.zeros(cells), np.ones(cells), np.zeros(cells), np.ones(cells))
    strangers_M = products(np.zeros(cells), np.ones(cells), np.zeros(cells), np.zeros(cells))
    known = rng.binomial(daily - customers, KNOWN)[:, None]
    rest = known * others_M + (daily - customers[:, None] - known) * strangers_M
    for cap in world.caps:
        each_UM = products(
            np.minimum(spent_U, cap), np.ones_like(spent_U), np.minimum(before_U, cap), known_U.astype(np.float64)
        )
        own = np.stack([np.bincount(cell_U, each_UM[:, m], cells) for m in range(len(SUMS))], axis=-1)
        yield (own + rest).reshape(trials, LOOKS, len(SUMS)).cumsum(axis=1)


def _spent(rng: np.random.Generator, world: World, taste_U: Array) -> Array:
    return world.spend(math.sqrt(0.5) * taste_U + math.sqrt(0.5) * rng.standard_normal(len(taste_U)))
