"""What a recommender is asked with: histories side by side.

Shapes: B rows, L positions.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Inputs:
    """Left-padded with 0, newest last. Rows of the recommender's vocabulary, from 1; an unknown item has none."""

    row_BL: np.ndarray  # int64
    behaviour_BL: np.ndarray  # int64, position in model.sequences.BEHAVIOUR_NAMES
    age_BL: np.ndarray  # int64, seconds before the answer is asked for; 0 where times are unknown

    @staticmethod
    def nothing(rows: int, length: int) -> "Inputs":
        """Padding alone, to be written into."""
        return Inputs(*(np.zeros((rows, length), dtype=np.int64) for _ in range(3)))

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """In the order of the network's arguments."""
        return self.row_BL, self.behaviour_BL, self.age_BL
