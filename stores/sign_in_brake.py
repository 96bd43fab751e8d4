"""How often one may try to sign in: slows guessing down, and locks nobody out.

In the memory of the process that serves the sign-in page. Each attempt takes a drop from three buckets that fill up
again by themselves, so that no failure closes an account. A stranger can empty the two buckets that everybody shares,
for as long as they keep trying; who has signed in from an address before does not draw from those.
"""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from stores.people import key_of

MOST_KEPT = 10_000


@dataclass(frozen=True)
class Pace:
    """`burst` attempts at once, and one more every `seconds`."""

    burst: int
    seconds: float


PAIR = Pace(5, 12.0)
"""One name from one address."""
NAME = Pace(30, 10.0)
"""One name from all addresses: at most 9,000 guesses a day."""
ALL = Pace(60, 1.0)
"""Everybody: what the machine has time and memory for."""


class SignInBrake:
    """Thread-safe. Times are seconds of a clock that never goes back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()
        self._trusted: OrderedDict[Hashable, None] = OrderedDict()

    def wait(self, name: str, *, address: str, at: float) -> float:
        """Seconds until an attempt is let in; 0: now, and it counts. One that is not let in counts for nothing."""
        pair = (key_of(name[:200]), address)
        buckets: list[tuple[Hashable, Pace]] = [(pair, PAIR)]
        with self._lock:
            if pair not in self._trusted:
                buckets += [(pair[0], NAME), (None, ALL)]
            waits = [self._full_at.get(key, at) - at - pace.seconds * (pace.burst - 1) for key, pace in buckets]
            if (longest := max(waits)) > 0:
                return longest
            for key, pace in buckets:
                self._full_at[key] = max(self._full_at.get(key, at), at) + pace.seconds
                self._full_at.move_to_end(key)
            _trim(self._full_at)
            return 0.0

    def succeeded(self, name: str, *, address: str) -> None:
        """The person is known at this address from now on."""
        pair = (key_of(name[:200]), address)
        with self._lock:
            self._full_at.pop(pair, None)
            self._trusted[pair] = None
            self._trusted.move_to_end(pair)
            _trim(self._trusted)


def _trim(kept: OrderedDict[Hashable, Any]) -> None:
    while len(kept) > MOST_KEPT:
        kept.popitem(last=False)
