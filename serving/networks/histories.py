"""What a network is asked with: one user's events and the moment of the request."""

from typing import NamedTuple

from serving.networks.attributes import NOTHING_TOLD, Told


class Past(NamedTuple):
    """One event of a history."""

    item_id: str
    behaviour: str
    time_us: int
    """UTC microseconds."""
    context: Told = NOTHING_TOLD


class Asked(NamedTuple):
    """A history in a network's codes, oldest first; L events."""

    items_L: list[int]
    behaviours_L: list[int]
    ages_L: list[int]
    """Whole seconds before the request; 0 for an event that claims to be later."""
    attributes_LA: list[list[int]]
    """Of user and event; A of them, none where the network knows none."""


def nobody(attributes_A: list[int]) -> Asked:
    """What users' first events were learnt from: one padding position, with what is known of the user."""
    return Asked([0], [0], [0], [attributes_A])
