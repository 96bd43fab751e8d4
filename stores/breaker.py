"""A circuit breaker: a store that is down or stalled costs one caller one timeout, and the others nothing."""

import time
from collections.abc import Callable


class Breaker:
    """Closed: all may ask. A failure opens it for `seconds`: nobody asks. Then one caller tries, and so on."""

    def __init__(self, *, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._again: float | None = None

    @property
    def is_open(self) -> bool:
        return self._again is not None

    def allows(self) -> bool:
        """Whether to ask now. Where the answer is yes while it is open, it is no to everybody else for a while."""
        if self._again is None:
            return True
        now = self._clock()
        if now < self._again:
            return False
        self._again = now + self._seconds
        return True

    def failed(self) -> None:
        self._again = self._clock() + self._seconds

    def succeeded(self) -> None:
        self._again = None
