"""Which items may be shown: by catalogue, blocklist and filters, held to a plain reading of each item."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.choosing.filters import EVERYTHING, Wanted, check
from serving.choosing.shelves import Offer, Shelf
from serving.web.messages import Filters
from serving.web.problems import Refused
from stores.catalogue import Catalogue

SHOP: dict[str, Any] = {
    "ball": (True, 5.0, ["toys", "sport"]),
    "bat": (True, 20.0, ["sport"]),
    "doll": (False, 9.99, ["toys"]),
    "gun": (True, 9.99, ["toys", "18+"]),
    "stone": (True, None, []),
}
ITEMS = ("stone", "doll", "new", "ball", "bat", "gun")
PLACES = {item: place for place, item in enumerate(ITEMS)}
NAMES = ["toys", "sport", "18+"]


def shown(shelf: Shelf, **wanted: Any) -> list[str]:
    return [item for item, allowed in zip(ITEMS, shelf.allowed(Wanted(**wanted)).allowed_N, strict=True) if allowed]


@pytest.fixture
def shelf() -> Shelf:
    return Shelf(PLACES, Offer(Catalogue.of(SHOP), frozenset({"bat", "elsewhere"})))


def test_unavailable_and_blocked_items_are_off_every_shelf(shelf: Shelf) -> None:
    assert shown(shelf) == ["stone", "new", "ball", "gun"]
    assert shelf.standing.mask.tolist() == [-math.inf, 0, -math.inf, 0, 0, -math.inf, 0]
    assert shelf.standing.mask.dtype == np.float32


def test_each_filter(shelf: Shelf) -> None:
    assert shown(shelf, categories=frozenset({"toys"})) == ["ball", "gun"]
    assert shown(shelf, categories=frozenset({"sport", "18+"})) == ["ball", "gun"]
    assert shown(shelf, without=frozenset({"18+"})) == ["stone", "new", "ball"]  # without a category: none of these
    assert shown(shelf, items=frozenset({"ball", "bat", "doll", "nowhere"})) == ["ball"]
    assert shown(shelf, min_price=5.0, max_price=9.99) == ["ball", "gun"]  # ends included; no price: not within
    assert shown(shelf, min_price=9.99) == ["gun"]
    assert shown(shelf, categories=frozenset({"toys"}), max_price=5.0) == ["ball"]
    assert shown(shelf, categories=frozenset({"toys"}), without=frozenset({"toys"})) == []


def test_the_catalogue_knows_better_than_the_release() -> None:
    # doll went after the release, ball came back; of "new" only the release knows, and it withdrew stone and new.
    rows, withdrawn = PLACES, np.array([item in ("ball", "new") for item in ITEMS])
    shelf = Shelf(rows, Offer(Catalogue.of(SHOP)), withdrawn_N=withdrawn)
    assert shown(shelf) == ["stone", "ball", "bat", "gun"]
    assert shown(Shelf(rows, Offer(), withdrawn_N=withdrawn)) == ["stone", "doll", "bat", "gun"]


def test_filters_that_come_again_are_one_mask_and_memory_is_bounded() -> None:
    shelf = Shelf(PLACES, Offer(Catalogue.of(SHOP)), megabytes=2 * 9 * len(ITEMS) / 1e6)  # two filters
    toys = shelf.allowed(Wanted(categories=frozenset({"toys"}))).mask
    assert shelf.allowed(Wanted(categories=frozenset({"toys"}))).mask is toys
    for price in (1.0, 2.0):
        shelf.allowed(Wanted(max_price=price))
    assert shelf.allowed(Wanted(categories=frozenset({"toys"}))).mask is not toys
    assert shelf.allowed(EVERYTHING) is shelf.standing


def test_popularity_keeps_its_order_among_what_is_allowed() -> None:
    order = np.array([5, 0, 3, 1, 2, 4], dtype=np.int32)  # gun, stone, ball, doll, new, bat
    shelf = Shelf(PLACES, Offer(Catalogue.of(SHOP)), order_N=order)
    assert shelf.standing.by_popularity.tolist() == [5, 0, 3, 2, 4]  # doll is not available
    assert shelf.allowed(Wanted(without=frozenset({"18+"}))).by_popularity.tolist() == [0, 3, 2, 4]
    assert Shelf(PLACES, Offer()).standing.by_popularity.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_new_offer_of_the_same_items_looks_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = PLACES
    former = Shelf(rows, Offer(Catalogue.of(SHOP)))
    changed = {**SHOP, "ball": (False, 1.0, ["sport"])}
    monkeypatch.setattr(Catalogue, "places", None)
    after = Shelf(rows, Offer(Catalogue.of(changed)), former=former)
    assert shown(after, categories=frozenset({"sport"})) == ["bat"]
    monkeypatch.undo()
    other = Shelf(rows, Offer(Catalogue.of({**SHOP, "new": (False, None, [])})), former=former)
    assert "new" not in shown(other)


PRICES = st.none() | st.sampled_from([0.0, 1.5, 3.0])
FACTS = st.tuples(st.booleans(), PRICES, st.lists(st.sampled_from(NAMES), max_size=3))
NAMED = st.frozensets(st.sampled_from(NAMES))


@given(
    shop=st.dictionaries(st.sampled_from(ITEMS), FACTS),
    blocked=st.frozensets(st.sampled_from(ITEMS)),
    withdrawn=st.frozensets(st.sampled_from(ITEMS)),
    categories=st.none() | NAMED,
    without=NAMED,
    items=st.none() | st.frozensets(st.sampled_from((*ITEMS, "nowhere"))),
    bounds=st.tuples(st.sampled_from([-math.inf, 0.0, 1.5]), st.sampled_from([1.5, 3.0, math.inf])),
)
def test_a_shelf_says_what_reading_each_item_says(
    shop: dict[str, Any],
    blocked: frozenset[str],
    withdrawn: frozenset[str],
    categories: frozenset[str] | None,
    without: frozenset[str],
    items: frozenset[str] | None,
    bounds: tuple[float, float],
) -> None:
    def plainly(item: str) -> bool:
        available, price, has = shop.get(item, (item not in withdrawn, None, []))
        priced = bounds != (-math.inf, math.inf)
        return (
            available
            and item not in blocked
            and (categories is None or bool(categories & set(has)))
            and not without & set(has)
            and (items is None or item in items)
            and (not priced or (price is not None and bounds[0] <= price <= bounds[1]))
        )

    here = np.array([item in withdrawn for item in ITEMS])
    shelf = Shelf(PLACES, Offer(Catalogue.of(shop), blocked), withdrawn_N=here)
    wanted = Wanted(categories, without, items, min_price=bounds[0], max_price=bounds[1])
    assert shelf.allowed(wanted).allowed_N.tolist() == [plainly(item) for item in ITEMS]


# What requests state


def test_a_request_without_filters_wants_everything() -> None:
    assert check(None, catalogue=None) is EVERYTHING
    assert check(Filters(), catalogue=None) == EVERYTHING
    stated = Filters(categories=["toys"], without_categories=["18+"], items=["a"], min_price=1, max_price=2.5)
    assert check(stated, catalogue=Catalogue.of(SHOP)) == Wanted(
        frozenset({"toys"}), frozenset({"18+"}), frozenset({"a"}), 1.0, 2.5
    )


@pytest.mark.parametrize(
    ("stated", "says"),
    [
        ({"categories": ["tous"]}, "did you mean 'toys'"),
        ({"without_categories": ["toys", "Ü"]}, r"filters\.without_categories: no item has the category 'Ü'$"),
        ({"min_price": 2.0, "max_price": 1.0}, "above"),
    ],
)
def test_what_cannot_be_meant_is_refused(stated: dict[str, Any], says: str) -> None:
    with pytest.raises(Refused, match=says):
        check(Filters(**stated), catalogue=Catalogue.of(SHOP))


def test_without_a_catalogue_only_items_can_be_asked_for() -> None:
    assert check(Filters(items=["a"]), catalogue=None) == Wanted(items=frozenset({"a"}))
    for stated in ({"categories": ["toys"]}, {"without_categories": ["toys"]}, {"max_price": 1.0}):
        with pytest.raises(Refused, match="deliver the catalogue"):
            check(Filters(**stated), catalogue=None)


def test_hidden_categories_join_the_filters() -> None:
    catalogue = Catalogue.of(SHOP)
    wanted = Wanted(without=frozenset({"18+"})).also_without({"sport", "unheard of"}, catalogue=catalogue)
    assert wanted.without == {"18+", "sport"}
    assert EVERYTHING.also_without({"unheard of"}, catalogue=catalogue) == EVERYTHING
    assert EVERYTHING.also_without({"sport"}, catalogue=None) == EVERYTHING
