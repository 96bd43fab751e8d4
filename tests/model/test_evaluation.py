import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from model.evaluation import RankerRecommender, compare, evaluate
from model.fit import Fitted
from model.popularity import Popularity
from model.sequences import Histories, split_by_time

Make = Callable[..., Histories]


@dataclass
class Fixed:
    """Scores its items from best to worst in their own order, and remembers what it was shown."""

    items: tuple[str, ...]
    max_history: int = 3

    def scores(self, row_BL: np.ndarray, behaviour_BL: np.ndarray) -> np.ndarray:
        self.shown = [[self.items[r - 1] if r else "" for r in row] for row in row_BL]
        self.behaviours = behaviour_BL.tolist()
        return np.broadcast_to(-np.arange(len(self.items), dtype=np.float32), (len(row_BL), len(self.items)))


@pytest.fixture
def story(histories_of: Make) -> Histories:
    """Before second 10: six events, item a in three of them, b in two, c in one."""
    return histories_of(
        [
            ("u", "a", "view", 1),
            ("u", "b", "view", 2),
            ("u", "c", "view", 3),
            ("v", "a", "view", 1),
            ("v", "b", "view", 2),
            ("w", "a", "view", 4),
            ("u", "d", "view", 11),  # new item
            ("u", "d", "purchase", 12),
            ("v", "c", "view", 11),
            ("v", "a", "view", 12),  # seen before
            ("x", "b", "view", 11),  # a user without history
        ]
    )


def test_ranks_by_hand(story: Histories) -> None:
    holdout = split_by_time(story, cutoff_us=10_000_000).holdout
    found = evaluate(Fixed(("b", "a", "d", "c")), holdout, k=2)
    # u sees a, b, c → only d is left: 1. v has seen a, b → d, c: 2. x has seen nothing → b: 1
    assert found.rank_R.tolist() == [1, 2, 1]
    assert found.overall == {
        "ndcg@2": pytest.approx((1 + 1 / math.log2(3) + 1) / 3),
        "hr@2": 1.0,
        "mrr": pytest.approx((1 + 1 / 2 + 1) / 3),
        "rows": 3,
        "coverage": 1.0,  # u: d; v: d, c; x: b, a
    }
    assert found.recommended == {"b": 1, "a": 1, "d": 2, "c": 1}
    assert {name: (value["mrr"], value["rows"]) for name, value in found.by_slice.items()} == {
        "tail_items": (pytest.approx((1 / 2 + 1) / 2), 2),  # c and b; a alone is the best fifth of three
        "new_items": (1.0, 1),
        "old_users": (pytest.approx((1 + 1 / 2) / 2), 2),
        "new_users": (1.0, 1),
        "without_history": (1.0, 1),
    }
    assert {name: value["rows"] for name, value in found.by_behaviour.items()} == {"view": 3, "purchase": 1}


def test_parts_of_few_users_are_left_out(story: Histories) -> None:
    holdout = split_by_time(story, cutoff_us=10_000_000).holdout
    found = evaluate(Fixed(("b", "a", "d", "c")), holdout, k=2, min_users=2)
    # Tail items are of v and x, new ones of u alone, so both are hidden; as are old users (u, v) with new ones (x).
    assert found.by_slice == {}
    assert {name: value["rows"] for name, value in found.by_behaviour.items()} == {"view": 3}  # a purchase of u alone
    assert found.overall["rows"] == 3


def test_seen_items_are_candidates_when_asked_for(story: Histories) -> None:
    holdout = split_by_time(story, cutoff_us=10_000_000).holdout
    found = evaluate(Fixed(("b", "a", "d", "c")), holdout, exclude_seen=False)
    assert found.rank_R.tolist() == [3, 4, 2, 1]  # with v's second look at a


def test_unknown_targets_are_misses_on_the_same_rows(story: Histories) -> None:
    holdout = split_by_time(story, cutoff_us=10_000_000).holdout
    knows, lacks = evaluate(Fixed(("b", "a", "d", "c")), holdout), evaluate(Fixed(("b", "a", "c")), holdout)
    assert lacks.rank_R.tolist() == [0, 1, 1]
    found = compare(lacks, knows)
    assert found.difference == pytest.approx((0 - 1 + 1 - 1 / math.log2(3) + 0) / 3)


def test_unknown_events_leave_no_gap_in_the_history(story: Histories) -> None:
    model = Fixed(("a", "c", "d"), max_history=2)
    evaluate(model, split_by_time(story, cutoff_us=10_000_000).holdout)
    # v saw a and the unknown b; u saw a, b, c; x nothing. Rows of short history come first
    assert model.shown == [["", ""], ["", "a"], ["a", "c"]]
    assert model.behaviours == [[0, 0], [0, 1], [1, 1]]


def test_a_model_without_known_items_misses_everything(story: Histories) -> None:
    holdout = split_by_time(story, cutoff_us=10_000_000).holdout
    for items in ((), ("z",)):
        found = evaluate(Fixed(items), holdout)
        assert found.rank_R.tolist() == [0, 0, 0]
        assert found.overall["ndcg@10"] == 0


def test_no_rows_no_metrics(story: Histories) -> None:
    found = evaluate(Fixed(("a",)), split_by_time(story, cutoff_us=99_000_000).holdout)
    assert (len(found), found.overall["ndcg@10"], found.by_slice) == (0, 0.0, {})


def test_popularity_counts_events(story: Histories, histories_of: Make) -> None:
    popular = Popularity.of(split_by_time(story, cutoff_us=10_000_000).train)
    assert dict(zip(popular.items, popular.counts, strict=True)) == {"a": 3, "b": 2, "c": 1}
    assert Popularity.of(histories_of([("u", "a", "dislike", 1), ("u", "a", "cart", 2)])).counts == (1,)
    found = evaluate(popular, split_by_time(story, cutoff_us=10_000_000).holdout)
    assert found.rank_R.tolist() == [0, 1, 2]


@pytest.mark.parametrize("batch", [16, 256])
def test_a_ranker_against_itself_is_no_different(cycle: Histories, fitted: Fitted, batch: int) -> None:
    holdout = split_by_time(cycle, holdout_share=0.3).holdout
    first = evaluate(RankerRecommender(fitted), holdout, exclude_seen=False)
    again = evaluate(RankerRecommender(fitted), holdout, exclude_seen=False, batch=batch)
    assert first.rank_R.tolist() == again.rank_R.tolist()
    found = compare(again, first)
    assert (found.difference, found.low, found.high) == (0, 0, 0)
    assert first.overall["hr@10"] > 0.9


def test_different_rows_are_not_compared(story: Histories) -> None:
    holdout = split_by_time(story, cutoff_us=10_000_000).holdout
    model = Fixed(("a", "b"))
    with pytest.raises(ValueError, match="differ in rows or k"):
        compare(evaluate(model, holdout), evaluate(model, holdout, exclude_seen=False))
    with pytest.raises(ValueError, match="differ in rows or k"):
        compare(evaluate(model, holdout), evaluate(model, holdout, k=5))
