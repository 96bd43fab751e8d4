"""The best items for stated histories, and a model made worse by a chosen amount."""

import numpy as np
import pytest
import torch

from model.fitted import Fitted
from model.noise import blur_items
from model.network.ranker import Ranker, RankerConfig
from model.recommending import best_items
from model.sequences import BEHAVIOUR_NAMES
from model.vocabulary import Vocabulary


class Fixed:
    """Scores every history alike: item c by the stated score."""

    def __init__(self, scores: dict[str, float]) -> None:
        self.items = tuple(scores)
        self.max_history = 3
        self.asked: list[np.ndarray] = []
        self._scores = np.array(list(scores.values()), dtype=np.float32)

    def scores(self, row_BL: np.ndarray, behaviour_BL: np.ndarray) -> np.ndarray:
        self.asked.append(row_BL)
        return np.broadcast_to(self._scores, (len(row_BL), len(self._scores)))


def test_best_first_without_the_excluded_and_no_more_than_there_are() -> None:
    recommender = Fixed({"a": 1.0, "b": 3.0, "c": 2.0, "d": 2.0})
    histories = [[("a", "view")], [], [("zz", "click")]]
    excluded = [frozenset({"b"}), frozenset(), frozenset({"a", "b", "c", "zz"})]
    # Ties go to the earlier row: c before d.
    assert best_items(recommender, histories, excluded=excluded, n=3) == [["c", "d", "a"], ["b", "c", "d"], ["d"]]


def test_the_newest_known_events_reach_the_network_left_padded() -> None:
    recommender = Fixed({"a": 0.0, "b": 0.0})
    long = [("a", "view"), ("b", "view"), ("unknown", "view"), ("a", "cart"), ("b", "click")]
    best_items(recommender, [long, [("b", "view")]], excluded=[frozenset(), frozenset()], n=1)
    assert recommender.asked[0].tolist() == [[2, 1, 2], [0, 0, 2]]


@pytest.fixture
def fitted() -> Fitted:
    torch.manual_seed(0)
    config = RankerConfig(items=5, behaviours=len(BEHAVIOUR_NAMES) - 1, width=8, blocks=1, heads=2, max_history=4)
    return Fitted(Ranker(config).eval(), Vocabulary(tuple("abcde")), {}, (), 0, 0.0, 0)


def test_no_blur_changes_nothing_and_the_original_stays(fitted: Fitted) -> None:
    before = fitted.digest
    assert blur_items(fitted, scale=0.0, seed=1).digest == before
    assert blur_items(fitted, scale=1.0, seed=1).digest != before
    assert fitted.digest == before


def test_the_blur_of_one_seed_grows_in_one_direction(fitted: Fitted) -> None:
    table = fitted.ranker.item_table.weight
    half, whole = (blur_items(fitted, scale=s, seed=1).ranker.item_table.weight - table for s in (0.5, 1.0))
    torch.testing.assert_close(2 * half, whole)
