"""Users with known truth, many trials at once, as the gate's sums: what the gate's benchmarks run on.

Clicks are clustered in users: each has an own taste and an own activity, so impressions are not independent.

Shapes: _R one entry per trial, _K per look (a day), _U per user and arm, _M the gate's sums.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gate.estimator import products

Array = NDArray[np.float64]

RATE = 0.1
TASTE = 10.0  # Beta(RATE·TASTE, (1 − RATE)·TASTE): a user's impressions correlate by 1/(TASTE + 1)
ACTIVITY = 8.0  # mean impressions after the first
NEWCOMERS = 0.3  # share of users without a pre-period
BATCH_USERS = 400_000  # bounds a batch to some 200 MB


@dataclass(frozen=True)
class Streams:
    """Cumulative sums per trial and look, of each arm."""

    champion: Array  # _RKM
    challenger: Array  # _RKM


@dataclass(frozen=True)
class _Users:
    taste: Array
    impressions: Array
    before: Array
    impressions_before: Array


def streams(
    rng: np.random.Generator, *, repetitions: int, looks: int, daily: int, factor: float = 1.0, growth: float = 1.0
) -> Iterator[Streams]:
    """Batches of trials of one challenger, whose rates are the champion's times `factor`."""
    for champion, challenger in arms(
        rng, repetitions=repetitions, looks=looks, daily=daily, factors=(1.0, factor), growth=growth
    ):
        yield Streams(champion, challenger)


def arms(
    rng: np.random.Generator,
    *,
    repetitions: int,
    looks: int,
    daily: int,
    factors: tuple[float, ...],
    growth: float = 1.0,
) -> Iterator[tuple[Array, ...]]:
    """Batches of trials with `daily` matured users an arm and look: cumulative sums _RKM of each arm.

    An arm's rates are `factors` times the world's; the last day's users are `growth` times as active as the first
    day's.
    """
    for size in batches(repetitions, users=looks * daily):
        found = []
        for multiple in factors:
            users = _users(rng, (size, looks, daily), growth=growth)
            outcome = rng.binomial(users.impressions.astype(np.int64), np.minimum(1.0, users.taste * multiple))
            found.append(_sums(outcome.astype(np.float64), users).cumsum(axis=1))
        yield tuple(found)


@dataclass(frozen=True)
class DelayedStreams:
    """The same conversions in both arms, sooner in the challenger.

    `matured`: users counted when their window has passed, one look a day. `immature`: everybody, with the outcomes so
    far, which is the mistake.
    """

    matured: Streams
    immature: Streams


def delayed_streams(
    rng: np.random.Generator, *, repetitions: int, looks: int, daily: int, arrived: tuple[Array, Array]
) -> Iterator[DelayedStreams]:
    """`arrived`: per arm, the share of a user's conversions that have come in by the end of day 0, 1, …; ends at 1."""
    for size in batches(repetitions, users=looks * daily):
        matured, immature = [], []
        for shares in arrived:
            users = _users(rng, (size, looks, daily))
            outcome = rng.binomial(users.impressions.astype(np.int64), users.taste)
            whole = _sums(outcome.astype(np.float64), users).cumsum(axis=1)
            so_far = np.zeros_like(whole)
            for age in range(len(shares) - 1, -1, -1):
                if age == len(shares) - 1:
                    so_far[:, age:] += whole[:, : looks - age]
                    continue
                # of what has arrived by the next age, the part that has arrived by this one
                outcome = rng.binomial(outcome, shares[age] / shares[age + 1])
                so_far[:, age:] += _sums(outcome.astype(np.float64), users)[:, : looks - age]
            matured.append(whole)
            immature.append(so_far)
        yield DelayedStreams(Streams(*matured), Streams(*immature))


def one_arm(rng: np.random.Generator, users: int) -> tuple[Array, Array]:
    """Outcomes and impressions of single users, for the bootstrap."""
    drawn = _users(rng, (users,))
    return rng.binomial(drawn.impressions.astype(np.int64), drawn.taste).astype(np.float64), drawn.impressions


def batches(repetitions: int, *, users: int) -> Iterator[int]:
    """Sizes that add up to `repetitions`, each small enough for memory."""
    most = max(1, BATCH_USERS // users)
    while repetitions > 0:
        yield min(most, repetitions)
        repetitions -= most


def _users(rng: np.random.Generator, shape: tuple[int, ...], *, growth: float = 1.0) -> _Users:
    taste = rng.beta(RATE * TASTE, (1 - RATE) * TASTE, shape)
    activity = rng.gamma(2.0, ACTIVITY / 2, shape)
    if growth != 1.0:
        activity = activity * np.geomspace(growth**-0.5, growth**0.5, shape[1])[None, :, None]
    known = rng.random(shape) >= NEWCOMERS
    before = rng.poisson(activity) * known
    return _Users(
        taste=taste,
        impressions=1 + rng.poisson(activity).astype(np.float64),
        before=rng.binomial(before, taste).astype(np.float64),
        impressions_before=before.astype(np.float64),
    )


def _sums(outcome: Array, users: _Users) -> Array:
    """Sums over the users of each trial and day."""
    sums_RKM: Array = products(outcome, users.impressions, users.before, users.impressions_before).sum(axis=2)
    return sums_RKM
