"""A recommender without the items that must not be recommended: withdrawn ones, which keep their rows."""

from collections.abc import Collection, Sequence

import numpy as np

from model.evaluation import Recommender, features_of
from model.inputs import Inputs
from model.sequences import Holdout


class Offered:
    """`recommender`, by which no withdrawn item is a candidate: its score is −∞. Events of such items stay visible."""

    def __init__(self, recommender: Recommender, *, withdrawn: Collection[str]) -> None:
        self._recommender = recommender
        self.items: Sequence[str] = recommender.items
        self.max_history = recommender.max_history
        self.features = features_of(recommender)
        self._withdrawn_V = np.array([item in withdrawn for item in self.items], dtype=bool)

    def scores(self, inputs: Inputs) -> np.ndarray:
        return np.where(self._withdrawn_V, -np.inf, self._recommender.scores(inputs))


def offered_rows(holdout: Holdout, *, withdrawn: Collection[str]) -> Holdout:
    """Without the rows whose item is withdrawn: nobody may recommend it, however well it would fit."""
    withdrawn_I = np.array([item in withdrawn for item in holdout.histories.items], dtype=bool)
    return holdout.keep(~withdrawn_I[holdout.histories.item_N[holdout.event_R]])
