# ruff: noqa: N802 -- shape suffixes are part of the names
"""All sequences of a store as flat arrays, and what of them a training takes.

Shapes: N events, U users, U1 users + 1. Users ascend by id; a user's events ascend by (time, event id).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.sequences import Histories


@dataclass(frozen=True)
class Sequences:
    """User u owns [offsets_U1[u], offsets_U1[u + 1]). The arrays may be mapped files: read-only.

    `absorbed`: the newest version of the events table whose events are here, -1 for none. `items` is in the order in
    which the store met them, and may name items that no event is left of.
    """

    absorbed: int
    user_U: np.ndarray  # UTF-8 bytes
    items: pa.Array
    offsets_U1: np.ndarray
    item_N: np.ndarray  # int32, position in `items`
    behaviour_N: np.ndarray  # int8, position in model.sequences.BEHAVIOUR_NAMES
    time_N: np.ndarray  # int64, microseconds since the epoch, UTC
    value_N: np.ndarray  # float64, NaN: none
    arrived_N: np.ndarray  # int32, version of the events table at which the event was there

    def __len__(self) -> int:
        return len(self.item_N)

    def user_N(self) -> np.ndarray:
        """The user's position in `user_U`, for each event."""
        return np.repeat(np.arange(len(self.user_U)), np.diff(self.offsets_U1))

    def among(self, users: Iterable[str]) -> np.ndarray:
        """True for each user of `user_U` that is one of `users`."""
        return np.isin(self.user_U, np.array([user.encode() for user in users], dtype="S"))

    def of_users(self, which_U: np.ndarray) -> np.ndarray:
        """True for each event of a user where `which_U`."""
        return np.repeat(which_U, np.diff(self.offsets_U1))

    def count_U(self, which_N: np.ndarray) -> np.ndarray:
        """How many events where `which_N` each user has."""
        return np.diff(np.concatenate([[0], np.cumsum(which_N)])[self.offsets_U1])

    def met(self, which_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The items of the events where `which_N`, ascending, and the place among them of each entry of `items`.

        An entry that is no such event's has place 0.
        """
        code_I = np.flatnonzero(np.bincount(self.item_N[which_N], minlength=len(self.items)))
        named = self.items.take(pa.array(code_I))
        order_I = np.asarray(pc.array_sort_indices(named))
        place = np.zeros(len(self.items), dtype=np.int64)
        place[code_I[order_I]] = np.arange(len(code_I))
        items = np.empty(len(code_I), dtype=object)
        items[:] = named.take(pa.array(order_I)).to_pylist()
        return items, place

    def histories(self, keep_N: np.ndarray, *, met: tuple[np.ndarray, np.ndarray] | None = None) -> Histories:
        """The events where `keep_N`, without users that are left with none; their items, or those that were `met`."""
        items, place = self.met(keep_N) if met is None else met
        at = np.flatnonzero(keep_N)
        end_U1 = np.searchsorted(at, self.offsets_U1)
        count_U = np.diff(end_U1)
        users = np.array([user.decode() for user in self.user_U[count_U > 0].tolist()], dtype=object)
        return Histories(
            users,
            items,
            place[self.item_N[at]],
            self.behaviour_N[at].astype(np.int64),
            np.asarray(self.time_N[at]),
            np.concatenate([[0], np.cumsum(count_U[count_U > 0])]).astype(np.int64),
            self.value_N[at].astype(np.float32),
        )
