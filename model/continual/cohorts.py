"""Frozen cohorts: rows that no model has learnt from, to tell whether a later one forgot what an earlier one knew.

A small share of the users, chosen by a hash of their ids, is the panel. None of their events is ever a target of a
training: not of a full retrain, not of an increment. Any slice of time would do for one comparison only, because the
next increment learns from it; then a later model would be asked for what it has by heart, and neither forgetting nor
poison would show. The price is that share of the training's events.

Nothing is stored: the panel follows from the ids, and its rows from what the champion's data versions held. So the rows
stay the same as long as the champion does, and users who are forgotten or opt out are gone from them.

Shapes: N events and U users of a panel's histories, I items, R rows.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from model.metrics.slices import head_threshold
from model.sequences import BEHAVIOUR_NAMES, Histories, Holdout, split_by_time

ALL, OLD_ITEMS, TAIL_ITEMS, OLD_USERS = "all", "old_items", "tail_items", "old_users"


def in_panel(users: Sequence[bytes | str], *, share: float, least: int) -> np.ndarray:
    """Bool [U]: whose hash falls into the first `share` of all; a larger share holds all of a smaller one.

    Nobody while that share of the users is fewer than `least`: so few would tell nothing, and cost their events.
    """
    if not panel_speaks(len(users), share=share, least=least):
        return np.zeros(len(users), dtype=bool)
    stated = (user.encode() if isinstance(user, str) else user for user in users)
    return np.fromiter(map(zlib.crc32, stated), dtype=np.int64, count=len(users)) < share * (1 << 32)


def panel_speaks(users: int, *, share: float, least: int) -> bool:
    """Whether a panel of so many users is large enough to be kept."""
    return users * share >= max(1, least)


@dataclass(frozen=True)
class Cohorts:
    """Rows to rank, and which of them belong to each cohort. `holdout` is as `model.evaluation.evaluate` takes it."""

    holdout: Holdout
    member_N: Mapping[str, np.ndarray]  # bool, for each event of the holdout's histories

    def of_rows(self, event_R: np.ndarray) -> dict[str, np.ndarray]:
        """Bool [R] for each cohort, of the rows that were ranked: `evaluate` leaves some out."""
        return {name: member_N[event_R] for name, member_N in self.member_N.items()}


def freeze(
    histories: Histories, *, trained: Mapping[str, int], old_before_us: int, rows_per_user: int = 50
) -> Cohorts | None:
    """The rows of a panel's `histories`, which are what the champion's data versions held of it; None without any.

    A row is an event that something came before and that is no dislike, of each user the newest `rows_per_user`.
    `trained`: events of each item that the base learnt from, the base being the full retrain that the champion goes
    back to; `old_before_us`: the base's cutoff. Cohorts: all rows; old_items (the base learnt from them), tail_items
    (those of them outside its most frequent fifth), old_users (who had events before the cutoff), and one for each
    behaviour, of items that got it from that user.
    """
    if not len(histories):
        return None
    holdout = split_by_time(histories, cutoff_us=int(histories.time_N.min())).holdout
    trained_I = np.array([trained.get(str(item), 0) for item in histories.items], dtype=np.int64)
    old_U = histories.time_N[histories.offsets_U1[:-1]] < old_before_us
    holdout = replace(holdout, trained_I=trained_I, trained_U=old_U.astype(np.int64))
    holdout = holdout.keep(holdout.visible_R > histories.offsets_U1[holdout.user_R])
    holdout = holdout.keep(_newest(holdout.user_R, rows_per_user))
    if not len(holdout):
        return None
    trained_N = trained_I[histories.item_N]
    known_N = trained_N > 0
    head = head_threshold(np.fromiter(trained.values(), dtype=np.int64, count=len(trained)))
    member_N = {
        ALL: np.ones(len(histories), dtype=bool),
        OLD_ITEMS: known_N,
        TAIL_ITEMS: known_N & (trained_N < head),
        OLD_USERS: old_U[histories.user_N()],
    }
    for code, name in enumerate(BEHAVIOUR_NAMES):
        reached_N = np.zeros(len(histories), dtype=bool)
        reached_N[holdout.event_R] = holdout.reached_RB[:, code]
        if code and reached_N.any():
            member_N[name] = reached_N
    return Cohorts(holdout, member_N)


def _newest(user_R: np.ndarray, most: int) -> np.ndarray:
    """True for the last `most` rows of each user; rows of one user stand together."""
    after_R = np.searchsorted(user_R, user_R, side="right")
    return np.asarray(after_R - np.arange(len(user_R)) <= most)
