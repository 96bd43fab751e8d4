import random
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest

from relations.errors import DependencyFailed
from simulation.appeal import NOTHING
from simulation.client import RecommendClient
from simulation.contexts import HISTORY, Reservoir
from simulation.marketplace import Marketplace
from simulation.traffic import Traffic
from simulation.truth import expected_clicks

# Half of the shown items is drawn at random, so that the agreement below tests the exploration's arithmetic too.
EXPLORATION = 0.5


def popular(market: Marketplace, candidates: int = 15) -> list[str]:
    count_N = np.bincount(market.events(0).item_E, minlength=len(market.catalogue.ids))
    return [market.catalogue.ids[item] for item in np.argsort(-count_N)[:candidates]]


def explore(best: list[str], k: int, chance: random.Random) -> list[str]:
    remaining = list(best)
    return [remaining.pop(chance.randrange(len(remaining)) if chance.random() < EXPLORATION else 0) for _ in range(k)]


def test_measured_clicks_agree_with_the_truth(stub: Any, marketplace: Marketplace) -> None:
    best, chance = popular(marketplace), random.Random(11)
    stub.show = lambda body: explore(best, body["k"], chance)
    traffic = Traffic(marketplace, seed=2, contexts=100_000, window=timedelta(days=9))
    client = RecommendClient(stub.url)
    day = traffic.trial_day(3, client)
    contexts = traffic.contexts()
    assert day.requests == len(contexts) == len(stub.recommended()) > 2_000
    assert day.impressions == 10 * day.requests
    clicks_M, shown_M = expected_clicks(
        [best] * len(contexts), contexts, marketplace=marketplace, exploration=EXPLORATION
    )
    assert shown_M.sum() == day.impressions
    # Clicks are Bernoulli given the slates, so their variance is below their expectation.
    assert abs(day.clicks - clicks_M.sum()) < 3 * clicks_M.sum() ** 0.5
    assert day.clicks > 1_000
    assert day.failed == day.refused == 0
    assert client.counts.requests == len(stub.requests) == client.counts.recommendations + client.counts.feedbacks
    assert client.counts.events_accepted == len(stub.events()) == sum(day.outcomes.values())


def test_traffic_is_a_funnel_with_tokens_in_time_order(stub: Any, village: Marketplace) -> None:
    best = popular(village)
    stub.show = lambda body: best[: body["k"]]
    traffic, client = Traffic(village, seed=4), RecommendClient(stub.url)
    days = [traffic.trial_day(day, client) for day in (5, 6, 7, 8)]
    outcomes = Counter(event["behaviour"] for event in stub.events())
    assert outcomes == Counter({name: sum(day.outcomes[name] for day in days) for name in days[0].outcomes} | {})
    assert outcomes["click"] > outcomes["favourite"] > outcomes["cart"] > outcomes["purchase"] > 0
    assert sum(day.arms["champion"].clicks for day in days) == outcomes["click"]
    headers = [now for _, _, now in stub.requests]
    assert headers == sorted(headers)
    for path, body, now in stub.requests:
        if path == "/v1/feedback":
            assert all(event["event_time"] <= now for event in body["events"])
    # Each outcome names the exposure of its own item, shown earlier to the same user.
    shown = {
        f"r{at + 1}": body["user_id"] for at, (path, body, _) in enumerate(stub.requests) if path != "/v1/feedback"
    }
    for event in stub.events():
        request, _, place = event["token"].partition(":")
        assert event["item_id"] == best[int(place) - 1]
        assert shown[request] == event["user_id"]
    # A token is clicked at most once.
    clicks = Counter(event["token"] for event in stub.events() if event["behaviour"] == "click")
    assert set(clicks.values()) == {1}


def test_delayed_conversions_come_on_the_day_of_their_time(stub: Any, village: Marketplace) -> None:
    best = popular(village)
    stub.show = lambda body: best[: body["k"]]
    traffic, client = Traffic(village, seed=4), RecommendClient(stub.url)
    late = 0
    for day in (5, 6, 7, 8):
        before = len(stub.requests)
        traffic.trial_day(day, client)
        midnight = village.parameters.start + timedelta(days=day)
        clicked = {
            event["token"]
            for _, body, _ in stub.requests[before:]
            for event in body.get("events", ())
            if event["behaviour"] == "click"
        }
        for _, body, _ in stub.requests[before:]:
            for event in body.get("events", ()):
                stamp = datetime.fromisoformat(event["event_time"])
                assert midnight <= stamp < midnight + timedelta(days=1)
                late += event["behaviour"] == "purchase" and event["token"] not in clicked
    assert late > 0


def test_same_seed_same_traffic(stub: Any, village: Marketplace) -> None:
    best = popular(village)
    stub.show = lambda body: best[: body["k"]]
    runs = []
    for _ in range(2):
        stub.requests.clear()
        Traffic(village, seed=9).trial_day(4, RecommendClient(stub.url))
        runs.append([(path, body, now) for path, body, now in stub.requests])
    assert runs[0] == runs[1]
    stub.requests.clear()
    Traffic(village, seed=10).trial_day(4, RecommendClient(stub.url))
    assert stub.requests != runs[0]


def test_contexts_hold_what_serving_was_told_and_no_more(stub: Any, village: Marketplace) -> None:
    best = popular(village)
    stub.show = lambda body: best[: body["k"]]
    traffic, client = Traffic(village, seed=4), RecommendClient(stub.url)
    told: dict[str, list[tuple[str, str, str]]] = {}
    for day in range(4):
        for row in village.organic_day(day):
            told.setdefault(row["user_id"], []).append((row["event_time"], row["item_id"] or "", row["behaviour"]))
    traffic.trial_day(4, client)
    for event in stub.events():
        told.setdefault(event["user_id"], []).append((event["event_time"], event["item_id"], event["behaviour"]))
    contexts = traffic.contexts()
    again = 0
    for context in contexts:
        known = {row for row in told.get(context.user_id, []) if row[0] < context.time.isoformat()}
        stamps = [step.time for step in context.history]
        assert stamps == sorted(stamps)
        assert len(context.history) <= HISTORY
        assert context.time - context.first_request < timedelta(hours=24)
        for step in context.history:
            stamp = step.time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            assert (stamp, step.item_id, step.behaviour) in known
        if context.history:
            newest = village.catalogue.number[context.history[-1].item_id]
            assert context.last_subtopic == village.catalogue.subtopic_N[newest]
        else:
            assert context.last_subtopic == NOTHING
        again += context.context_weight == 1.0
    assert again > 0  # second pages after a click, with that click in the history
    assert any(context.history and context.history[-1].time.date() == context.time.date() for context in contexts)


def test_contexts_of_users_that_matured(stub: Any, village: Marketplace) -> None:
    best = popular(village)
    stub.show = lambda body: best[: body["k"]]
    traffic, client = Traffic(village, seed=4), RecommendClient(stub.url)
    for day in (5, 6, 7):
        traffic.trial_day(day, client)
    end = village.parameters.start + timedelta(days=8)
    matured = traffic.contexts(watermark=end)
    assert 0 < len(matured) < len(traffic.contexts())
    assert all(context.first_request + timedelta(days=1) <= end for context in matured)
    traffic.forget_contexts()
    assert traffic.contexts() == []


def test_a_failing_server_is_counted_and_a_dead_one_ends_the_day(stub: Any, village: Marketplace) -> None:
    best, answered = popular(village), 0

    def show(body: dict[str, Any]) -> list[str]:
        nonlocal answered
        answered += 1
        stub.status = 500 if answered % 5 == 0 else 200
        return best[: body["k"]]

    stub.show = show
    day = Traffic(village, seed=1).trial_day(2, RecommendClient(stub.url))
    assert day.failed >= 10
    assert day.requests + day.failed >= len(stub.recommended())
    stub.status = 503
    stub.show = lambda body: []
    client = RecommendClient(stub.url)
    with pytest.raises(DependencyFailed, match="status 503"):
        Traffic(village, seed=1).trial_day(2, client)
    assert client.counts.failures == 50


def test_an_item_of_another_marketplace_is_refused(stub: Any, village: Marketplace) -> None:
    stub.show = lambda body: ["elsewhere"]
    with pytest.raises(ValueError, match="'elsewhere', which is not an item"):
        Traffic(village, seed=1).trial_day(1, RecommendClient(stub.url))


def test_empty_answers_are_requests_without_impressions(stub: Any, village: Marketplace) -> None:
    day = Traffic(village, seed=1).trial_day(1, RecommendClient(stub.url))
    assert day.requests > 0
    assert day.impressions == day.clicks == 0


def test_the_reservoir_keeps_a_uniform_sample() -> None:
    kept = Counter[int]()
    for seed in range(400):
        reservoir = Reservoir(5, seed)
        for number in range(20):
            reservoir.offer(lambda number=number: number)  # type: ignore[misc, arg-type, return-value]
        assert len(reservoir.kept) == 5
        kept.update(reservoir.kept)  # type: ignore[arg-type]
    # Each of 20 is kept with probability 1/4: 100 of 400, standard deviation 8.7.
    assert all(abs(kept[number] - 100) < 4 * 8.7 for number in range(20))
