"""A marketplace with known truth: catalogue, people, tastes and what happens without any recommender.

The same parameters and seed give the same rows, whichever days are asked for first.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from simulation.appeal import Appeal, build_appeal
from simulation.catalogue import build_catalogue
from simulation.clock import iso_times
from simulation.faults import Faults, deliver
from simulation.funnel import STEPS
from simulation.parameters import Parameters
from simulation.sessions import Events, Visits, browse, empty_memory
from simulation.tastes import Tastes, build_people


@dataclass(frozen=True)
class DayAccount:
    """What the file of one organic day holds. `delivered` = `genuine` + `duplicate` + all of `dirty`."""

    day: int
    delivered: int
    genuine: int
    duplicate: int
    dirty: dict[str, int]
    """Broken rows by kind: behaviour, item, time, value."""
    behaviours: dict[str, int]
    """Genuine rows by behaviour."""


@dataclass(frozen=True)
class _Day:
    visits: Visits
    events: Events
    faults: Faults


class Marketplace:
    def __init__(self, parameters: Parameters | None = None, seed: int = 0) -> None:
        self.parameters = parameters or Parameters()
        self.seed = seed
        catalogue, people, tastes, days = np.random.SeedSequence([seed, 0]).spawn(4)
        self.catalogue = build_catalogue(self.parameters, np.random.default_rng(catalogue))
        self.people = build_people(self.parameters, np.random.default_rng(people))
        self.tastes = Tastes(self.parameters, len(self.people.ids), tastes)
        self._streams = days.spawn(self.parameters.horizon_days)
        self._memory = empty_memory(len(self.people.ids), len(self.catalogue.ids), self.parameters.repeat_memory)
        self._days: list[_Day] = []
        self._appeal: dict[int, Appeal] = {}

    def items(self, day: int) -> list[dict[str, Any]]:
        """Rows of an items file: what is new on `day`; on day 0 everything on sale."""
        self._check(day)
        return self.catalogue.rows(day)

    def organic_day(self, day: int) -> list[dict[str, Any]]:
        """Rows of an events file in time order: what people do on `day` by themselves, broken and repeated rows
        included as `account(day)` says. Keys user_id, item_id, behaviour, event_time (ISO 8601, Z) and value."""
        known = self._day(day)
        events = known.events
        users, items = self.people.ids, self.catalogue.ids
        stamps = iso_times(events.time_us_E, self.parameters)
        rows = [
            {
                "user_id": users[user],
                "item_id": items[item],
                "behaviour": STEPS[behaviour],
                "event_time": stamp,
                "value": value if value == value else None,  # NaN: no value
            }
            for user, item, behaviour, stamp, value in zip(
                events.user_E.tolist(),
                events.item_E.tolist(),
                events.behaviour_E.tolist(),
                stamps,
                events.value_E.tolist(),
                strict=True,
            )
        ]
        return deliver(rows, known.faults)

    def account(self, day: int) -> DayAccount:
        """What `organic_day(day)` holds."""
        known = self._day(day)
        count_B = np.bincount(known.events.behaviour_E, minlength=len(STEPS))
        dirty = known.faults.counts()
        duplicate = len(known.faults.twice)
        return DayAccount(
            day=day,
            delivered=len(known.events) + duplicate + sum(dirty.values()),
            genuine=len(known.events),
            duplicate=duplicate,
            dirty=dirty,
            behaviours=dict(zip(STEPS, count_B.tolist(), strict=True)),
        )

    def events(self, day: int) -> Events:
        """The genuine organic events of `day`, in columns."""
        return self._day(day).events

    def visits(self, day: int) -> Visits:
        """Who comes on `day`, in the order of coming."""
        return self._day(day).visits

    def appeal(self, day: int) -> Appeal:
        """The truth about clicks on `day`."""
        self._check(day)
        if day not in self._appeal:
            self._appeal[day] = build_appeal(self.catalogue, self.people, self.tastes, day)
        return self._appeal[day]

    def _day(self, day: int) -> _Day:
        self._check(day)
        while len(self._days) <= day:
            number = len(self._days)
            walk, broken = (np.random.default_rng(stream) for stream in self._streams[number].spawn(2))
            visits, events = browse(
                number,
                catalogue=self.catalogue,
                people=self.people,
                tastes=self.tastes,
                memory=self._memory,
                rng=walk,
            )
            faults = Faults.draw(len(events), self.parameters, broken)
            self._days.append(_Day(visits=visits, events=events, faults=faults))
        return self._days[day]

    def _check(self, day: int) -> None:
        if not 0 <= day < self.parameters.horizon_days:
            raise ValueError(
                f"day {day} is outside 0 … {self.parameters.horizon_days - 1}; raise Parameters.horizon_days"
            )
