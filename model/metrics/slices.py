"""Means over the rows of a holdout, and over its parts.

Shapes: R rows, I items.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from model.sequences import BEHAVIOUR_NAMES, Holdout
from relations.cells import shown

HEAD_SHARE = 0.2
"""The share of the items with training events that counts as head, by number of events."""


def means(values: Mapping[str, np.ndarray], chosen_R: np.ndarray) -> dict[str, float]:
    """Mean of each metric over the chosen rows that define it (NaN does not), and how many rows were chosen.

    A metric that none of them defines is absent.
    """
    found = {}
    for name, value_R in values.items():
        defined_R = chosen_R & ~np.isnan(value_R)
        if defined_R.any():
            found[name] = float(value_R[defined_R].mean())
    return found | {"rows": int(chosen_R.sum())}


def head_threshold(trained_I: np.ndarray) -> int:
    """Events that an item needs to be among the best fifth of the trained items; ties at the edge are all head."""
    counts = np.sort(trained_I[trained_I > 0])[::-1]
    return int(counts[max(0, int(np.ceil(HEAD_SHARE * len(counts))) - 1)]) if len(counts) else 1


@dataclass(frozen=True)
class Slices:
    """Means of `values` over parts of a holdout's rows, without parts that are empty, of fewer than `min_users` users,
    or that would give those away."""

    values: Mapping[str, np.ndarray]
    holdout: Holdout
    min_users: int

    def by_item(self) -> dict[str, dict[str, float]]:
        """By the training events of the row's item: the best fifth, the rest, none."""
        holdout = self.holdout
        trained_R = holdout.trained_I[holdout.histories.item_N[holdout.event_R]]
        head_R = trained_R >= head_threshold(holdout.trained_I)
        return self._parts(
            {
                "head_items": head_R & (trained_R > 0),
                "tail_items": ~head_R & (trained_R > 0),
                "new_items": trained_R == 0,
            }
        )

    def by_user(self) -> dict[str, dict[str, float]]:
        """Users with and without events before the cutoff; rows without anything visible."""
        holdout = self.holdout
        old_R = holdout.trained_U[holdout.user_R] > 0
        without_history_R = holdout.visible_R == holdout.histories.offsets_U1[holdout.user_R]
        return self._parts({"old_users": old_R, "new_users": ~old_R}) | self._parts(
            {"without_history": without_history_R}
        )

    def by_behaviour(self) -> dict[str, dict[str, float]]:
        """Rows whose item got the behaviour from that user. A user may do several: none is the rest of the others."""
        found: dict[str, dict[str, float]] = {}
        for code, name in enumerate(BEHAVIOUR_NAMES):
            if code:
                found |= self._parts({name: self.holdout.reached_RB[:, code]})
        return found

    def _parts(self, of_R: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
        """Of the parts of one whole, those that may be shown."""
        users = {name: len(np.unique(self.holdout.user_R[chosen_R])) for name, chosen_R in of_R.items()}
        seen = shown(users, k=self.min_users)
        return {name: means(self.values, chosen) for name, chosen in of_R.items() if users[name] and name in seen}
