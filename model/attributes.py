"""What is said of users and events, as text by event: raw, so that each model reads it by its own feature spec.

Shapes: N events, S statements about users.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NOTHING = -1


@dataclass(frozen=True)
class Column:
    """One attribute of each event: event n has `values[place_N[n]]`, or nothing where the place is −1."""

    values: np.ndarray  # object, distinct texts in ascending order
    place_N: np.ndarray  # int32

    @staticmethod
    def of(texts: Sequence[str | None]) -> "Column":
        values = np.array(sorted({text for text in texts if text is not None}), dtype=object)
        place = {text: at for at, text in enumerate(values)}
        return Column(values, np.array([NOTHING if t is None else place[t] for t in texts], dtype=np.int32))

    @staticmethod
    def nothing(events: int) -> "Column":
        return Column(np.zeros(0, dtype=object), np.full(events, NOTHING, dtype=np.int32))

    def take(self, which: np.ndarray) -> "Column":
        """By a mask or by positions; `values` stay, though some may be said of no event any more."""
        return Column(self.values, self.place_N[which])

    def __add__(self, later: "Column") -> "Column":
        both, place = np.unique(np.concatenate([self.values, later.values]), return_inverse=True)
        shift = np.append(place, NOTHING)  # the last entry is that of −1
        cut = len(self.values)
        own = np.append(shift[:cut], NOTHING)[self.place_N]
        other = np.append(shift[cut:-1], NOTHING)[later.place_N]
        return Column(both, np.concatenate([own, other]).astype(np.int32))

    def texts(self) -> list[str | None]:
        said = [*self.values, None]
        return [said[place] for place in self.place_N]


def as_of(
    *,
    users: np.ndarray,
    user_N: np.ndarray,
    time_N: np.ndarray,
    told: Sequence[tuple[str, int, str | None]],
) -> Column:
    """For each event the newest thing that was `told` of its user by then: (user, valid_from in UTC µs, text or None).

    A statement holds from its own instant on until the user's next one, so no event sees what is told later. Of
    statements of one user and instant the last one holds; None takes back what was told before. `users[user_N]`,
    `time_N`: of each event. The same as `relations.asof.with_state`.
    """
    place = {user: at for at, user in enumerate(users)}
    known = [(place[user], since, text) for user, since, text in told if user in place]
    if not known:
        return Column.nothing(len(user_N))
    user_S, since_S = (np.array([row[part] for row in known], dtype=np.int64) for part in (0, 1))
    said = Column.of([text for _, _, text in known])
    count = len(known)
    # Statements and events in one order of (user, time), statements first at equal times; each event then stands behind
    # the statement that holds for it.
    event_T = np.arange(count + len(user_N)) >= count
    owner_T = np.concatenate([user_S, user_N])
    order_T = np.lexsort([event_T, np.concatenate([since_S, time_N]), owner_T])
    last_T = np.maximum.accumulate(np.where(event_T[order_T], NOTHING, np.arange(len(order_T))))
    found_T = np.where(last_T == NOTHING, NOTHING, order_T[np.maximum(last_T, 0)])
    mine_T = (found_T != NOTHING) & (owner_T[found_T] == owner_T[order_T])
    place_T = np.where(mine_T, said.place_N[np.where(mine_T, found_T, 0)], NOTHING)
    place_N = np.empty(len(user_N), dtype=np.int32)
    events = event_T[order_T]
    place_N[order_T[events] - count] = place_T[events]
    return Column(said.values, place_N)
