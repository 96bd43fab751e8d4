import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.metrics.facts import ItemFacts
from model.metrics.lists import (
    category_sums,
    coverage,
    diversity,
    exposures,
    gini,
    miscalibration,
    novelty,
    tail_share,
)
from relations.errors import DataRejected

LISTS = np.array([[0, 1, 2], [1, 0, -1], [-1, -1, -1], [3, -1, -1]])
GENRES = ItemFacts(categories={"a": ("war", "love"), "b": ("love",), "c": (), "e": ("sea",)})


def test_exposure_by_hand() -> None:
    counts = exposures(LISTS, items=5)
    assert counts.tolist() == [2, 2, 1, 1, 0]
    assert coverage(counts) == 4 / 5
    # ascending 0 1 1 2 2 with 2j − 6 = −4 −2 0 2 4: (0 − 2 + 0 + 4 + 8) / (4 · 6)
    assert gini(counts) == pytest.approx(10 / 24)


def test_gini_from_equal_to_one_for_all() -> None:
    assert gini(np.array([3, 3, 3, 3])) == 0
    assert gini(np.array([0, 7, 0, 0])) == 1
    assert gini(np.array([5])) == gini(np.zeros(4)) == gini(np.zeros(0)) == coverage(np.zeros(0)) == 0


@settings(deadline=None)
@given(counts=st.lists(st.integers(0, 9), min_size=2, max_size=12), data=st.data())
def test_laws_of_gini(counts: list[int], data: st.DataObject) -> None:
    found = gini(np.array(counts))
    assert 0 <= found <= 1 + 1e-12
    assert gini(np.array(data.draw(st.permutations(counts)))) == pytest.approx(found)
    if sum(counts):
        # mean difference of all pairs over twice the mean, with n (n − 1) pairs
        n, pairs = len(counts), sum(abs(a - b) for a in counts for b in counts)
        assert found == pytest.approx(pairs / (2 * (n - 1) * sum(counts)))


def test_novelty_by_hand() -> None:
    """Events 3, 1, 0, 0, 0 of five items: p = 4/9, 2/9, 1/9, … with one added to each."""
    events_V = np.array([3, 1, 0, 0, 0])
    found = novelty(LISTS, events_V=events_V, total=4, items=5)
    a, b, c = math.log2(9 / 4), math.log2(9 / 2), math.log2(9 / 1)
    assert found[[0, 1, 3]].tolist() == pytest.approx([(a + b + c) / 3, (a + b) / 2, c])
    assert math.isnan(found[2])


def test_tail_share_by_hand() -> None:
    found = tail_share(LISTS, head_V=np.array([True, False, False, False, False]))
    assert found[[0, 1, 3]].tolist() == pytest.approx([2 / 3, 1 / 2, 1])
    assert math.isnan(found[2])


def test_diversity_of_vectors_by_hand() -> None:
    """a east, b north, c north-east; d has none, e no length: cosines 0, √½, √½ of the pairs of the first list."""
    vectors = {name: np.array(value) for name, value in {"a": [2, 0], "b": [0, 1], "c": [3, 3], "e": [0, 0]}.items()}
    direction_VD = ItemFacts(vectors=vectors, categories=GENRES.categories).directions(list("abcde"))
    found = diversity(np.array([[0, 1, 2], [0, 3, 4], [1, 1, -1], [0, 1, 3]]), direction_VD=direction_VD)
    assert found[[0, 2, 3]].tolist() == pytest.approx([1 - (0 + 2 * math.sqrt(1 / 2)) / 3, 0, 1], abs=1e-6)
    assert math.isnan(found[1])  # only one item with a direction


def test_diversity_of_category_sets_by_hand() -> None:
    """Cosine of {war, love} and {love}: 1/√2; of either and {sea}: 0. c has no category."""
    direction_VD = GENRES.directions(list("abce"))
    found = diversity(np.array([[0, 1, -1], [0, 1, 3], [0, 2, -1]]), direction_VD=direction_VD)
    assert found[:2].tolist() == pytest.approx([1 - 1 / math.sqrt(2), 1 - (1 / math.sqrt(2)) / 3])
    assert math.isnan(found[2])


@settings(deadline=None)
@given(seed=st.integers(0, 999), items=st.integers(2, 6))
def test_diversity_equals_the_mean_over_pairs(seed: int, items: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = {str(item): rng.normal(size=3) for item in range(items)}
    unit = ItemFacts(vectors=vectors).directions([str(item) for item in range(items)])
    pairs = [1 - float(unit[i] @ unit[j]) for i in range(items) for j in range(items) if i != j]
    order = rng.permutation(items)[None]
    assert diversity(order, direction_VD=unit)[0] == pytest.approx(np.mean(pairs), abs=1e-5)


def test_miscalibration_by_hand() -> None:
    """The history: a, b → war ½, love 3/2: p = ¼, ¾. Lists: a, b again; b alone; e alone; c alone."""
    share_VG = GENRES.category_shares(list("abce"))
    history = category_sums(np.array([[0, 1]] * 4), share_VG)
    assert history[0].tolist() == [3 / 2, 0, 1 / 2]  # love, sea, war
    found = miscalibration(history, category_sums(np.array([[0, 1], [1, -1], [3, -1], [2, -1]]), share_VG))
    love = math.log(0.75 / (0.99 * 1 + 0.01 * 0.75))
    assert found[:3].tolist() == pytest.approx([0, 0.75 * love + 0.25 * math.log(100), math.log(100)])
    assert math.isnan(found[3])
    assert math.isnan(miscalibration(np.zeros((1, 3)), history[:1])[0])


def test_vectors_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(DataRejected, match="'b' has 3 values, of 'a' 2"):
        ItemFacts(vectors={"a": np.ones(2), "b": np.ones(3)}).directions(["a", "b"])
    with pytest.raises(DataRejected, match="'é' holds values that are not finite"):
        ItemFacts(vectors={"é": np.array([1, math.nan])}).directions(["é"])


def test_an_empty_catalogue_has_empty_lists() -> None:
    none = np.zeros((2, 0), dtype=np.int64)
    facts = ItemFacts()
    assert np.isnan(novelty(none, events_V=np.zeros(0), total=0, items=1)).all()
    assert np.isnan(diversity(none, direction_VD=facts.directions([]))).all()
    assert category_sums(none, facts.category_shares([])).shape == (2, 1)
