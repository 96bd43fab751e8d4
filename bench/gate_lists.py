"""Interleaving against an A/B trial on one world: how many users each needs until it knows which ranking is better.

The world: requests of contexts with candidates of known worth; a place in a list is looked at with a known chance, and
a click's chance is the user's taste times the item's worth times that, at most 1. Both rankings order by worth with an
error; the better one errs less. Two recommenders that learn from one log err alike, so most of their errors are shared
here (`SHARED`); rankings that err independently are a world of their own, in which interleaving gains less.

Lists are drafted by serving's own `team_draft`, users are judged by the gate's e-process; the A/B trial has the gate's
estimator with CUPED, and its boundaries at the same α.

Shapes: _C contexts, _L drafted lists, _P places, _U users, _R trials, _M the gate's sums.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.gate_trials import ALPHA, FIXED, LOOKS, POWER, bounds
from bench.gate_worlds import NEWCOMERS, batches
from bench.rows import Row, at_least, at_most, figure, slack
from gate.estimator import estimate, products
from gate.interleaving import log_e
from serving.choosing.interleaving import POLICY, team_draft

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

CONTEXTS, DRAFTS, CANDIDATES, PLACES = 400, 20, 30, 8
WORTH, SPREAD = 0.1, 1.5  # mean click chance of a candidate that is looked at; log-normal spread
ERROR, SMALLER_ERROR, SHARED = 0.6, 0.4, 0.9
REQUESTS = 2.0  # mean requests of a user after the first
MOST = 4_000  # users of an interleaving trial that ends without an answer
PILOT = 100_000  # users from whom the A/B trial is planned


@dataclass(frozen=True)
class Requests:
    """A population of requests: click chances at each place of a user of taste 1, and whose pick stands there."""

    chance_LP: Array
    credit_LP: Whole  # +1 challenger's pick, −1 champion's, 0 agreed

    @property
    def rate(self) -> float:
        """Clicks per impression, exactly: E min(1, c·T) = c·(1 − e^{−1/c}) for a taste T ~ Exp(1)."""
        return float((self.chance_LP * -np.expm1(-1 / self.chance_LP)).mean())


@dataclass(frozen=True)
class ListWorld:
    champion: Requests
    challenger: Requests
    mixed: Requests

    @property
    def lift(self) -> float:
        return self.challenger.rate / self.champion.rate - 1


def rows(rng: np.random.Generator, repetitions: int) -> list[Row]:
    worlds = {sign: list_world(rng, errors=errors) for sign, errors in ERRORS.items()}
    better, worse = worlds[1], worlds[-1]
    found = {sign: interleaved(rng, world, repetitions) for sign, world in worlds.items()}
    right = 100 * float(np.mean([(found[sign][0] == sign).mean() for sign in (1, -1)]))
    few = max(30, repetitions // 10)
    users, power = compared(rng, better, few)
    mixed = float(found[1][1].mean())
    unlike = list_world(rng, errors=ERRORS[1], shared=0.0)
    unlike_users = float(interleaved(rng, unlike, few)[1].mean())
    unlike_gain = compared(rng, unlike, few)[0] / unlike_users
    known_gain = compared(rng, better, few, newcomers=0.0)[0] / mixed
    return [
        at_least(f"14. A/B users over interleaving's, lift {better.lift:+.1%}", round(users / mixed, 1), 20, unit="×"),
        figure("14. users until interleaving decides, mean", round(mixed), "users"),
        figure(f"14. users of the A/B trial, mean ({power:.0f} % power, {few} trials)", round(users), "users"),
        at_least(
            f"14. interleaving names the better ranking ({better.lift:+.1%}, {worse.lift:+.1%})", round(right, 2), 95.0
        ),
        at_most(
            f"14. equal rankings, {MOST:,} users looked at one by one: a winner named",
            round(100 * float((found[0][0] != 0).mean()), 2),
            slack(2 * ALPHA, repetitions),
        ),
        figure(
            f"14. rankings that err independently ({unlike.lift:+.1%}): A/B users over interleaving's",
            round(unlike_gain, 1),
            "×",
        ),
        figure(
            "14. every user with a pre-period, so that CUPED helps the A/B trial more: A/B users over interleaving's",
            round(known_gain, 1),
            "×",
        ),
    ]


ERRORS = {1: (ERROR, SMALLER_ERROR), -1: (SMALLER_ERROR, ERROR), 0: (ERROR, ERROR)}


def list_world(rng: np.random.Generator, *, errors: tuple[float, float], shared: float = SHARED) -> ListWorld:
    """Equal errors give rankings of exactly equal worth: each context comes twice, with the teams exchanged."""
    shape = (CONTEXTS // 2 if errors[0] == errors[1] else CONTEXTS, CANDIDATES)
    appeal = rng.standard_normal(shape)
    common = np.sqrt(shared) * rng.standard_normal(shape)
    orders = [
        np.argsort(-(appeal + error * (common + np.sqrt(1 - shared) * rng.standard_normal(shape))), axis=1)
        for error in errors
    ]
    if errors[0] == errors[1]:
        appeal, orders = np.tile(appeal, (2, 1)), [np.concatenate(orders), np.concatenate(orders[::-1])]
    worth = np.minimum(0.5, WORTH * np.exp(SPREAD * appeal - SPREAD**2 / 2))
    seen_P = 1 / np.log2(np.arange(PLACES) + 2)
    nobody = np.zeros((len(worth), PLACES), int)
    champion, challenger = (
        Requests(np.take_along_axis(worth, order[:, :PLACES], axis=1) * seen_P, nobody) for order in orders
    )
    return ListWorld(champion, challenger, _drafted(orders, worth=worth, seen_P=seen_P))


def _drafted(orders: list[Whole], *, worth: Array, seen_P: Array) -> Requests:
    chance = np.zeros((len(worth) * DRAFTS, PLACES))
    credit = np.zeros(chance.shape, int)
    rankings = [[[str(item) for item in order] for order in team] for team in orders]
    for context in range(len(worth)):
        for draft in range(DRAFTS):
            place_of = context * DRAFTS + draft
            picks = team_draft(rankings[0][context], rankings[1][context], k=PLACES, request_id=f"{context}/{draft}")
            for place, pick in enumerate(picks):
                item = orders[pick.team][context][pick.candidate]
                chance[place_of, place] = worth[context, item] * seen_P[place]
                credit[place_of, place] = 2 * pick.team - 1 if pick.policy == POLICY else 0
    return Requests(chance, credit)


def interleaved(rng: np.random.Generator, world: ListWorld, repetitions: int) -> tuple[Whole, Whole]:
    """Per trial: 1, −1, or 0 where nothing was proven, and the users it took, those without a sign included."""
    named, users = np.zeros(repetitions, int), np.full(repetitions, MOST)
    open_R, wins_R, losses_R, before = np.arange(repetitions), np.zeros(repetitions), np.zeros(repetitions), 0
    step = 100
    while before < MOST and len(open_R):
        signs = np.sign(draw_clicks(rng, world.mixed, draw_tastes(rng, len(open_R) * step))[0]).reshape(-1, step)
        wins = wins_R[open_R, None] + (signs > 0).cumsum(axis=1)
        losses = losses_R[open_R, None] + (signs < 0).cumsum(axis=1)
        win, loss = log_e(wins, losses) >= -np.log(ALPHA), log_e(losses, wins) >= -np.log(ALPHA)
        decided = win | loss
        done, at = decided.any(axis=1), decided.argmax(axis=1)
        named[open_R[done]] = np.where(win[done, at[done]], 1, -1)
        users[open_R[done]] = before + at[done] + 1
        wins_R[open_R], losses_R[open_R] = wins[:, -1], losses[:, -1]
        open_R, before = open_R[~done], before + step
    return named, users


def compared(
    rng: np.random.Generator, world: ListWorld, repetitions: int, *, newcomers: float = NEWCOMERS
) -> tuple[float, float]:
    """Mean users of an A/B trial planned for 80 % power at the world's true effect, and its power in percent."""
    pilot = estimate(
        _sums(rng, world, world.champion, PILOT, newcomers).sum(axis=0),
        _sums(rng, world, world.challenger, PILOT, newcomers).sum(axis=0),
    )
    effect = world.challenger.rate - world.champion.rate
    daily = int(np.ceil(PILOT * ((FIXED + POWER) * float(pilot.standard_error) / effect) ** 2 / LOOKS))
    stopped, promoted = [], 0
    for size in batches(repetitions, users=LOOKS * daily):
        arms = [
            _sums(rng, world, shown, size * LOOKS * daily, newcomers)
            .reshape(size, LOOKS, daily, -1)
            .sum(axis=2)
            .cumsum(axis=1)
            for shown in (world.champion, world.challenger)
        ]
        crossed = estimate(*arms).z >= bounds()
        found = crossed.any(axis=1)
        promoted += int(found.sum())
        stopped += list(np.where(found, crossed.argmax(axis=1) + 1, LOOKS))
    return 2 * daily * float(np.mean(stopped)), 100 * promoted / repetitions


def _sums(rng: np.random.Generator, world: ListWorld, shown: Requests, users: int, newcomers: float) -> Array:
    """What each user adds to the gate's sums, _UM; the pre-period is as long, with the champion's lists."""
    tastes = draw_tastes(rng, users)
    _, clicks, impressions = draw_clicks(rng, shown, tastes)
    _, before, impressions_before = draw_clicks(rng, world.champion, tastes)
    known = rng.random(users) >= newcomers
    return products(clicks, impressions, before * known, impressions_before * known)


def draw_tastes(rng: np.random.Generator, users: int) -> tuple[Array, Array]:
    """How readily each user clicks, and how often each comes."""
    return rng.exponential(1.0, users), rng.exponential(REQUESTS, users)


def draw_clicks(rng: np.random.Generator, shown: Requests, users: tuple[Array, Array]) -> tuple[Array, Array, Array]:
    """Per user: clicks on the challenger's picks less those on the champion's, clicks, impressions."""
    taste, activity = users
    requests = 1 + rng.poisson(activity)
    who = np.repeat(np.arange(len(taste)), requests)
    lists = rng.integers(len(shown.chance_LP), size=len(who))
    clicked = rng.random((len(who), PLACES)) < shown.chance_LP[lists] * taste[who, None]
    credit = (clicked * shown.credit_LP[lists]).sum(axis=1)

    def by_user(of_request: NDArray[np.generic]) -> Array:
        return np.bincount(who, weights=of_request, minlength=len(taste)).astype(np.float64)

    return by_user(credit), by_user(clicked.sum(axis=1)), (requests * PLACES).astype(np.float64)
