"""The panel: the same question at each visit, exact truth, and clicks that follow it."""

from datetime import datetime
from typing import Any

import numpy as np
import pytest

from simulation.appeal import examination
from simulation.client import RecommendClient, RequestFailed
from simulation.clock import DAY_US
from simulation.marketplace import Marketplace
from simulation.panel import BATCH, Panel, Wave
from simulation.parameters import Parameters

STILL: dict[str, Any] = {"novelty": 0.0, "trend_step": 0.0, "interest_change": 0.0, "new_items_per_day": 0.0}
PEOPLE, SLOTS = 150, 5


@pytest.fixture(scope="module")
def still() -> Marketplace:
    small = Parameters(
        users=400, new_users_per_day=0, items=80, visit_gaps_days=(1, 2), slots=SLOTS, click_base=-1.0, **STILL
    )
    return Marketplace(small, seed=3)


@pytest.fixture(scope="module")
def panel(still: Marketplace) -> Panel:
    return Panel(still, day=3, people=PEOPLE, events=4, seed=1)


def pages(panel: Panel, *, seed: int, width: int = 8) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    ids = panel.marketplace.catalogue.ids
    return [[ids[item] for item in rng.permutation(len(ids))[:width]] for _ in range(len(panel))]


def test_a_marketplace_that_moves_is_refused_and_too_small_a_crowd(still: Marketplace) -> None:
    with pytest.raises(ValueError, match="stands still"):
        Panel(Marketplace(Parameters(users=50), seed=0), day=2, people=5)
    with pytest.raises(ValueError, match="have a history by day 1"):
        Panel(still, day=1, people=5_000)


def test_histories_are_the_newest_events_of_people_never_of_crawlers(still: Marketplace, panel: Panel) -> None:
    for context in panel.contexts[:20]:
        told = [
            (time, item)
            for day in range(3)
            for user, time, item in zip(
                still.events(day).user_E.tolist(),
                still.events(day).time_us_E.tolist(),
                still.events(day).item_E.tolist(),
                strict=True,
            )
            if user == context.user
        ]
        newest = [still.catalogue.ids[item] for _, item in sorted(told)[-4:]]
        # A view and its click may share a millisecond: compare what is there, not the order of equals.
        assert sorted(step.item_id for step in context.history) == sorted(newest)
    assert (panel.user_P >= still.people.bots).all()
    assert set(panel.visits_P.tolist()) == {1, 2}


def test_the_rate_is_the_mean_over_all_requests(still: Marketplace, panel: Panel) -> None:
    """Without exploration: person by person, slot by slot, P(looks) · P(clicks)."""
    shown = pages(panel, seed=0)
    looked_K = examination(still.parameters, SLOTS)
    clicks = asked = 0.0
    for place, context in enumerate(panel.contexts):
        for slot, item in enumerate(shown[place][:SLOTS]):
            chance = still.appeal(3).click(
                np.array([context.user]),
                np.array([[still.catalogue.number[item]]]),
                last_subtopic_M=np.array([context.last_subtopic]),
                context_weight_M=np.array([still.parameters.resume]),
            )[0, 0]
            clicks += panel.visits_P[place] * chance * looked_K[slot]
            asked += panel.visits_P[place]
    assert panel.rate(shown, exploration=0.0) == pytest.approx(clicks / asked, rel=1e-12)


def test_the_lift_is_the_ratio_of_rates_and_its_error_a_resampling_of_people(panel: Panel) -> None:
    ours, theirs = pages(panel, seed=0), pages(panel, seed=1)
    truth = panel.lift(theirs, ours, exploration=0.1)
    rates = [panel.rate(lists, exploration=0.1) for lists in (theirs, ours)]
    assert truth.lift == pytest.approx(rates[1] / rates[0] - 1)
    assert panel.lift(ours, ours, exploration=0.1).standard_error == pytest.approx(0.0, abs=1e-12)
    rng = np.random.default_rng(5)
    (click_A, shown_A), (click_B, shown_B) = (panel.expected(lists, exploration=0.1) for lists in (theirs, ours))
    drawn = []
    for _ in range(2_000):
        weight_P = panel.visits_P * rng.multinomial(PEOPLE, np.full(PEOPLE, 1 / PEOPLE))
        rate_A, rate_B = (weight_P @ click_A) / (weight_P @ shown_A), (weight_P @ click_B) / (weight_P @ shown_B)
        drawn.append(rate_B / rate_A - 1)
    # The bootstrap's own error with 2,000 draws is 1.6 %; 10 % is six times that.
    assert truth.standard_error == pytest.approx(float(np.std(drawn)), rel=0.1)


def visits(panel: Panel, stub: Any, *, day: int) -> Wave:
    with RecommendClient(stub.url) as client:
        return panel.visit(np.arange(PEOPLE), client, at_us=day * DAY_US, rng=np.random.default_rng(day))


def test_the_question_is_the_same_at_each_visit(panel: Panel, stub: Any) -> None:
    stub.show = lambda body: [event["item_id"] for event in body["events"]][:SLOTS]
    asked = []
    for day in (10, 40):
        del stub.requests[:]
        visits(panel, stub, day=day)
        batches = [(body, now) for path, body, now in stub.requests if path == "/v1/recommend/batch"]
        assert all(len(body["requests"]) <= BATCH for body, _ in batches)
        said = [(request, datetime.fromisoformat(now)) for body, now in batches for request in body["requests"]]
        assert len(said) == panel.visits_P.sum()
        asked.append(
            [
                (
                    request["user_id"],
                    request["k"],
                    [
                        (event["item_id"], event["behaviour"], now - datetime.fromisoformat(event["event_time"]))
                        for event in request["events"]
                    ],
                )
                for request, now in said
            ]
        )
    assert asked[0] == asked[1]


def test_clicks_follow_the_truth_and_are_reported_with_their_tokens(panel: Panel, stub: Any) -> None:
    """A stub shows fixed pages; clicks over 10 visits lie within 4 standard deviations of the expectation."""
    shown = pages(panel, seed=2, width=SLOTS)
    place = {context.user_id: row for row, context in enumerate(panel.contexts)}
    stub.show = lambda body: shown[place[body["user_id"]]]
    clicks = expected = variance = 0.0
    mean_P, _ = panel.expected(shown, exploration=0.0)
    for day in range(10, 20):
        del stub.requests[:]
        wave = visits(panel, stub, day=day)
        assert sum(answer.shown for answer in wave.answers) == SLOTS * panel.visits_P.sum()
        clicks += sum(answer.clicks for answer in wave.answers)
        expected += float((panel.visits_P * mean_P).sum())
        variance += float((panel.visits_P * mean_P * (1 - mean_P / SLOTS)).sum())  # at most, of independent clicks
        told = stub.events()
        assert wave.events + wave.repeated <= len(told)  # the stub takes what is sent again for new
        tokens = [event["token"] for event in told if event["behaviour"] == "click"]
        assert len(set(tokens)) == sum(answer.clicks for answer in wave.answers)
        assert {event["behaviour"] for event in told} == {"click", "favourite"}
    assert abs(clicks - expected) < 4 * variance**0.5


def test_a_batch_with_a_refused_request_fails_whole(stub: Any) -> None:
    stub.answer = lambda path, body: {"answers": [{"type": "urn:ratchet:problem:invalid", "status": 422}]}
    with RecommendClient(stub.url) as client:
        with pytest.raises(RequestFailed, match=r"lacks 'items'"):
            client.recommend_many([{"user_id": "u", "k": 3}])
        stub.answer = lambda path, body: {"answers": []}
        with pytest.raises(RequestFailed, match="0 answers to 1 requests"):
            client.recommend_many([{"user_id": "u", "k": 3}])
        assert client.counts.failures == 2
