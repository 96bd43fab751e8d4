"""What people want: interests of their own that change one by one, and a market-wide trend that moves every day.

Legend: `_U` users, `_I` interests, `_S` sub-topics, `_D` days, `_V` visitors of a day.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulation.parameters import Parameters


@dataclass(frozen=True)
class People:
    """Everybody of the horizon. Rows 0 … bots − 1 are crawlers; the rest are people, by their first day."""

    ids: tuple[str, ...]
    number: dict[str, int]
    first_day_U: NDArray[np.int64]
    gap_U: NDArray[np.int64]
    phase_U: NDArray[np.int64]
    inclination_U: NDArray[np.float64]
    """Log-odds added to each of the person's clicks."""
    browse_items_U: NDArray[np.float64]
    """Mean items in a session of their own."""
    bots: int

    def visitors(self, day: int, extra: float, rng: np.random.Generator) -> NDArray[np.int64]:
        """People (no bots) who come on `day`: those whose turn it is, and a few out of turn."""
        turn_U = (day - self.phase_U) % self.gap_U == 0
        turn_U |= rng.random(len(self.ids)) < extra
        turn_U |= (self.first_day_U == day) & (day > 0)
        turn_U &= self.first_day_U <= day
        turn_U[: self.bots] = False
        return np.flatnonzero(turn_U)


class Tastes:
    """Interests and trend of each day; days are drawn in order, each from its own stream, and kept."""

    def __init__(self, parameters: Parameters, people: int, seeds: np.random.SeedSequence) -> None:
        self.parameters = parameters
        p = parameters
        first, trend, *self._days = seeds.spawn(2 + p.horizon_days)
        rng = np.random.default_rng(first)
        self._home_topics_UT = np.stack(
            [_topic_draw(p, people, rng) for _ in range(p.topics_per_user)],
            axis=1,
        )
        interest_UI = np.stack([self._draw(np.arange(people), rng) for _ in range(p.interests)], axis=1)
        strength_UI = rng.uniform(1 - p.interest_spread, 1 + p.interest_spread, size=interest_UI.shape)
        self._interests = [interest_UI]
        self._strengths = [strength_UI]
        self.complement_S = _cycle(p.subtopics, rng)
        self.trend_DS = _trend(p, np.random.default_rng(trend))

    def interests(self, day: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The sub-topics that each person cares about on `day` and how much (`_UI` both)."""
        p = self.parameters
        while len(self._interests) <= day:
            rng = np.random.default_rng(self._days[len(self._interests)])
            interest_UI, strength_UI = self._interests[-1].copy(), self._strengths[-1].copy()
            changed_UI = rng.random(interest_UI.shape) < p.interest_change
            user_C, slot_C = np.nonzero(changed_UI)
            interest_UI[user_C, slot_C] = self._draw(user_C, rng)
            strength_UI[user_C, slot_C] = rng.uniform(1 - p.interest_spread, 1 + p.interest_spread, size=len(user_C))
            self._interests.append(interest_UI)
            self._strengths.append(strength_UI)
        return self._interests[day], self._strengths[day]

    def interest_logits(self, day: int) -> NDArray[np.float32]:
        """Log-odds that each person's own interests add to a click, `_US`. Two in one sub-topic: the stronger."""
        interest_UI, strength_UI = self.interests(day)
        logit_US = np.zeros((len(interest_UI), self.parameters.subtopics), dtype=np.float32)
        rows = np.repeat(np.arange(len(interest_UI)), interest_UI.shape[1])
        values = (self.parameters.interest_click * strength_UI).astype(np.float32)
        np.maximum.at(logit_US, (rows, interest_UI.ravel()), values.ravel())
        return logit_US

    def _draw(self, users: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        p = self.parameters
        home = self._home_topics_UT[users, rng.integers(p.topics_per_user, size=len(users))]
        own = home * p.subtopics_per_topic + rng.integers(p.subtopics_per_topic, size=len(users))
        anywhere = rng.integers(p.subtopics, size=len(users))
        return np.where(rng.random(len(users)) < p.off_topic_interest, anywhere, own).astype(np.int64)


def build_people(parameters: Parameters, rng: np.random.Generator) -> People:
    p = parameters
    first_day_U = np.concatenate([np.zeros(p.users), np.repeat(np.arange(1, p.horizon_days), p.new_users_per_day)])
    count = len(first_day_U)
    gap_U = rng.choice(np.asarray(p.visit_gaps_days), size=count)
    often_U = rng.random(count) < p.daily_visitor_share
    gap_U = np.where(often_U, rng.integers(1, 3, size=count), gap_U).astype(np.int64)
    foreign_U = rng.random(count) < p.non_ascii
    ids = tuple(f"użytkownik-{row}" if foreign_U[row] else f"user-{row}" for row in range(count))
    return People(
        ids=ids,
        number={user: row for row, user in enumerate(ids)},
        first_day_U=first_day_U.astype(np.int64),
        gap_U=gap_U,
        phase_U=rng.integers(0, 7 * 6 * 5 * 4, size=count),
        inclination_U=rng.normal(0.0, p.user_spread, size=count),
        browse_items_U=p.session_items_mean
        * np.exp(rng.normal(-(p.session_spread**2) / 2, p.session_spread, size=count)),
        bots=p.bots,
    )


def _topic_draw(p: Parameters, people: int, rng: np.random.Generator) -> NDArray[np.int64]:
    # The first topics are the larger ones, gently: shares fall with the square root of the rank.
    share = 1 / np.sqrt(1 + np.arange(p.topics))
    return rng.choice(p.topics, size=people, p=share / share.sum()).astype(np.int64)


def _cycle(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A random cycle through all sub-topics: each has one complement, never itself."""
    order = rng.permutation(count)
    complement = np.empty(count, dtype=np.int64)
    complement[order] = np.roll(order, -1)
    return complement


def _trend(p: Parameters, rng: np.random.Generator) -> NDArray[np.float64]:
    stationary = p.trend_step / np.sqrt(1 - p.trend_persistence**2)
    trend_DS = np.empty((p.horizon_days, p.subtopics))
    trend_DS[0] = rng.normal(0.0, stationary, size=p.subtopics)
    for day in range(1, p.horizon_days):
        trend_DS[day] = p.trend_persistence * trend_DS[day - 1] + rng.normal(0.0, p.trend_step, size=p.subtopics)
    return trend_DS
