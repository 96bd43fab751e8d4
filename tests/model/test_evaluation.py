import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from model.evaluation import RankerRecommender, Relevant, compare, evaluate
from model.fitted import Fitted
from model.inputs import Inputs
from model.metrics.facts import ItemFacts
from model.popularity import Popularity
from model.sequences import Histories, split_by_time

Make = Callable[..., Histories]


@dataclass
class Fixed:
    """Scores its items from best to worst in their own order, and remembers what it was shown."""

    items: tuple[str, ...]
    max_history: int = 3

    def scores(self, inputs: Inputs) -> np.ndarray:
        self.shown = [[self.items[r - 1] if r else "" for r in row] for row in inputs.row_BL]
        self.behaviours = inputs.behaviour_BL.tolist()
        self.ages = inputs.age_BL.tolist()
        return np.broadcast_to(-np.arange(len(self.items), dtype=np.float32), (len(inputs.row_BL), len(self.items)))


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
    # Best two — u: d; v: d, c; x: b, a. Add-one smoothed p of 6 events of 4 items: a 4/10, b 3/10, c 2/10, d 1/10
    a, b, c, d = (math.log2(10 / n) for n in (4, 3, 2, 1))
    # softmax of 0 −1 −2 −3 over the candidates: u has d alone, v has −2 and −3, x all four; u and x are right
    sure = [1, 1 / (1 + math.exp(-1)), 1 / sum(math.exp(-n) for n in range(4))]
    assert found.overall == {
        "ndcg@2": pytest.approx((1 + 1 / math.log2(3) + 1) / 3),
        "hr@2": 1.0,
        "recall@2": 1.0,
        "precision@2": 1 / 2,
        "f1@2": pytest.approx(2 / 3),
        "map@2": pytest.approx((1 + 1 / 2 + 1) / 3),
        "mrr": pytest.approx((1 + 1 / 2 + 1) / 3),
        "auc": pytest.approx((1 / 2 + 0 + 1) / 3),  # u: nothing but d; v: d before c; x: b before all
        "novelty": pytest.approx((d + (d + c) / 2 + (b + a) / 2) / 3),
        "tail_share": pytest.approx((1 + 1 + 1 / 2) / 3),  # a alone is head
        "rows": 3,
        "coverage": 1.0,
        "gini": pytest.approx((1 * -3 + 1 * -1 + 1 * 1 + 2 * 3) / (3 * 5)),  # a, b, c once, d twice
        "ece": pytest.approx((0 + sure[1] + (1 - sure[2])) / 3),  # .73 and .64 are in two bins of fifteen
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


def test_a_set_of_relevant_items_by_hand(story: Histories) -> None:
    """One row a user: v, who has seen a and b, goes on to c alone (a again is no row); u to d, x to b."""
    holdout = split_by_time(story, cutoff_us=10_000_000).holdout
    found = evaluate(Fixed(("b", "a", "d", "c")), holdout, k=2, relevant=Relevant.ALL)
    assert found.rank_R.tolist() == [1, 2, 1]
    assert set(found.by_slice) == {"old_users", "new_users", "without_history"}
    assert found.by_behaviour == {}
    # with what was seen: v's c and a are relevant, at ranks 4 and 2 of b, a, d, c; u's d is 3, x's b is 1
    found = evaluate(Fixed(("b", "a", "d", "c")), holdout, k=2, relevant=Relevant.ALL, exclude_seen=False)
    assert found.rank_R.tolist() == [3, 2, 1]
    ideal = 1 + 1 / math.log2(3)
    assert found.ndcg_R.tolist() == pytest.approx([0, (1 / math.log2(3)) / ideal, 1])
    assert found.overall["recall@2"] == pytest.approx((0 + 1 / 2 + 1) / 3)
    assert found.overall["hr@2"] == pytest.approx((0 + 1 + 1) / 3)
    assert found.overall["precision@2"] == pytest.approx((0 + 1 / 2 + 1 / 2) / 3)
    assert found.overall["map@2"] == pytest.approx((0 + (1 / 2) / 2 + 1) / 3)
    # before the irrelevant: u's d before c; v's a before d, c behind both; x's b before all
    assert found.overall["auc"] == pytest.approx((1 / 3 + (1 / 2 + 0) / 2 + 1) / 3)


def test_facts_of_items_by_hand(story: Histories) -> None:
    """u's list is d, v's d, c, x's b, a. Only a, c and d have categories; x has no history."""
    holdout = split_by_time(story, cutoff_us=10_000_000).holdout
    facts = ItemFacts(categories={"a": ("war", "war"), "c": ("war",), "d": ("sea", "war"), "z": ("sky",)})
    found = evaluate(Fixed(("b", "a", "d", "c")), holdout, k=2, facts=facts)
    assert found.overall["diversity"] == pytest.approx(1 - 1 / math.sqrt(2))  # of v's list alone: {war, sea} and {war}
    # histories: u a, b, c and v a, b are all war. u's list is war ½, v's war ¾
    u, v = (math.log(1 / (0.99 * q + 0.01)) for q in (1 / 2, 3 / 4))
    assert found.overall["miscalibration"] == pytest.approx((u + v) / 2)
    assert "miscalibration" not in found.by_slice["without_history"]
    assert found.by_slice["old_users"]["miscalibration"] == pytest.approx((u + v) / 2)
    vectors = ItemFacts(vectors={"b": np.array([1.0, 0]), "a": np.array([-1.0, 0])})
    assert evaluate(Fixed(("b", "a", "d", "c")), holdout, k=2, facts=vectors).overall["diversity"] == 2  # of x's list


def test_intervals_are_of_every_metric_and_over_users(story: Histories, histories_of: Make) -> None:
    holdout = split_by_time(story, cutoff_us=10_000_000).holdout
    facts = ItemFacts(categories={"a": ("war",), "c": ("war",), "d": ("sea",)})
    found = evaluate(Fixed(("b", "a", "d", "c")), holdout, k=2, facts=facts)
    assert found.intervals.keys() == found.overall.keys() - {"rows"}
    assert all(low <= found.overall[name] <= high for name, (low, high) in found.intervals.items())
    assert found.intervals["mrr"] == (pytest.approx(1 / 2), 1)  # a draw of v alone, or of u and x
    assert evaluate(Fixed(("b", "a")), holdout, draws=0).intervals == {}
    alone = split_by_time(histories_of([("u", "a", "view", 1), ("u", "b", "view", 11)]), cutoff_us=10_000_000).holdout
    assert evaluate(Fixed(("b", "a")), alone).intervals == {}


def test_the_order_of_the_catalogue_changes_nothing(story: Histories) -> None:
    """Shuffled columns with their scores: scores are distinct, as equal ones may be cut off a list in any order."""
    holdout = split_by_time(story, cutoff_us=10_000_000).holdout
    facts = ItemFacts(categories={"a": ("war",), "c": ("war", "sea"), "d": ("sea",)})

    @dataclass
    class Shuffled(Fixed):
        def scores(self, inputs: Inputs) -> np.ndarray:
            known = np.array([{"a": 0.3, "b": 2.0, "c": -1.0, "d": 0.7}[item] for item in self.items])
            return np.broadcast_to(known, (len(inputs.row_BL), len(known)))

    found = evaluate(Shuffled(("a", "b", "c", "d")), holdout, k=2, facts=facts)
    for items in (("d", "b", "a", "c"), ("c", "d", "a", "b")):
        again = evaluate(Shuffled(items), holdout, k=2, facts=facts, batch=2)
        assert again.overall == pytest.approx(found.overall)
        assert again.rank_R.tolist() == found.rank_R.tolist()
        assert again.recommended == found.recommended
        for name, interval in found.intervals.items():
            assert again.intervals[name] == pytest.approx(interval)


def test_scores_that_are_no_numbers_never_help(story: Histories) -> None:
    @dataclass
    class Broken(Fixed):
        def scores(self, inputs: Inputs) -> np.ndarray:
            return np.full((len(inputs.row_BL), len(self.items)), math.nan, dtype=np.float32)

    found = evaluate(Broken(("b", "a", "d", "c")), split_by_time(story, cutoff_us=10_000_000).holdout, k=1)
    assert (found.overall["ndcg@1"], found.overall["coverage"]) == (pytest.approx(1 / 3), 0)  # u has one candidate
    assert found.overall["auc"] == pytest.approx((1 / 2 + 0 + 0) / 3)
    assert found.overall["ece"] == pytest.approx(2 / 3)  # always sure, right for u alone
    assert found.overall.keys().isdisjoint({"novelty", "gini"})  # nothing was recommended


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
    assert model.ages == [[0, 0], [0, 10], [10, 8]]  # v asks at 11, u at 11


def test_a_model_without_known_items_misses_everything(story: Histories) -> None:
    holdout = split_by_time(story, cutoff_us=10_000_000).holdout
    for items in ((), ("z",)):
        found = evaluate(Fixed(items), holdout)
        assert found.rank_R.tolist() == [0, 0, 0]
        assert (found.overall["ndcg@10"], found.overall["auc"]) == (0, 0)
        assert ("ece" in found.overall) == ("gini" in found.overall) == bool(items)  # of nothing shown they say nothing


def test_no_rows_no_metrics(story: Histories) -> None:
    found = evaluate(Fixed(("a",)), split_by_time(story, cutoff_us=99_000_000).holdout)
    assert (len(found), found.overall["ndcg@10"], found.by_slice, found.intervals) == (0, 0.0, {}, {})
    assert found.overall.keys().isdisjoint({"novelty", "tail_share", "gini", "ece"})


def test_popularity_counts_events(story: Histories, histories_of: Make) -> None:
    popular = Popularity.of(split_by_time(story, cutoff_us=10_000_000).train)
    assert dict(zip(popular.items, popular.counts, strict=True)) == {"a": 3, "b": 2, "c": 1}
    assert Popularity.of(histories_of([("u", "a", "dislike", 1), ("u", "a", "cart", 2)])).counts == (1,)
    found = evaluate(popular, split_by_time(story, cutoff_us=10_000_000).holdout)
    assert found.rank_R.tolist() == [0, 1, 2]


@pytest.mark.parametrize("batch", [16, 256])
def test_a_ranker_against_itself_is_no_different(cycle: Histories, fitted: Fitted, batch: int) -> None:
    holdout = split_by_time(cycle, holdout_share=0.3).holdout
    first = evaluate(RankerRecommender.of(fitted), holdout, exclude_seen=False)
    again = evaluate(RankerRecommender.of(fitted), holdout, exclude_seen=False, batch=batch)
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
