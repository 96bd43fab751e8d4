"""Saying no in time, and cheaply: under overload a refusal costs a fraction of an answer, and the rest is answered.

How many requests may be under way at once is learnt, as TCP learns its window: each answer in time lets it grow a
little while all of it is used, one that took longer than the budget cuts it. So it follows whatever is the narrowest
(network, interpreter, processor), without a model of any. Source: Jacobson & Karels, Congestion Avoidance and Control,
SIGCOMM 1988, appendix B (additive increase, multiplicative decrease).
"""

import time
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.networks.batching import Batcher
from serving.web.problems import OVERLOADED, problem

_GUARDED = frozenset({"/v1/recommend", "/v1/recommend/batch"})
"""Feedback is never refused for load: a lost outcome biases a trial, and it costs little."""
_FIRST, _LEAST = 32.0, 4.0
_GROWTH, _CUT = 4.0, 0.8


class Headroom:
    """How many requests may be under way. For one event loop."""

    def __init__(self, batcher: Batcher, *, budget_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._batcher = batcher
        self._budget_seconds = budget_seconds
        self._clock = clock
        self._cut_at = -budget_seconds
        self.limit = _FIRST
        self.under_way = 0
        self.refused = 0

    def enter(self) -> bool:
        """Whether one more is let in; whoever is has to `leave`."""
        if self.under_way >= self.limit or self._batcher.wait_seconds > self._budget_seconds:
            self.refused += 1
            return False
        self.under_way += 1
        return True

    def leave(self, *, seconds: float) -> None:
        """One that was let in is done, and took so long."""
        full = self.under_way >= self.limit - 1
        self.under_way -= 1
        if seconds <= self._budget_seconds:
            if full:
                self.limit += _GROWTH / self.limit
        elif (now := self._clock()) - self._cut_at > self._budget_seconds:  # once for all that were late together
            self._cut_at = now
            self.limit = max(self.limit * _CUT, _LEAST)


class Admission:
    """ASGI middleware: refuses what would come too late, with 503 and Retry-After, before anything of it is read."""

    def __init__(self, app: ASGIApp, *, headroom: Callable[[], Headroom]) -> None:
        self._app = app
        self._headroom = headroom

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in _GUARDED:
            await self._app(scope, receive, send)
            return
        headroom = self._headroom()
        if not headroom.enter():
            await _REFUSAL(scope, receive, send)
            return
        started = time.perf_counter()
        try:
            await self._app(scope, receive, send)
        finally:
            headroom.leave(seconds=time.perf_counter() - started)


_REFUSAL = problem(503, "more is asked than can be answered in time; try again later", kind=OVERLOADED, retry_seconds=1)
