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

    def histories(self, keep_N: np.ndarray) -> Histories:
        """The events where `keep_N`, without users and items that are left with none."""
        count_U = np.bincount(self.user_N()[keep_N], minlength=len(self.user_U))
        users = np.array([user.decode() for user in self.user_U[count_U > 0].tolist()], dtype=object)
        code_N = self.item_N[keep_N]
        code_I = np.flatnonzero(np.bincount(code_N, minlength=len(self.items)))
        named = self.items.take(pa.array(code_I))
        order_I = np.asarray(pc.array_sort_indices(named))
        place = np.zeros(len(self.items), dtype=np.int64)
        place[code_I[order_I]] = np.arange(len(code_I))
        items = np.empty(len(code_I), dtype=object)
        items[:] = named.take(pa.array(order_I)).to_pylist()
        return Histories(
            users,
            items,
            place[code_N],
            self.behaviour_N[keep_N].astype(np.int64),
            np.asarray(self.time_N[keep_N]),
            np.concatenate([[0], np.cumsum(count_U[count_U > 0])]).astype(np.int64),
            self.value_N[keep_N].astype(np.float32),
        )
