"""A day of people browsing on their own: which items, in which order, at what time.

The next item is of the last one's sub-topic, of its complement, or from the person's own taste; so the order says
more than the set. All visitors take a step at a time, as arrays.

Legend: `_U` users, `_V` visitors, `_A` visitors still browsing, `_S` sub-topics, `_N` items, `_E` events.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from simulation.appeal import NOTHING, merit_logits
from simulation.catalogue import Catalogue
from simulation.clock import DAY_US, HOUR_US, SECOND_US
from simulation.funnel import CART, CLICK, FAVOURITE, PURCHASE, RATING, VIEW, follow_up
from simulation.parameters import Parameters
from simulation.tastes import People, Tastes


@dataclass(frozen=True)
class Events:
    """Events in columns, ordered by time: microseconds since midnight of day 0. `value` is NaN where there is none."""

    user_E: NDArray[np.int64]
    item_E: NDArray[np.int64]
    behaviour_E: NDArray[np.int64]
    time_us_E: NDArray[np.int64]
    value_E: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.user_E)

    def select(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "Events":
        return Events(
            self.user_E[rows], self.item_E[rows], self.behaviour_E[rows], self.time_us_E[rows], self.value_E[rows]
        )


def merged(parts: list[Events]) -> Events:
    together = Events(
        np.concatenate([part.user_E for part in parts]),
        np.concatenate([part.item_E for part in parts]),
        np.concatenate([part.behaviour_E for part in parts]),
        np.concatenate([part.time_us_E for part in parts]),
        np.concatenate([part.value_E for part in parts]),
    )
    return together.select(np.lexsort((together.behaviour_E, together.user_E, together.time_us_E)))


@dataclass(frozen=True)
class Visits:
    """Who comes on a day (crawlers left out) and when each begins to browse."""

    user_V: NDArray[np.int64]
    start_us_V: NDArray[np.int64]


@dataclass
class Memory:
    """What carries over from day to day. Changed by `browse` in place."""

    last_subtopic_U: NDArray[np.int64]
    recent_UR: NDArray[np.int64]
    """The newest items of each person, ring by `seen_U`; NOTHING where empty."""
    seen_U: NDArray[np.int64]
    popularity_N: NDArray[np.float64]
    delayed: list[Events] = field(default_factory=list)
    """Purchases and ratings that come on later days."""


def empty_memory(people: int, items: int, repeat_memory: int) -> Memory:
    return Memory(
        last_subtopic_U=np.full(people, NOTHING, dtype=np.int64),
        recent_UR=np.full((people, repeat_memory), NOTHING, dtype=np.int64),
        seen_U=np.zeros(people, dtype=np.int64),
        popularity_N=np.zeros(items),
    )


def browse(
    day: int, *, catalogue: Catalogue, people: People, tastes: Tastes, memory: Memory, rng: np.random.Generator
) -> tuple[Visits, Events]:
    """One day's organic events, delayed conversions of earlier days included; every time lies in `day`."""
    p = catalogue.parameters
    visits = _visits(day, people, p, rng)
    views = merged([_walk(day, visits, catalogue, people, tastes, memory, rng), _crawl(day, catalogue, people, rng)])
    produced = _funnel(views, catalogue, people, rng)
    everything = merged([views, produced, *memory.delayed])
    today_E = everything.time_us_E < (day + 1) * DAY_US
    memory.delayed = [everything.select(~today_E)]
    memory.popularity_N *= p.popularity_memory
    memory.popularity_N += np.bincount(views.item_E, minlength=len(memory.popularity_N))
    return visits, everything.select(today_E)


def _visits(day: int, people: People, p: Parameters, rng: np.random.Generator) -> Visits:
    user_V = people.visitors(day, p.extra_visit, rng)
    # Two humps, lunch and evening, between 07:00 and 22:00, so that a session ends before midnight.
    lunch_V = rng.random(len(user_V)) < 0.4
    hour_V = np.clip(np.where(lunch_V, rng.normal(12.5, 2.0, len(user_V)), rng.normal(19.0, 2.0, len(user_V))), 7, 22)
    start_us_V = day * DAY_US + (hour_V * HOUR_US).astype(np.int64) + rng.integers(0, HOUR_US, size=len(user_V))
    order = np.argsort(start_us_V, kind="stable")
    return Visits(user_V=user_V[order], start_us_V=start_us_V[order])


def _walk(
    day: int,
    visits: Visits,
    catalogue: Catalogue,
    people: People,
    tastes: Tastes,
    memory: Memory,
    rng: np.random.Generator,
) -> Events:
    p = catalogue.parameters
    shelf = _Shelf(day, catalogue, memory)
    taste_VS = (
        tastes.interest_logits(day)[visits.user_V] + tastes.trend_DS[day] + 0.5 / p.choice_sharpness * shelf.mass_S
    )
    cumulative_VS = np.cumsum(np.exp(p.choice_sharpness * taste_VS), axis=1)
    length_V = np.minimum(rng.geometric(1 / np.maximum(people.browse_items_U[visits.user_V], 1.0)), p.session_items_max)
    time_V = visits.start_us_V.copy()
    previous_V = np.full(len(time_V), NOTHING, dtype=np.int64)
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]] = []
    for step in range(int(length_V.max(initial=0))):
        alive_A = np.flatnonzero(length_V > step)
        user_A = visits.user_V[alive_A]
        last_A = memory.last_subtopic_U[user_A]
        weight = 1.0 if step else p.resume
        draw_A = rng.random(len(alive_A))
        wanted_A = rng.random(len(alive_A)) * cumulative_VS[alive_A, -1]
        subtopic_A = (cumulative_VS[alive_A] < wanted_A[:, None]).sum(axis=1)
        known_A = last_A != NOTHING
        stays_A = known_A & (draw_A < weight * p.stay)
        goes_A = known_A & ~stays_A & (draw_A < weight * (p.stay + p.complement))
        subtopic_A = np.where(stays_A, last_A, np.where(goes_A, tastes.complement_S[last_A], subtopic_A))
        item_A = shelf.pick(subtopic_A, rng)
        again_A = item_A == previous_V[alive_A]
        item_A[again_A] = shelf.pick(subtopic_A[again_A], rng)
        filled_A = np.minimum(memory.seen_U[user_A], p.repeat_memory)
        remembered_A = memory.recent_UR[user_A, (rng.random(len(alive_A)) * np.maximum(filled_A, 1)).astype(np.int64)]
        repeats_A = (filled_A > 0) & (rng.random(len(alive_A)) < p.repeat)
        item_A = np.where(repeats_A, remembered_A, item_A)
        if step:
            time_V[alive_A] += 2 * SECOND_US + (rng.exponential(p.step_seconds, len(alive_A)) * SECOND_US).astype(
                np.int64
            )
        parts.append((user_A, item_A, np.minimum(time_V[alive_A], (day + 1) * DAY_US - SECOND_US)))
        memory.last_subtopic_U[user_A] = catalogue.subtopic_N[item_A]
        memory.recent_UR[user_A, memory.seen_U[user_A] % p.repeat_memory] = item_A
        memory.seen_U[user_A] += 1
        previous_V[alive_A] = item_A
    user_E, item_E, time_E = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _views(user_E, item_E, time_E)


class _Shelf:
    """The items on sale by sub-topic, each drawn in proportion to merit and recent popularity."""

    def __init__(self, day: int, catalogue: Catalogue, memory: Memory) -> None:
        p = catalogue.parameters
        count = catalogue.released(day)
        popularity_N = memory.popularity_N[:count]
        weight_N = np.exp(merit_logits(catalogue, day)[:count])
        weight_N *= (1 + popularity_N / max(popularity_N.mean(), 1e-9)) ** p.popularity_pull
        subtopic_N = catalogue.subtopic_N[:count]
        self.item_N = np.argsort(subtopic_N, kind="stable")
        self.cumulative_N = np.cumsum(weight_N[self.item_N])
        ends_S = np.searchsorted(subtopic_N[self.item_N], np.arange(p.subtopics), side="right")
        self.end_S = self.cumulative_N[ends_S - 1]
        self.start_S = np.concatenate([[0.0], self.end_S[:-1]])
        mass_S = self.end_S - self.start_S
        self.mass_S = np.log(mass_S / mass_S.mean())
        """Log of a sub-topic's share of everything on sale: full shelves draw people."""

    def pick(self, subtopic_A: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        start_A, end_A = self.start_S[subtopic_A], self.end_S[subtopic_A]
        at_A = start_A + rng.random(len(subtopic_A)) * (end_A - start_A)
        place_A = np.searchsorted(self.cumulative_N, at_A, side="right")
        item_A: NDArray[np.int64] = self.item_N[np.minimum(place_A, len(self.item_N) - 1)]
        return item_A


def _crawl(day: int, catalogue: Catalogue, people: People, rng: np.random.Generator) -> Events:
    p = catalogue.parameters
    count = people.bots * p.bot_events_per_day
    user_E = np.repeat(np.arange(people.bots), p.bot_events_per_day)
    return _views(
        user_E,
        rng.integers(0, catalogue.released(day), size=count),
        day * DAY_US + np.sort(rng.integers(0, DAY_US - HOUR_US, size=count)),
    )


def _views(user_E: NDArray[np.int64], item_E: NDArray[np.int64], time_us_E: NDArray[np.int64]) -> Events:
    behaviour_E = np.full(len(user_E), VIEW, dtype=np.int64)
    return Events(user_E, item_E, behaviour_E, time_us_E, np.full(len(user_E), np.nan))


def _funnel(views: Events, catalogue: Catalogue, people: People, rng: np.random.Generator) -> Events:
    """What follows the views. Crawlers click and go no deeper."""
    p = catalogue.parameters
    log_odds_E = np.log(p.click / (1 - p.click)) + catalogue.quality_N[views.item_E]
    bot_E = views.user_E < people.bots
    clicked_E = rng.random(len(views)) < np.where(bot_E, p.bot_click, 1 / (1 + np.exp(-log_odds_E)))
    clicks = views.select(clicked_E)
    # Before the next item is opened, so that a person's own order is view, click, view, click.
    click_us_E = clicks.time_us_E + rng.integers(SECOND_US // 2, 2 * SECOND_US, size=len(clicks))
    steps = follow_up(catalogue, clicks.item_E, rng)
    person_E = clicks.user_E >= people.bots
    none_E = np.full(len(clicks), np.nan)
    parts = [
        Events(clicks.user_E, clicks.item_E, np.full(len(clicks), CLICK, dtype=np.int64), click_us_E, none_E),
    ]
    for behaviour, happens_E, delay_E, value_E in (
        (FAVOURITE, steps.favourite_M, steps.favourite_us_M, none_E),
        (CART, steps.cart_M, steps.cart_us_M, none_E),
        (PURCHASE, steps.purchase_M, steps.purchase_us_M, catalogue.price_N[clicks.item_E]),
        (RATING, steps.rating_M, steps.rating_us_M, steps.stars_M),
    ):
        rows = np.flatnonzero(happens_E & person_E)
        code = np.full(len(rows), behaviour, dtype=np.int64)
        parts.append(
            Events(clicks.user_E[rows], clicks.item_E[rows], code, click_us_E[rows] + delay_E[rows], value_E[rows])
        )
    return merged(parts)
