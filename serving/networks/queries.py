"""What a network is asked and what it answers, several at once."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from serving.networks.histories import Asked

EVENTS = ["items", "behaviours", "ages"]
Mask = npt.NDArray[np.float32]
"""[V + 1], added to all scores: 0, or −∞ for what must not be shown; entry 0 is padding's, −∞."""


class Query(NamedTuple):
    """What is asked of a network: something to ask with, and what this answer may not hold."""

    asked: Asked
    excluded: Sequence[int] = ()
    """Rows, from 0."""
    mask_V1: Mask | None = None
    """In the place of the engine's own; queries of one batch share it."""


class Best(NamedTuple):
    """Rows, from 0, and their scores; best first, ties by row."""

    rows: list[int]
    scores: list[float]
    searched: bool = False
    """Found through the release's index, not by scoring all."""


def mask_of(forbidden_V: npt.NDArray[np.bool_]) -> Mask:
    """The mask that leaves out these rows, and padding."""
    mask_V1 = np.full(len(forbidden_V) + 1, -np.inf, dtype=np.float32)
    mask_V1[1:][~forbidden_V] = 0
    return mask_V1


def side_by_side(queries: Sequence[Query], *, attributes: int, vocabulary: int) -> dict[str, npt.NDArray[Any]]:
    """The graph's inputs of a batch: histories left-padded with 0, and exclusions, by the names of `model.graph`.

    `attributes`: how many the network knows. Exclusions beyond the `vocabulary` are not the network's to leave out.
    """
    batch, length = len(queries), max(len(query.asked.items_L) for query in queries)
    excluded = np.zeros((batch, max(1, *(len(query.excluded) for query in queries))), dtype=np.int64)
    arrays = [np.zeros((batch, length), dtype=np.int64) for _ in EVENTS]
    told = np.zeros((batch, length, attributes), dtype=np.int64)
    for place, (asked, excluded_E, _) in enumerate(queries):
        begin = length - len(asked.items_L)
        for array, codes_L in zip(arrays, (asked.items_L, asked.behaviours_L, asked.ages_L), strict=True):
            array[place, begin:] = codes_L
        if attributes:
            told[place, begin:] = asked.attributes_LA
        if excluded_E:
            excluded[place, : len(excluded_E)] = excluded_E
    # Rows count from 1 in the graph; padding's row is never the answer.
    excluded[np.arange(excluded.shape[1]) < np.array([[len(query.excluded)] for query in queries])] += 1
    excluded[excluded > vocabulary] = 0
    feed = dict(zip(EVENTS, arrays, strict=True)) | {"excluded": excluded}
    return feed | {"attributes": told} if attributes else feed
