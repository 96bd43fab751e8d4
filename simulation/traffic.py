"""Trial traffic: people open the recommendation surface, look, click, buy, and the app reports it.

A visit begins on the recommendation surface and goes on with browsing (the organic events of the same day, which the
caller delivers as a file when the day is over). So serving knows, at each request, exactly what the truth's context
says: organic events of earlier days, and all feedback so far.
"""

import heapq
import time as wall
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import numpy as np

from simulation.appeal import NOTHING, examination
from simulation.client import RecommendClient, RequestFailed, Slate
from simulation.clock import DAY_US, HOUR_US, SECOND_US, iso, told
from simulation.contexts import HISTORY, Context, Reservoir, Step
from simulation.funnel import CART, CLICK, FAVOURITE, PURCHASE, RATING, STEPS, follow_up
from simulation.marketplace import Marketplace

MAX_CONSECUTIVE_FAILURES = 50
"""After so many failures in a row the server is taken for gone, and the day ends with the last failure."""


@dataclass
class ArmCount:
    requests: int = 0
    impressions: int = 0
    clicks: int = 0


@dataclass
class TrafficDay:
    """What one day of traffic did."""

    day: int
    users: int = 0
    requests: int = 0
    """Requests for recommendations that were answered."""
    failed: int = 0
    """Requests of either kind without a usable answer."""
    impressions: int = 0
    refused: int = 0
    """Feedback events that serving refused."""
    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STEPS[1:], 0))
    """Events sent with a token, by behaviour."""
    arms: dict[str, ArmCount] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def clicks(self) -> int:
        return self.outcomes["click"]


@dataclass(frozen=True)
class _Page:
    user: int
    page: int
    """Within the session, from 1."""
    clicked: bool
    """Something was clicked on this session's earlier page."""


@dataclass(frozen=True)
class _Outcome:
    user: int
    item: int
    behaviour: int
    time_us: int
    value: float | None
    token: str


Action = tuple[int, int, _Page | tuple[_Outcome, ...]]


class Traffic:
    """The users of one marketplace at one server, over several days. Days go forward."""

    def __init__(
        self, marketplace: Marketplace, *, seed: int = 0, contexts: int = 1_500, window: timedelta = timedelta(hours=24)
    ) -> None:
        """`contexts`: the size of the sample of requests; `window`: the trial's attribution window."""
        self.marketplace = marketplace
        self.seed = seed
        self._limit = contexts
        self._reservoir = Reservoir(contexts, seed)
        self._later: list[Action] = []
        """Conversions that come after the day on which they were decided."""
        self._sequence = count()
        people = len(marketplace.people.ids)
        self._history: list[list[tuple[int, int, int]]] = [[] for _ in range(people)]
        """(time, item, behaviour) of each user, as serving was told."""
        self._last: list[tuple[int, int]] = [(-1, NOTHING)] * people
        """(time, sub-topic) of the newest of these."""
        self._window = window
        self._first_us: dict[int, int] = {}
        """Each user's first request since the sample of contexts began."""
        self._absorbed = 0
        """Organic days that are in the histories."""

    def contexts(self, *, watermark: datetime | None = None) -> list[Context]:
        """A uniform sample of the requests that a trial counts, since the start or the last `forget_contexts`.

        Counted are requests within the attribution window that begins at their user's first one. With `watermark` only
        those of users whose window was over then: the population of the gate's estimate, so that the true lift
        and the estimated one mean the same.
        """
        kept = self._reservoir.kept
        return [context for context in kept if watermark is None or context.matured(watermark, self._window)]

    def forget_contexts(self) -> None:
        """Begin a new sample, for a new trial."""
        self._reservoir = Reservoir(self._limit, self.seed)
        self._first_us = {}

    def trial_day(
        self, day: int, client: RecommendClient, *, on_request: Callable[[int], None] | None = None
    ) -> TrafficDay:
        """Play `day` in time order. The organic events of all earlier days must have reached serving before.

        `on_request` gets the number of requests so far (progress). Raises DependencyFailed when the server is gone.
        """
        began = wall.perf_counter()
        failures_before, refused_before = client.counts.failures, client.counts.events_refused
        self._absorb_organic(day)
        rng = np.random.default_rng([self.seed, 1, day])
        result = TrafficDay(day=day)
        actions = self._plan(day, rng, result)
        end_us = (day + 1) * DAY_US
        while self._later and self._later[0][0] < end_us:
            actions.append(heapq.heappop(self._later))
        heapq.heapify(actions)
        in_a_row = 0
        while actions:
            time_us, _, action = heapq.heappop(actions)
            try:
                if isinstance(action, _Page):
                    for planned in self._open_page(time_us, action, client, rng, result):
                        heapq.heappush(actions if planned[0] < end_us else self._later, planned)
                    if on_request is not None:
                        on_request(result.requests)
                else:
                    self._report(time_us, action, client, result)
                in_a_row = 0
            except RequestFailed:
                in_a_row += 1
                if in_a_row >= MAX_CONSECUTIVE_FAILURES:
                    raise
        result.failed = client.counts.failures - failures_before
        result.refused = client.counts.events_refused - refused_before
        result.seconds = wall.perf_counter() - began
        return result

    def _absorb_organic(self, day: int) -> None:
        for earlier in range(self._absorbed, day):
            events = self.marketplace.events(earlier)
            for user, item, behaviour, time_us in zip(
                events.user_E.tolist(),
                events.item_E.tolist(),
                events.behaviour_E.tolist(),
                events.time_us_E.tolist(),
                strict=True,
            ):
                self._remember(user, item, behaviour, time_us)
        self._absorbed = max(self._absorbed, day)

    def _remember(self, user: int, item: int, behaviour: int, time_us: int) -> None:
        self._history[user].append((time_us, item, behaviour))
        if time_us >= self._last[user][0]:
            self._last[user] = (time_us, int(self.marketplace.catalogue.subtopic_N[item]))

    def _plan(self, day: int, rng: np.random.Generator, result: TrafficDay) -> list[Action]:
        """First pages of the day's sessions, each before the person browses on."""
        p = self.marketplace.parameters
        visits = self.marketplace.visits(day)
        lead_V = rng.integers(10 * 60 * SECOND_US, 30 * 60 * SECOND_US, size=len(visits.user_V))
        earlier_V = rng.integers(HOUR_US, 5 * HOUR_US, size=len(visits.user_V))
        twice_V = rng.random(len(visits.user_V)) < p.second_session
        actions: list[Action] = []
        for user, start, lead, earlier, twice in zip(
            visits.user_V.tolist(),
            visits.start_us_V.tolist(),
            lead_V.tolist(),
            earlier_V.tolist(),
            twice_V.tolist(),
            strict=True,
        ):
            starts = [start - lead - earlier, start - lead] if twice else [start - lead]
            actions.extend((at, next(self._sequence), _Page(user, page=1, clicked=False)) for at in starts)
        for bot in range(self.marketplace.people.bots):
            at_R = rng.integers(day * DAY_US, (day + 1) * DAY_US - HOUR_US, size=p.bot_requests_per_day)
            actions.extend((at, next(self._sequence), _Page(bot, page=1, clicked=False)) for at in at_R.tolist())
        result.users = len(visits.user_V) + (self.marketplace.people.bots if p.bot_requests_per_day else 0)
        return actions

    def _open_page(
        self, time_us: int, page: _Page, client: RecommendClient, rng: np.random.Generator, result: TrafficDay
    ) -> list[Action]:
        """Ask, look and click. Returns what follows from it, by time: reports, and perhaps a second page."""
        market = self.marketplace
        p = market.parameters
        weight = 1.0 if page.clicked else p.resume
        last_subtopic = self._last[page.user][1]
        slate = client.recommend(market.people.ids[page.user], k=p.slots, now=iso(time_us, p))
        first_us = self._first_us.setdefault(page.user, time_us)
        if time_us < first_us + self._window // timedelta(microseconds=1):
            self._reservoir.offer(lambda: self._context(time_us, page, last_subtopic, weight))
        result.requests += 1
        result.impressions += len(slate.item_ids)
        arm = result.arms.setdefault(slate.arm, ArmCount())
        arm.requests += 1
        arm.impressions += len(slate.item_ids)
        if not slate.item_ids:
            return []
        item_C = self._numbers(slate)
        click_C = market.appeal(time_us // DAY_US).click(
            np.array([page.user]),
            item_C[None, :],
            last_subtopic_M=np.array([last_subtopic]),
            context_weight_M=np.array([weight]),
        )[0]
        bot = page.user < market.people.bots
        if not bot:
            click_C *= examination(p, len(item_C))
        clicked_K = np.flatnonzero(rng.random(len(item_C)) < click_C)
        arm.clicks += len(clicked_K)
        outcomes = self._outcomes(time_us, page.user, slate, item_C, clicked_K, rng)
        soon_us = time_us + 10 * 60 * SECOND_US
        now_done = tuple(outcome for outcome in outcomes if outcome.time_us < soon_us)
        at_us = max((outcome.time_us for outcome in now_done), default=time_us + 20 * SECOND_US)
        following: list[Action] = [
            (outcome.time_us, next(self._sequence), (outcome,)) for outcome in outcomes if outcome.time_us >= soon_us
        ]
        if now_done:
            following.append((at_us, next(self._sequence), now_done))
        if page.page == 1 and not bot and rng.random() < p.second_page:
            again = _Page(page.user, page=2, clicked=len(clicked_K) > 0)
            following.append((at_us + 5 * SECOND_US, next(self._sequence), again))
        return following

    def _outcomes(
        self,
        time_us: int,
        user: int,
        slate: Slate,
        item_C: np.ndarray[Any, np.dtype[np.int64]],
        clicked_K: np.ndarray[Any, np.dtype[np.int64]],
        rng: np.random.Generator,
    ) -> list[_Outcome]:
        if not len(clicked_K):
            return []
        catalogue = self.marketplace.catalogue
        item_K = item_C[clicked_K]
        steps = follow_up(catalogue, item_K, rng)
        deeper = user >= self.marketplace.people.bots  # crawlers click and go no deeper
        outcomes = []
        for row, (position, item) in enumerate(zip(clicked_K.tolist(), item_K.tolist(), strict=True)):
            click_us = time_us + (3 + 4 * position) * SECOND_US
            token = slate.tokens[position]
            outcomes.append(_Outcome(user, item, CLICK, click_us, None, token))
            if not deeper:
                continue
            for behaviour, happens_M, delay_M, value in (
                (FAVOURITE, steps.favourite_M, steps.favourite_us_M, None),
                (CART, steps.cart_M, steps.cart_us_M, None),
                (PURCHASE, steps.purchase_M, steps.purchase_us_M, float(catalogue.price_N[item])),
                (RATING, steps.rating_M, steps.rating_us_M, float(steps.stars_M[row])),
            ):
                if happens_M[row]:
                    outcomes.append(_Outcome(user, item, behaviour, click_us + int(delay_M[row]), value, token))
        return outcomes

    def _report(
        self, time_us: int, outcomes: tuple[_Outcome, ...], client: RecommendClient, result: TrafficDay
    ) -> None:
        market = self.marketplace
        events: list[dict[str, Any]] = []
        for outcome in outcomes:
            event: dict[str, Any] = {
                "token": outcome.token,
                "user_id": market.people.ids[outcome.user],
                "item_id": market.catalogue.ids[outcome.item],
                "behaviour": STEPS[outcome.behaviour],
                "event_time": iso(outcome.time_us, market.parameters),
            }
            if outcome.value is not None:
                event["value"] = outcome.value
            events.append(event)
        client.feedback(events, now=iso(time_us, market.parameters))
        for outcome in sorted(outcomes, key=lambda outcome: outcome.time_us):
            self._remember(outcome.user, outcome.item, outcome.behaviour, outcome.time_us)
            result.outcomes[STEPS[outcome.behaviour]] += 1

    def _context(self, time_us: int, page: _Page, last_subtopic: int, weight: float) -> Context:
        market = self.marketplace
        newest = sorted(self._history[page.user])[-HISTORY:]
        return Context(
            user_id=market.people.ids[page.user],
            time=told(time_us, market.parameters),
            history=tuple(
                Step(market.catalogue.ids[item], STEPS[behaviour], told(at, market.parameters))
                for at, item, behaviour in newest
            ),
            user=page.user,
            day=time_us // DAY_US,
            last_subtopic=last_subtopic,
            context_weight=weight,
            first_request=told(self._first_us[page.user], market.parameters),
        )

    def _numbers(self, slate: Slate) -> np.ndarray[Any, np.dtype[np.int64]]:
        number = self.marketplace.catalogue.number
        try:
            return np.array([number[item] for item in slate.item_ids], dtype=np.int64)
        except KeyError as error:
            raise ValueError(
                f"serving showed {error}, which is not an item of marketplace seed {self.marketplace.seed}; "
                "does the home belong to another seed?"
            ) from error
