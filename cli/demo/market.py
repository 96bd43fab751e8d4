"""The simulated marketplace at a home's door: files into the landing folder, requests to the server, and the truth."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from model.evaluation import RankerRecommender
from model.fitted import Fitted
from model.recommending import Past, Question, best_items
from simulation.client import RecommendClient
from simulation.contexts import Context
from simulation.marketplace import Marketplace
from simulation.traffic import Traffic, TrafficDay
from simulation.truth import TrueLift, true_lift
from stores.clock import set_clock
from stores.home import Home
from stores.serving_settings import PolicySettings

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Market:
    """One seed's marketplace. `day` is the next day to happen."""

    home: Home
    seed: int
    policy: PolicySettings
    day: int = 0
    marketplace: Marketplace = field(init=False)
    traffic: Traffic = field(init=False)

    def __post_init__(self) -> None:
        self.marketplace = Marketplace(seed=self.seed)
        self.traffic = Traffic(self.marketplace, seed=self.seed)

    def now(self) -> datetime:
        """Midnight before `day`."""
        start: datetime = self.marketplace.parameters.start
        return start + timedelta(days=self.day)

    def organic_day(self) -> None:
        """What is new in the shop, and what people do by themselves; then the day is over."""
        self._drop("items", self.marketplace.items(self.day))
        self._drop("events", self.marketplace.organic_day(self.day))
        self._end_day()

    def trial_day(self, client: RecommendClient, *, on_request: Callable[[int], None] | None = None) -> TrafficDay:
        """A day with requests to the server; organic events arrive as a file at its end, as on any day."""
        played = self.traffic.trial_day(self.day, client, on_request=on_request)
        self.organic_day()
        return played

    def true_lift(self, champion: Fitted, challenger: Fitted, contexts: list[Context]) -> TrueLift:
        """What the simulation knows and no gate can: the lift over these requests, exploration included."""
        return true_lift(
            lambda asked: self._candidates(champion, asked),
            lambda asked: self._candidates(challenger, asked),
            contexts,
            marketplace=self.marketplace,
            slots=self.marketplace.parameters.slots,
            exploration=self.policy.exploration,
        )

    def _candidates(self, fitted: Fitted, asked: Sequence[Context]) -> list[list[str]]:
        return best_items(
            RankerRecommender.of(fitted), [self._question(context) for context in asked], n=self.policy.candidates
        )

    def _question(self, context: Context) -> Question:
        """As serving met it."""
        history = [Past(step.item_id, step.behaviour, _us(step.time)) for step in context.history]
        seen = [past.item_id for past in history] if self.policy.exclude_seen else []
        return Question(history, _us(context.time), frozenset([*context.exclude, *seen]))

    def _drop(self, kind: str, rows: list[dict[str, Any]]) -> None:
        if not rows:
            return
        target = self.home.landing / kind / f"shop-{kind}-day-{self.day:03}.jsonl"
        _write_lines(target, rows)

    def _end_day(self) -> None:
        self.day += 1
        set_clock(self.home, self.now())


def _us(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)


def _write_lines(target: Path, rows: list[dict[str, Any]]) -> None:
    temporary = target.with_suffix(".part")
    with temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    temporary.replace(target)
