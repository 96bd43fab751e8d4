import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation.appeal import examination
from simulation.clock import instant
from simulation.contexts import Context
from simulation.marketplace import Marketplace
from simulation.parameters import Parameters
from simulation.truth import expected_clicks, slot_probabilities, true_lift


def some_contexts(market: Marketplace, count: int, *, day: int = 8) -> list[Context]:
    rng = np.random.default_rng(5)
    now = instant(day * 86_400_000_000, market.parameters)
    return [
        Context(
            user_id=market.people.ids[user],
            time=now,
            history=(),
            user=user,
            day=day,
            last_subtopic=int(rng.integers(-1, market.parameters.subtopics)),
            context_weight=0.8,
            first_request=now,
        )
        for user in rng.integers(market.people.bots, market.parameters.users, size=count).tolist()
    ]


class Oracle:
    """Ranks everything on sale by the true click probability."""

    def __init__(self, market: Marketplace, candidates: int = 50) -> None:
        self.market, self.candidates = market, candidates

    def __call__(self, contexts: Sequence[Context]) -> list[list[str]]:
        market = self.market
        lists = []
        for context in contexts:
            on_sale = np.arange(market.catalogue.released(context.day))
            click_C = market.appeal(context.day).click(
                np.array([context.user]),
                on_sale[None, :],
                last_subtopic_M=np.array([context.last_subtopic]),
                context_weight_M=np.array([context.context_weight]),
            )[0]
            lists.append([market.catalogue.ids[item] for item in np.argsort(-click_C)[: self.candidates]])
        return lists


def popularity(market: Marketplace, contexts: Sequence[Context]) -> list[list[str]]:
    count_N = sum(np.bincount(market.events(day).item_E, minlength=len(market.catalogue.ids)) for day in range(8))
    best = [market.catalogue.ids[item] for item in np.argsort(-np.asarray(count_N))[:50]]
    return [best] * len(contexts)


def brute_force(candidates: int, slots: int, exploration: float) -> np.ndarray:
    """Sum over every slate of its probability, slot by slot."""
    found = np.zeros((slots, candidates))
    for slate in permutations(range(candidates), slots):
        probability, remaining = 1.0, list(range(candidates))
        for item in slate:
            probability *= (1 - exploration) * (item == remaining[0]) + exploration / len(remaining)
            remaining.remove(item)
        for slot, item in enumerate(slate):
            found[slot, item] += probability
    return found


def test_slot_probabilities_by_hand() -> None:
    # Two slots, three candidates, ε = .3. Slot 1: best .7 + .1 = .8, the others .1 each. Slot 2: after a shown first
    # (.8) rank 2 is best: .7 + .15; else rank 1 is: .7 + .15 of the .2; rank 3 gets .15 · (.8 + .1).
    assert slot_probabilities(3, 2, 0.3) == pytest.approx(
        np.array([[0.8, 0.1, 0.1], [0.85 * 0.2, 0.85 * 0.8 + 0.15 * 0.1, 0.15 * (0.8 + 0.1)]])
    )


@given(candidates=st.integers(1, 6), slots=st.integers(1, 4), exploration=st.floats(0, 0.99, allow_subnormal=False))
def test_slot_probabilities_equal_the_sum_over_all_slates(candidates: int, slots: int, exploration: float) -> None:
    slots = min(slots, candidates)
    assert slot_probabilities(candidates, slots, exploration) == pytest.approx(
        brute_force(candidates, slots, exploration), abs=1e-12
    )


@given(candidates=st.integers(10, 200), exploration=st.floats(0, 0.99))
def test_slot_probabilities_sum_to_one_per_slot(candidates: int, exploration: float) -> None:
    slot_KC = slot_probabilities(candidates, 10, exploration)
    assert slot_KC.sum(axis=1) == pytest.approx(1)
    assert (slot_KC.sum(axis=0) <= 1 + 1e-9).all()  # an item stands in a slate at most once


def test_without_exploration_the_slate_is_the_list() -> None:
    assert (slot_probabilities(50, 10, 0.0) == np.eye(10, 50)).all()


def test_position_bias_falls_with_the_position() -> None:
    looked_K = examination(Parameters(), 10)
    assert looked_K[0] == 1
    assert looked_K[1] == pytest.approx(2**-0.35)
    assert (np.diff(looked_K) < 0).all()


def test_expected_clicks_by_hand(marketplace: Marketplace) -> None:
    context = some_contexts(marketplace, 1)[0]
    items = ["item-00007", "item-00011"]
    p = marketplace.parameters
    chance = []
    for number in (7, 11):
        subtopic = int(marketplace.catalogue.subtopic_N[number])
        age = 8 - marketplace.catalogue.release_N[number]
        log_odds = p.click_base + marketplace.people.inclination_U[context.user]
        log_odds += marketplace.tastes.interest_logits(8)[context.user, subtopic]
        log_odds += marketplace.tastes.trend_DS[8, subtopic] + marketplace.catalogue.quality_N[number]
        log_odds += p.novelty * np.exp(-age / p.novelty_days)
        near = {context.last_subtopic, int(marketplace.tastes.complement_S[context.last_subtopic])}
        log_odds += 0.8 * p.context_click * (subtopic in near)
        chance.append(1 / (1 + np.exp(-log_odds)))
    clicks_M, shown_M = expected_clicks([items], [context], marketplace=marketplace)
    assert clicks_M[0] == pytest.approx(chance[0] + 2**-0.35 * chance[1])
    assert shown_M[0] == 2


def test_a_model_against_itself_has_exactly_no_lift(marketplace: Marketplace) -> None:
    oracle = Oracle(marketplace)
    found = true_lift(oracle, oracle, some_contexts(marketplace, 60), marketplace=marketplace, exploration=0.1)
    assert found.lift == 0
    assert found.standard_error == 0
    assert found.champion_rate == found.challenger_rate > 0


def test_popularity_is_truly_worse_than_the_oracle(marketplace: Marketplace) -> None:
    contexts = some_contexts(marketplace, 100)
    found = true_lift(
        Oracle(marketplace), lambda asked: popularity(marketplace, asked), contexts, marketplace=marketplace
    )
    assert found.lift < -0.5
    assert found.lift + 10 * found.standard_error < 0
    assert found.contexts == 100


def test_exploration_costs_the_oracle(marketplace: Marketplace) -> None:
    contexts, oracle = some_contexts(marketplace, 30), Oracle(marketplace)
    rates = [
        true_lift(oracle, oracle, contexts, marketplace=marketplace, exploration=share).champion_rate
        for share in (0.0, 0.05, 0.3)
    ]
    assert rates == sorted(rates, reverse=True)


def test_a_crawler_clicks_anything_anywhere(marketplace: Marketplace) -> None:
    context = replace(some_contexts(marketplace, 1)[0], user=0)
    clicks_M, _ = expected_clicks(
        [list(marketplace.catalogue.ids[:50])], [context], marketplace=marketplace, exploration=0.4
    )
    assert clicks_M[0] == pytest.approx(10 * marketplace.parameters.bot_click)


def test_short_and_empty_lists_count_what_they_show(marketplace: Marketplace) -> None:
    contexts = some_contexts(marketplace, 3)
    ids = marketplace.catalogue.ids
    _, shown_M = expected_clicks([[], ids[:4], ids[:50]], contexts, marketplace=marketplace)
    assert shown_M.tolist() == [0, 4, 10]


def test_what_cannot_be_judged_is_refused(marketplace: Marketplace) -> None:
    oracle, contexts = Oracle(marketplace), some_contexts(marketplace, 2)
    with pytest.raises(ValueError, match="no contexts"):
        true_lift(oracle, oracle, [], marketplace=marketplace)
    with pytest.raises(ValueError, match="1 candidate lists for 2 contexts"):
        true_lift(lambda asked: [["item-00001"]], oracle, contexts, marketplace=marketplace)
    with pytest.raises(ValueError, match="'elsewhere' is not an item"):
        true_lift(oracle, lambda asked: [["elsewhere"]] * 2, contexts, marketplace=marketplace)
    with pytest.raises(ValueError, match="never clicked"):
        true_lift(lambda asked: [[], []], oracle, contexts, marketplace=marketplace)


def test_a_thousand_contexts_take_less_than_a_second(marketplace: Marketplace) -> None:
    contexts = some_contexts(marketplace, 1_000)
    lists = [list(marketplace.catalogue.ids[:50])] * 1_000
    began = time.process_time()
    true_lift(lambda asked: lists, lambda asked: lists, contexts, marketplace=marketplace, exploration=0.05)
    assert time.process_time() - began < 1


def test_a_user_matures_a_window_after_the_first_request(marketplace: Marketplace) -> None:
    context = some_contexts(marketplace, 1)[0]
    window = timedelta(hours=24)
    assert context.matured(context.first_request + window, window)
    assert not context.matured(context.first_request + window - timedelta(seconds=1), window)
