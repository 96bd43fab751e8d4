"""POST /v1/recommend/batch: several requests, each with its own answer or its own problem."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from serving.web.messages import MAX_BATCH, BatchAnswer, RecommendAnswer
from stores.pseudonyms import Keys

Start = Callable[..., TestClient]
T = "2026-01-01T00:00:00Z"
GREEDY = {"exploration": 0.0}


def ask(client: TestClient, *requests: Any) -> list[dict[str, Any]]:
    answer = client.post("/v1/recommend/batch", json={"requests": list(requests)}, headers={"X-Ratchet-Now": T})
    assert answer.status_code == 200, answer.text
    BatchAnswer.model_validate_json(answer.content)
    answers: list[dict[str, Any]] = answer.json()["answers"]
    return answers


def test_each_is_answered_as_if_it_had_come_alone(shop: Any, start: Start) -> None:
    shop.crown()
    history = [{"item_id": "item-03", "behaviour": "click", "event_time": T}]
    requests = [
        {"user_id": "u", "k": 3, "events": history},
        {"user_id": "v", "k": 5, "exclude": ["item-01"]},
        {"user_id": "ü🛒", "k": 1, "surface": "cart"},
    ]
    together = ask(start(policy=GREEDY), *requests)
    client = start(policy=GREEDY)
    alone = [client.post("/v1/recommend", json=r, headers={"X-Ratchet-Now": T}).json() for r in requests]
    assert together == alone  # ids and tokens too: a simulation repeats itself


def test_each_has_its_own_id_exposures_and_user(shop: Any, start: Start) -> None:
    shop.crown()
    answers = ask(start(), *({"user_id": f"u{n}", "k": 4} for n in range(MAX_BATCH)))
    assert len({answer["request_id"] for answer in answers}) == MAX_BATCH
    rows = shop.logged("exposures")
    assert len(rows) == 4 * MAX_BATCH
    keys = Keys.load(shop.home.keys)
    for n, answer in enumerate(answers):
        own = [row for row in rows if row["request_id"] == answer["request_id"]]
        assert {row["user"] for row in own} == {keys.user(f"u{n}")}
        own.sort(key=lambda row: row["position"])
        assert [row["item_id"] for row in own] == [item["item_id"] for item in answer["items"]]


def test_a_bad_one_does_not_refuse_the_others(shop: Any, start: Start) -> None:
    shop.publish("a", "b")
    bad: list[tuple[Any, str]] = [
        ({"user_id": "u", "k": 0}, "k: Input should be greater than or equal to 1"),
        ({"user_id": "u", "number": 3}, "number: Extra inputs"),
        ({}, "user_id: Field required"),
        ("u", "valid dictionary or instance"),
        (None, "valid dictionary or instance"),
        ({"user_id": "u", "events": [{"item_id": "i", "behaviour": "b", "event_time": "soon"}]}, "events: 'soon'"),
        ({"user_id": "u", "filters": {"categories": ["nowhere"]}}, "filters"),
    ]
    requests = [{"user_id": "first", "k": 1}, *(request for request, _ in bad), {"user_id": "last", "k": 2}]
    first, *problems, last = ask(start(policy=GREEDY), *requests)
    assert [item["item_id"] for item in first["items"]] == ["a"]
    assert [item["item_id"] for item in last["items"]] == ["a", "b"]
    for (_, told), problem in zip(bad, problems, strict=True):
        assert (problem["status"], problem["type"]) == (422, "urn:ratchet:problem:invalid")
        assert told in problem["detail"]
    assert len(shop.logged("exposures")) == 3


def test_nothing_to_serve_is_each_ones_problem(start: Start) -> None:
    answers = ask(start(), {"user_id": "u"}, {"user_id": "v"})
    assert [answer["status"] for answer in answers] == [503, 503]
    assert "ratchet ingest" in answers[0]["detail"]


def test_a_defect_in_one_is_logged_and_stays_its_own(
    shop: Any, start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.publish("a")
    client = start()
    recommender = client.app.state.service.recommender  # type: ignore[attr-defined]
    answer = recommender.answer

    async def sometimes(request: Any, **rest: Any) -> Any:
        if request.user_id == "cursed":
            raise RuntimeError("boom")
        return await answer(request, **rest)

    monkeypatch.setattr(recommender, "answer", sometimes)
    first, second, third = ask(client, {"user_id": "u"}, {"user_id": "cursed"}, {"user_id": "v"})
    assert second == {
        "type": "urn:ratchet:problem:defect",
        "title": "Internal Server Error",
        "status": 500,
        "detail": "a defect in Ratchet; the server's log has the trace",
    }
    for whole in (first, third):
        RecommendAnswer.model_validate_json(json.dumps(whole))
    assert "boom" in caplog.text
    assert "cursed" not in caplog.text


def test_an_empty_batch_is_fine_and_a_large_one_is_not(shop: Any, start: Start) -> None:
    shop.publish("a")
    client = start()
    assert ask(client) == []
    many = client.post("/v1/recommend/batch", json={"requests": [{"user_id": "u"}] * (MAX_BATCH + 1)})
    assert (many.status_code, "at most 64" in many.json()["detail"]) == (422, True)
    for body in ({}, [], {"requests": 3}, {"requests": [], "more": 1}):
        assert client.post("/v1/recommend/batch", json=body).status_code == 422
    assert shop.logged("exposures") == []
