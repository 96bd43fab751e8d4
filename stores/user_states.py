"""What serving remembers of a user between requests: the newest events, and what the user has asked for.

Of the events it is a cache: the events table is the record, and absorbing its rows again rebuilds them. They are in the
home's SQLite file (`sqlite_state.py`), or, for several servers, in Redis (`redis_state.py`); both give the same newest
events after the same rows in any order. Preferences are a record of their own (`preferences.py`), with a copy in Redis.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from stores.home import Home
from stores.preferences import NO_PREFERENCES, PreferenceFiles, Preferences
from stores.pseudonyms import Keys
from stores.settings import Settings

KEPT = 200
"""Events of a user that are remembered, the newest by (event_time, event_id)."""

Row = tuple[str, str, str, str, int]
"""An event: user, event_id, item_id, behaviour, event_time in UTC microseconds. An event id is of one user."""


class PastEvent(NamedTuple):
    event_id: str
    item_id: str
    behaviour: str
    event_time_us: int
    """UTC microseconds since 1970."""


class Remembered(NamedTuple):
    """Events column by column, oldest first: with an object for each, reading them was a third of an answer's time
    outside the network."""

    item_ids: Sequence[str] = ()
    behaviours: Sequence[str] = ()
    times_us: Sequence[int] = ()
    """UTC microseconds since 1970."""
    preferences: Preferences = NO_PREFERENCES
    error: str | None = None
    """Why the events could not be read; they are empty then. A lost cache costs quality, never the answer."""


class UserState(Protocol):
    """The first four are for serving's event loop, the others for flows: they may wait."""

    @property
    def shared(self) -> bool:
        """Whether several servers may use it at once."""

    @property
    def problem(self) -> str | None:
        """Why it is not reached now; None while it is."""

    async def read(self, user: str, *, formerly: str | None = None) -> Remembered:
        """All that is remembered, in one round trip. Never raises for a store that is down.

        `formerly` is another id of the same user. Both are read at one instant: a user who is renamed meanwhile is
        found under one of them.
        """

    async def known(self, rows: Sequence[Row]) -> set[str]:
        """The event ids among `rows` that were admitted before, as far as is remembered."""

    async def admit(self, rows: Sequence[Row]) -> set[str]:
        """Absorb `rows`; the event ids that are new. Of one event told to several servers, one is told it is new.

        Raises DependencyFailed where the store is down; the rows are then absorbed later, or when the lake's are.
        """

    async def set_preferences(self, user: str, preferences: Preferences) -> Preferences:
        """Replace the user's preferences, for every server's next answer; those that stand now.

        Without a time they are set now, or just after those that they replace; with one they stand if they are later.
        Raises DependencyFailed where nothing could keep them.
        """

    async def aclose(self) -> None: ...

    def absorb(self, rows: Iterable[Row]) -> int:
        """Add events in any order; how many were not held. Idempotent by event id: the first row of an id stays.

        Only the newest `KEPT` events of a user remain: one older than those counts as new and is dropped again.
        """

    def newest(self, user: str, n: int, *, formerly: str | None = None) -> list[PastEvent]:
        """The user's newest `n` events, oldest first, in (event_time, event_id) order; empty for an unknown user."""

    def preferences(self, user: str, *, formerly: str | None = None) -> Preferences: ...

    def forget(self, users: Sequence[str]) -> int:
        """Drop all that is remembered of these users; how many events there were."""

    def rename(self, prefix: str, newest: Callable[[Sequence[str]], Sequence[str]]) -> int:
        """Give each user whose id does not begin with `prefix` the id that `newest` makes of it; how many got one.

        Prefixes end in "_". A look costs next to nothing while there are none.
        """

    def absorbed(self) -> int:
        """The last version of the events table that was absorbed; -1 where that is not known."""

    def mark_absorbed(self, version: int) -> None: ...

    def close(self) -> None: ...


def open_user_state(home: Home, settings: Settings) -> UserState:
    """As `[serving] user_state` says. Raises DependencyFailed for a broken file, UsageError for a bad URL.

    A Redis that is down is no error here: it may come back.
    """
    serving = settings.serving
    if not serving.user_state:
        from stores.sqlite_state import SqliteState

        return SqliteState(home.user_state)
    from stores.redis_state import RedisState

    return RedisState(
        serving.user_state,
        options=serving.user_state_options,
        # Servers with the same keys have the same users, wherever their homes are. The event key never rotates.
        namespace="ratchet-" + hashlib.sha256(b"user state " + Keys.load(home.keys).event).hexdigest()[:12],
        record=PreferenceFiles(home.preferences),
        timeout_seconds=serving.user_state_timeout_ms / 1e3,
        days=serving.user_state_days,
    )
