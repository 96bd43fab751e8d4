# ruff: noqa: N802 -- shape suffixes are part of the names
"""Histories as flat arrays, and the split by time.

Shapes: N events, U users, R rows of a holdout, I items, B behaviours (code 0 is padding).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.attributes import Column
from relations.errors import DataRejected
from relations.schemas import ITEM_BEHAVIOURS

BEHAVIOUR_NAMES: tuple[str, ...] = ("<pad>", *ITEM_BEHAVIOURS)
"""Behaviour code → name. Codes are positions in a trained table: append, never reorder."""

NEVER_A_TARGET = ("dislike",)
"""Behaviours that are context but not something to recommend towards."""

_TARGET_B = np.array([name not in ("<pad>", *NEVER_A_TARGET) for name in BEHAVIOUR_NAMES])
_EMPTY = np.zeros(0, dtype=np.int64)
_UNSAID = np.zeros(0, dtype=np.float32)
"""Stands for values that nobody stated, and weights of 1."""


@dataclass(frozen=True)
class Histories:
    """Events of all users in one flat run: user u owns [offsets_U1[u], offsets_U1[u + 1]), oldest first.

    `users` and `items` are object arrays of ids in ascending code-point order; `item_N` points into `items`. Codes
    belong to this object alone: a model's rows come from its vocabulary.
    """

    users: np.ndarray
    items: np.ndarray
    item_N: np.ndarray  # int64
    behaviour_N: np.ndarray  # int64, index into BEHAVIOUR_NAMES
    time_N: np.ndarray  # int64, microseconds since the epoch, UTC
    offsets_U1: np.ndarray  # int64
    value_N: np.ndarray = field(default_factory=lambda: _UNSAID)  # float32: a rating, seconds of dwell; NaN: none
    weight_N: np.ndarray = field(default_factory=lambda: _UNSAID)  # float32, what the event counts as a target
    attributes: Mapping[str, Column] = field(default_factory=dict)  # of user and context, as of the event

    def __post_init__(self) -> None:
        for name, usual in (("value_N", np.nan), ("weight_N", 1.0)):
            if getattr(self, name) is _UNSAID:
                object.__setattr__(self, name, np.full(len(self.item_N), usual, dtype=np.float32))

    def __len__(self) -> int:
        return len(self.item_N)

    @staticmethod
    def from_table(events: pa.Table) -> "Histories":
        """From columns user, item_id, behaviour, event_time and, where present, event_id and value.

        Sorted by (user, event_time, event_id); without an event_id equal times keep the order of the rows. Raises
        DataRejected for a behaviour that `relations.schemas` does not know.
        """
        if not len(events):
            none = np.array([], dtype=object)
            return Histories(none, none, _EMPTY, _EMPTY, _EMPTY, np.zeros(1, dtype=np.int64))
        users, user_N = _codes(events["user"])
        items, item_N = _codes(events["item_id"])
        time_N = np.asarray(events["event_time"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()))
        names, name_N = _codes(events["behaviour"])
        unknown = sorted(set(names) - set(ITEM_BEHAVIOURS))
        if unknown:
            raise DataRejected(f"events: behaviour {unknown[0]!r} is not one of {', '.join(ITEM_BEHAVIOURS)}")
        behaviour_N = np.array([BEHAVIOUR_NAMES.index(name) for name in names], dtype=np.int64)[name_N]
        keys = [time_N, user_N]
        if "event_id" in events.column_names:
            keys.insert(0, _codes(events["event_id"])[1])
        order_N = np.lexsort(keys)  # stable, the last key first
        value_N = _values(events) if "value" in events.column_names else np.full(len(events), np.nan, dtype=np.float32)
        return _assemble(
            users,
            items,
            user_N[order_N],
            item_N[order_N],
            behaviour_N[order_N],
            time_N[order_N],
            value_N[order_N],
            np.ones(len(events), dtype=np.float32),
        )

    def user_N(self) -> np.ndarray:
        """The user's position in `users`, for each event."""
        return np.repeat(np.arange(len(self.users)), np.diff(self.offsets_U1))

    def keep(self, keep_N: np.ndarray) -> "Histories":
        """The events where `keep_N`, without users and items that are left with none."""
        users_U, user_N = np.unique(self.user_N()[keep_N], return_inverse=True)
        items_I, item_N = np.unique(self.item_N[keep_N], return_inverse=True)
        return _assemble(
            self.users[users_U],
            self.items[items_I],
            user_N,
            item_N,
            self.behaviour_N[keep_N],
            self.time_N[keep_N],
            self.value_N[keep_N],
            self.weight_N[keep_N],
            {name: column.take(keep_N) for name, column in self.attributes.items()},
        )

    def before(self, cutoff_us: int) -> "Histories":
        return self.keep(self.time_N < cutoff_us)

    def since(self, cutoff_us: int) -> "Histories":
        return self.keep(self.time_N >= cutoff_us)

    def sequences(self) -> list[tuple[list[str], list[str]]]:
        """Item ids and behaviour names of each user, for parity checks and displays."""
        items_N, spans = self.items[self.item_N], zip(self.offsets_U1[:-1], self.offsets_U1[1:], strict=True)
        return [(list(items_N[a:b]), [BEHAVIOUR_NAMES[code] for code in self.behaviour_N[a:b]]) for a, b in spans]


def merge(earlier: Histories, later: Histories) -> tuple[Histories, np.ndarray]:
    """Both as one, and for each event whether it came from `later`.

    Sorted by (user, time); at equal times `earlier` goes first. Late arrivals therefore stand where they belong in
    time, not at the end.
    """
    users, user_N = np.unique(np.concatenate([earlier.users, later.users]), return_inverse=True)
    items, item_N = np.unique(np.concatenate([earlier.items, later.items]), return_inverse=True)
    user_N = np.concatenate(
        [user_N[: len(earlier.users)][earlier.user_N()], user_N[len(earlier.users) :][later.user_N()]]
    )
    item_N = np.concatenate([item_N[: len(earlier.items)][earlier.item_N], item_N[len(earlier.items) :][later.item_N]])
    behaviour_N = np.concatenate([earlier.behaviour_N, later.behaviour_N])
    time_N = np.concatenate([earlier.time_N, later.time_N])
    late_N = np.arange(len(time_N)) >= len(earlier)
    order_N = np.lexsort([late_N, time_N, user_N])
    value_N = np.concatenate([earlier.value_N, later.value_N])
    weight_N = np.concatenate([earlier.weight_N, later.weight_N])
    attributes = {
        name: (_said(earlier, name) + _said(later, name)).take(order_N)
        for name in sorted({*earlier.attributes, *later.attributes})
    }
    whole = _assemble(
        users,
        items,
        user_N[order_N],
        item_N[order_N],
        behaviour_N[order_N],
        time_N[order_N],
        value_N[order_N],
        weight_N[order_N],
        attributes,
    )
    return whole, late_N[order_N]


def _said(histories: Histories, name: str) -> Column:
    return histories.attributes.get(name) or Column.nothing(len(histories))


def is_target(behaviour_N: np.ndarray) -> np.ndarray:
    """True where a behaviour counts towards its item."""
    return np.asarray(_TARGET_B[behaviour_N])


@dataclass(frozen=True)
class Holdout:
    """Rows to rank: one event at or after the cutoff each, with what was visible before it.

    A row sees its user's events strictly earlier than the event's own time, later holdout events included, as
    serving would. Rows: the first event of a run on one item (a view, click and cart of the same item in succession
    are one row), never a dislike. `exclude_seen` in `evaluate` drops rows whose item was visible already.
    """

    histories: Histories  # all events, both sides of the cutoff
    cutoff_us: int
    user_R: np.ndarray
    visible_R: np.ndarray  # the visible events are [offsets_U1[user_R], visible_R)
    event_R: np.ndarray  # the target event, a position in the flat arrays
    reached_RB: np.ndarray  # bool: which behaviours this user showed on this item at or after the cutoff
    trained_I: np.ndarray  # events before the cutoff, for each item of `histories.items`
    trained_U: np.ndarray  # events before the cutoff, for each user

    def __len__(self) -> int:
        return len(self.event_R)

    def keep(self, keep_R: np.ndarray) -> "Holdout":
        return Holdout(
            self.histories,
            self.cutoff_us,
            self.user_R[keep_R],
            self.visible_R[keep_R],
            self.event_R[keep_R],
            self.reached_RB[keep_R],
            self.trained_I,
            self.trained_U,
        )

    def sample_users(self, most: int, *, seed: int) -> "Holdout":
        """All rows of at most `most` users, drawn without replacement."""
        users_U = np.unique(self.user_R)
        if len(users_U) <= most:
            return self
        drawn = np.random.default_rng(seed).choice(users_U, size=most, replace=False)
        return self.keep(np.isin(self.user_R, drawn))


@dataclass(frozen=True)
class Split:
    train: Histories
    """Events strictly before the cutoff."""
    holdout: Holdout
    cutoff_us: int


def split_by_time(histories: Histories, *, holdout_share: float | None = None, cutoff_us: int | None = None) -> Split:
    """Cut at `cutoff_us`, or where the newest `holdout_share` of the events begins.

    Events at one instant stay together, on the side of the holdout; so the share is reached or slightly exceeded.
    Raises ValueError unless exactly one of the two is given, DataRejected without events.
    """
    if (holdout_share is None) == (cutoff_us is None):
        raise ValueError("give either holdout_share or cutoff_us")
    if not len(histories):
        raise DataRejected("events: none to split into training and holdout; ingest some first")
    if cutoff_us is None:
        assert holdout_share is not None
        newest = max(1, round(len(histories) * holdout_share))
        cutoff_us = int(np.sort(histories.time_N)[-newest])
    return Split(histories.before(cutoff_us), hold_out(histories, cutoff_us), cutoff_us)


def hold_out(histories: Histories, cutoff_us: int) -> Holdout:
    """The rows at or after the cutoff; none without such events."""
    user_N, time_N, item_N = histories.user_N(), histories.time_N, histories.item_N
    first_N = np.ones(len(histories), dtype=bool)
    first_N[1:] = (user_N[1:] != user_N[:-1]) | (item_N[1:] != item_N[:-1])
    held_N = time_N >= cutoff_us
    target_N = held_N & is_target(histories.behaviour_N)
    # a run that began before the cutoff, or with a dislike, has no row: its item was on the user's screen already
    event_R = np.flatnonzero(target_N & first_N)
    instant_N = np.ones(len(histories), dtype=bool)  # the first event of a user at one time
    instant_N[1:] = (user_N[1:] != user_N[:-1]) | (time_N[1:] != time_N[:-1])
    start_N = np.maximum.accumulate(np.where(instant_N, np.arange(len(histories)), 0))
    pair_N = user_N * max(1, len(histories.items)) + item_N
    pairs_P, place_N = np.unique(pair_N[held_N], return_inverse=True)
    reached_PB = np.zeros((len(pairs_P), len(BEHAVIOUR_NAMES)), dtype=bool)
    reached_PB[place_N, histories.behaviour_N[held_N]] = True
    return Holdout(
        histories=histories,
        cutoff_us=cutoff_us,
        user_R=user_N[event_R],
        visible_R=start_N[event_R],
        event_R=event_R,
        reached_RB=reached_PB[np.searchsorted(pairs_P, pair_N[event_R])],
        trained_I=np.bincount(item_N[~held_N], minlength=len(histories.items)),
        trained_U=np.bincount(user_N[~held_N], minlength=len(histories.users)),
    )


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values in ascending order (object array), and each row's position among them (int64)."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    order = np.asarray(pc.array_sort_indices(encoded.dictionary))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    values = np.empty(len(order), dtype=object)
    values[:] = encoded.dictionary.take(pa.array(order)).to_pylist()
    return values, place[np.asarray(encoded.indices)]


def _values(events: pa.Table) -> np.ndarray:
    return np.asarray(events["value"].cast(pa.float32()).fill_null(float("nan")))


def _assemble(
    users: np.ndarray,
    items: np.ndarray,
    user_N: np.ndarray,
    item_N: np.ndarray,
    behaviour_N: np.ndarray,
    time_N: np.ndarray,
    value_N: np.ndarray,
    weight_N: np.ndarray,
    attributes: Mapping[str, Column] | None = None,
) -> Histories:
    counts_U = np.bincount(user_N, minlength=len(users))
    offsets_U1 = np.concatenate([[0], np.cumsum(counts_U)]).astype(np.int64)
    return Histories(
        users, items, item_N.astype(np.int64), behaviour_N, time_N, offsets_U1, value_N, weight_N, attributes or {}
    )
