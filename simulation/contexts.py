"""Requests as a recommender meets them, kept so that any model can be asked afterwards what it would have shown."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple


class Step(NamedTuple):
    """One event of a user's history."""

    item_id: str
    behaviour: str
    time: datetime


@dataclass(frozen=True)
class Context:
    """One request. A recommender may look at user_id, time, history and exclude; the rest is the truth's."""

    user_id: str
    """As the client sends it, not a pseudonym."""
    time: datetime
    history: tuple[Step, ...]
    """What serving can know of the user, oldest first, at most the newest `HISTORY`: organic events of earlier days and
    feedback up to this request."""
    user: int
    day: int
    last_subtopic: int
    """Sub-topic of the newest item in the history; NOTHING without history."""
    context_weight: float
    """How much that item still matters: 1 after a click in this session, else `Parameters.resume`."""
    first_request: datetime
    """The user's first request since the sample began."""
    exclude: tuple[str, ...] = ()
    """Items that the request asks to leave out."""

    def matured(self, watermark: datetime, window: timedelta) -> bool:
        """Whether the user's attribution window is over: the gate counts only such users."""
        return self.first_request + window <= watermark


HISTORY = 200


class Reservoir:
    """A uniform sample of at most `limit` of all that is offered (Vitter's algorithm R)."""

    def __init__(self, limit: int, seed: int) -> None:
        self.limit = limit
        self.offered = 0
        self.kept: list[Context] = []
        self._random = random.Random(seed)

    def offer(self, make: Callable[[], Context]) -> None:
        """`make` is called only for what is kept."""
        self.offered += 1
        if len(self.kept) < self.limit:
            self.kept.append(make())
            return
        place = self._random.randrange(self.offered)
        if place < self.limit:
            self.kept[place] = make()
