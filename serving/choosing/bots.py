"""Bot rules: fixed, blind to the arm, applied before anything is shown."""

from collections import OrderedDict, deque

REQUESTS = 30
WINDOW_US = 60_000_000
RATE_RULE = "rate>30/min"


class RateRule:
    """A user who asks more than 30 times within 60 s of request time is a bot, from that request on while it lasts.

    Counts live in memory, for the users seen last.
    """

    def __init__(self, *, users: int = 100_000) -> None:
        self._users = users
        self._times: OrderedDict[str, deque[int]] = OrderedDict()

    def broken_by(self, user: str, *, now_us: int) -> bool:
        """Count this request and say whether the user is over the rate."""
        times = self._times.get(user)
        if times is None:
            times = self._times[user] = deque(maxlen=REQUESTS + 1)
            if len(self._times) > self._users:
                self._times.popitem(last=False)
        else:
            self._times.move_to_end(user)
        times.append(now_us)
        return len(times) > REQUESTS and all(abs(now_us - time) < WINDOW_US for time in times)
