"""The best items for stated histories, and a model made worse by a chosen amount."""

import numpy as np
import pytest
import torch

from model.fitted import Fitted
from model.inputs import Inputs
from model.network.ranker import Ranker, RankerConfig
from model.noise import blur_items
from model.objectives.options import ObjectiveOptions
from model.recommending import Past, Question, best_items
from model.sequences import BEHAVIOUR_NAMES
from model.vocabulary import Vocabulary


class Fixed:
    """Scores every history alike: item c by the stated score."""

    def __init__(self, scores: dict[str, float]) -> None:
        self.items = tuple(scores)
        self.max_history = 3
        self.asked: list[Inputs] = []
        self._scores = np.array(list(scores.values()), dtype=np.float32)

    def scores(self, inputs: Inputs) -> np.ndarray:
        self.asked.append(inputs)
        return np.broadcast_to(self._scores, (len(inputs.row_BL), len(self._scores)))


def past(*events: tuple[str, str], time_us: int = 0) -> list[Past]:
    return [Past(item, behaviour, time_us) for item, behaviour in events]


def test_best_first_without_the_excluded_and_no_more_than_there_are() -> None:
    recommender = Fixed({"a": 1.0, "b": 3.0, "c": 2.0, "d": 2.0})
    questions = [
        Question(past(("a", "view")), 0, frozenset({"b"})),
        Question([], 0),
        Question(past(("zz", "click")), 0, frozenset({"a", "b", "c", "zz"})),
    ]
    # Ties go to the earlier row: c before d.
    assert best_items(recommender, questions, n=3) == [["c", "d", "a"], ["b", "c", "d"], ["d"]]


def test_the_newest_known_events_reach_the_network_left_padded() -> None:
    recommender = Fixed({"a": 0.0, "b": 0.0})
    long = past(("a", "view"), ("b", "view"), ("unknown", "view"), ("a", "cart"), ("b", "hum"), ("b", "click"))
    best_items(recommender, [Question(long, 0), Question(past(("b", "view")), 0)], n=1)
    assert recommender.asked[0].row_BL.tolist() == [[2, 1, 2], [0, 0, 2]]


def test_ages_are_whole_seconds_before_each_request() -> None:
    recommender = Fixed({"a": 0.0, "b": 0.0})
    history = [Past("a", "view", 6_000_001), Past("b", "view", 9_500_000)]
    best_items(recommender, [Question(history, 10_000_000), Question(history[:1], 7_000_001)], n=1)
    assert recommender.asked[0].age_BL.tolist() == [[3, 0], [0, 1]]  # 3.999999 s, half a second; 1 s
    best_items(recommender, [Question(history, 7_000_001)], n=1)
    assert recommender.asked[1].age_BL.tolist() == [[1, 0]]  # what is later than now is of now


@pytest.fixture
def fitted() -> Fitted:
    torch.manual_seed(0)
    config = RankerConfig(items=5, behaviours=len(BEHAVIOUR_NAMES) - 1, width=8, blocks=1, heads=2, max_history=4)
    return Fitted(
        ranker=Ranker(config).eval(),
        objective=ObjectiveOptions(),
        objective_state={},
        vocabulary=Vocabulary(tuple("abcde")),
        optimizer_state={},
        losses=(),
        steps=0,
        seconds=0.0,
        tokens=0,
        targets=0,
    )


def test_no_blur_changes_nothing_and_the_original_stays(fitted: Fitted) -> None:
    before = fitted.digest
    assert blur_items(fitted, scale=0.0, seed=1).digest == before
    assert blur_items(fitted, scale=1.0, seed=1).digest != before
    assert fitted.digest == before


def test_the_blur_of_one_seed_grows_in_one_direction(fitted: Fitted) -> None:
    table = fitted.ranker.item_table.weight
    half, whole = (blur_items(fitted, scale=s, seed=1).ranker.item_table.weight - table for s in (0.5, 1.0))
    torch.testing.assert_close(2 * half, whole)
