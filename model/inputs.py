"""What a recommender is asked with: histories side by side.

Shapes: B rows, L positions, A attributes.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Inputs:
    """Left-padded with 0, newest last. Rows of the recommender's vocabulary, from 1; an unknown item has none."""

    row_BL: np.ndarray  # int64
    behaviour_BL: np.ndarray  # int64, position in model.sequences.BEHAVIOUR_NAMES
    age_BL: np.ndarray  # int64, seconds before the answer is asked for; 0 where times are unknown
    attribute_BLA: np.ndarray  # int64, codes of the recommender's feature spec

    @staticmethod
    def nothing(rows: int, length: int, *, attributes: int = 0) -> "Inputs":
        """Padding alone, to be written into."""
        row_BL, behaviour_BL, age_BL = (np.zeros((rows, length), dtype=np.int64) for _ in range(3))
        return Inputs(row_BL, behaviour_BL, age_BL, np.zeros((rows, length, attributes), dtype=np.int64))

    def all(self) -> tuple[np.ndarray, ...]:
        return self.row_BL, self.behaviour_BL, self.age_BL, self.attribute_BLA

    def arrays(self) -> tuple[np.ndarray, ...]:
        """In the order of the network's arguments; attributes are none where the network knows none."""
        return self.all() if self.attribute_BLA.shape[2] else self.all()[:3]
