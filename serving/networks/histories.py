"""What a network is asked with: one user's events and the moment of the request."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from serving.networks.attributes import Told

Codes = Sequence[int] | npt.NDArray[np.int64]


class History(NamedTuple):
    """A user's past column by column, oldest first; L events."""

    items_L: Sequence[str] = ()
    behaviours_L: Sequence[str] = ()
    times_L: Sequence[int] = ()
    """UTC microseconds."""
    contexts_L: Sequence[Told] = ()
    """None at all where nothing was told with any event."""


class Asked(NamedTuple):
    """A history in a network's codes, oldest first; L events."""

    items_L: Codes
    behaviours_L: Codes
    ages_L: Codes
    """Whole seconds before the request; 0 for an event that claims to be later."""
    attributes_LA: list[list[int]]
    """Of user and event; A of them, none where the network knows none."""


def nobody(attributes_A: list[int]) -> Asked:
    """What users' first events were learnt from: one padding position, with what is known of the user."""
    return Asked([0], [0], [0], [attributes_A])
