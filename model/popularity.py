"""The baseline that every model must beat: items by their number of events."""

from dataclasses import dataclass

import numpy as np

from model.inputs import Inputs
from model.sequences import Histories, is_target


@dataclass(frozen=True)
class Popularity:
    """A recommender (see `model.evaluation.Recommender`) that shows everybody the same."""

    items: tuple[str, ...]
    counts: tuple[int, ...]
    max_history: int = 1

    @staticmethod
    def of(histories: Histories) -> "Popularity":
        """Counts events of any behaviour but dislikes."""
        wanted_N = histories.item_N[is_target(histories.behaviour_N)]
        counts_I = np.bincount(wanted_N, minlength=len(histories.items))
        return Popularity(tuple(str(item) for item in histories.items), tuple(int(count) for count in counts_I))

    def scores(self, inputs: Inputs) -> np.ndarray:
        return np.broadcast_to(np.array(self.counts, dtype=np.float32), (len(inputs.row_BL), len(self.counts)))
