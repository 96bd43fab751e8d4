"""A panel: people who come again and again and ask with the same history each time.

What the app sends with a request stands for the user's newest history, so a person of the panel is the same question at
every visit, its events as old as ever. The truth over the panel is therefore a sum over all of its requests and has no
sampling error, and many trials can be held on the same truth.

Legend: `_P` people of the panel, `_M` requests of one wave, `_C` shown items of one request.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulation.appeal import NOTHING, examination
from simulation.client import RecommendClient
from simulation.clock import DAY_US, SECOND_US, iso, told
from simulation.contexts import Context, Step
from simulation.funnel import CLICK, FAVOURITE, STEPS, follow_up
from simulation.marketplace import Marketplace
from simulation.truth import TrueLift, expected_clicks

BATCH = 64
"""Requests in one call: as many as the API takes."""


class Answer(NamedTuple):
    """One request of the person at `place` in the panel."""

    place: int
    arm: str
    trial: str | None
    digest: str
    shown: int
    clicks: int


@dataclass
class Wave:
    """What one wave of visits did."""

    events: int = 0
    """Feedback events that serving accepted."""
    refused: int = 0
    repeated: int = 0
    """Feedback events that were sent a second time and that serving recognised."""
    answers: list[Answer] = field(default_factory=list)


class Panel:
    """People with their histories and how often each asks in a visit. The marketplace must stand still: no trend, no
    novelty, no change of interests, so that one day's truth is every day's."""

    def __init__(self, marketplace: Marketplace, *, day: int, people: int, events: int = 12, seed: int = 0) -> None:
        """`day`: histories are of the organic days before it, the newest `events` of each person.

        Raises ValueError for a marketplace that moves, or that has fewer people with a history.
        """
        p = marketplace.parameters
        if p.trend_step or p.novelty or p.interest_change:
            raise ValueError("a panel needs a marketplace that stands still: trend_step, novelty, interest_change = 0")
        histories: dict[int, list[tuple[int, int, int]]] = {}
        for earlier in range(day):
            found = marketplace.events(earlier)
            for user, *event in zip(
                found.user_E.tolist(),
                found.time_us_E.tolist(),
                found.item_E.tolist(),
                found.behaviour_E.tolist(),
                strict=True,
            ):
                if user >= marketplace.people.bots:
                    histories.setdefault(user, []).append((event[0], event[1], event[2]))
        rng = np.random.default_rng([seed, 2])
        if len(histories) < people:
            raise ValueError(f"{len(histories)} people have a history by day {day}; a panel of {people} needs more")
        chosen = np.sort(rng.choice(sorted(histories), size=people, replace=False))
        self.marketplace = marketplace
        self.visits_P: NDArray[np.int64] = rng.integers(1, 3, size=people)
        """Requests that each person makes in a visit: one or two."""
        self.contexts = tuple(self._context(user, day, sorted(histories[user])[-events:]) for user in chosen.tolist())
        self.user_P = chosen
        self.last_P = np.array([context.last_subtopic for context in self.contexts])

    def __len__(self) -> int:
        return len(self.contexts)

    def expected(
        self, candidates: Sequence[Sequence[str]], *, exploration: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Expected clicks and impressions of one request of each person, `_P` both; see `truth.expected_clicks`."""
        slots = self.marketplace.parameters.slots
        return expected_clicks(
            candidates, self.contexts, marketplace=self.marketplace, slots=slots, exploration=exploration
        )

    def rate(self, candidates: Sequence[Sequence[str]], *, exploration: float) -> float:
        """Clicks per impression that the panel gives a policy, exactly: over all requests of all its people."""
        click_P, shown_P = self.expected(candidates, exploration=exploration)
        return float((self.visits_P * click_P).sum() / (self.visits_P * shown_P).sum())

    def lift(
        self, champion: Sequence[Sequence[str]], challenger: Sequence[Sequence[str]], *, exploration: float
    ) -> TrueLift:
        """Of the challenger's candidates over the champion's, exact for the panel.

        `standard_error`: of it as an estimate for all people whom the panel could have been drawn from (delta method).
        """
        found = [self.expected(lists, exploration=exploration) for lists in (champion, challenger)]
        rates, errors_P = [], []
        for click_P, shown_P in found:
            asked_P = self.visits_P * shown_P
            rate = float((self.visits_P * click_P).sum() / asked_P.sum())
            rates.append(rate)
            errors_P.append(self.visits_P * (click_P - rate * shown_P) / (asked_P.mean() * rate))
        influence_P = rates[1] / rates[0] * (errors_P[1] - errors_P[0])
        return TrueLift(
            lift=rates[1] / rates[0] - 1,
            champion_rate=rates[0],
            challenger_rate=rates[1],
            standard_error=float(influence_P.std(ddof=1) / len(self) ** 0.5),
            contexts=len(self),
        )

    def visit(
        self, place_P: NDArray[np.int64], client: RecommendClient, *, at_us: int, rng: np.random.Generator
    ) -> Wave:
        """These people come, one batch a second from `at_us` on: each asks once or twice, looks, clicks, and the app
        reports it. About one batch's report in eight is sent twice, as after a lost answer.
        """
        wave = Wave()
        rounds = [place_P, place_P[self.visits_P[place_P] > 1]]
        for again, place_M in enumerate(rounds):
            at = at_us + again * 600 * SECOND_US
            for first in range(0, len(place_M), BATCH):
                self._ask(place_M[first : first + BATCH], client, time_us=at, rng=rng, wave=wave)
                at += SECOND_US
        return wave

    def _ask(
        self,
        place_M: NDArray[np.int64],
        client: RecommendClient,
        *,
        time_us: int,
        rng: np.random.Generator,
        wave: Wave,
    ) -> None:
        market = self.marketplace
        p = market.parameters
        now = iso(time_us, p)
        asked = [self._body(int(place), time_us) for place in place_M]
        slates = client.recommend_many(asked, now=now)
        events: list[dict[str, Any]] = []
        for place, slate in zip(place_M.tolist(), slates, strict=True):
            context = self.contexts[place]
            item_C = np.array([market.catalogue.number[item] for item in slate.item_ids], dtype=np.int64)
            click_C = market.appeal(context.day).click(
                self.user_P[place : place + 1],
                item_C[None, :],
                last_subtopic_M=self.last_P[place : place + 1],
                context_weight_M=np.array([context.context_weight]),
            )[0]
            clicked_K = np.flatnonzero(rng.random(len(item_C)) < click_C * examination(p, len(item_C)))
            wave.answers.append(Answer(place, slate.arm, slate.trial, slate.digest, len(item_C), len(clicked_K)))
            steps = follow_up(market.catalogue, item_C[clicked_K], rng)
            for row, position in enumerate(clicked_K.tolist()):
                said = {
                    "token": slate.tokens[position],
                    "user_id": context.user_id,
                    "item_id": slate.item_ids[position],
                }
                at_us = time_us + (3 + 2 * position) * SECOND_US
                events.append({**said, "behaviour": STEPS[CLICK], "event_time": iso(at_us, p)})
                if steps.favourite_M[row]:
                    at_us += int(steps.favourite_us_M[row])
                    events.append({**said, "behaviour": STEPS[FAVOURITE], "event_time": iso(at_us, p)})
        if not events:
            return
        reported = iso(time_us + 90 * SECOND_US, p)
        receipt = client.feedback(events, now=reported)
        wave.events += receipt.accepted
        wave.refused += len(receipt.refused)
        if rng.random() < 1 / 8:
            wave.repeated += client.feedback(events, now=reported).duplicate

    def _body(self, place: int, time_us: int) -> dict[str, Any]:
        p, context = self.marketplace.parameters, self.contexts[place]
        now = told(time_us, p)
        return {
            "user_id": context.user_id,
            "k": p.slots,
            "events": [
                {
                    "item_id": step.item_id,
                    "behaviour": step.behaviour,
                    "event_time": (now - (context.time - step.time)).isoformat(),
                }
                for step in context.history
            ],
        }

    def _context(self, user: int, day: int, newest: list[tuple[int, int, int]]) -> Context:
        market = self.marketplace
        time = told(day * DAY_US, market.parameters)
        items = [item for _, item, _ in newest]
        return Context(
            user_id=market.people.ids[user],
            time=time,
            history=tuple(
                Step(market.catalogue.ids[item], STEPS[behaviour], told(at, market.parameters))
                for at, item, behaviour in newest
            ),
            user=user,
            day=day,
            last_subtopic=int(market.catalogue.subtopic_N[items[-1]]) if items else NOTHING,
            context_weight=market.parameters.resume,
            first_request=time,
        )
