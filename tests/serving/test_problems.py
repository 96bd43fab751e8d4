"""Whatever goes wrong is `application/problem+json`, of a kind to branch on, and repeats no id."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from relations.errors import DependencyFailed
from serving.networks.batching import Overloaded
from serving.web.failures import failure_of
from serving.web.messages import FeedbackEvent, RecommendRequest
from serving.web.problems import KINDS, OVERLOADED, Refused, explain
from serving.web.reading import MAX_BODY

Start = Callable[..., TestClient]
JSON = {"Content-Type": "application/json"}
CANARY = "zq-canary-7141"


def told(answer: Any, status: int, kind: str) -> dict[str, Any]:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    problem: dict[str, Any] = answer.json()
    assert set(problem) == {"type", "title", "status", "detail"}
    assert (problem["type"], problem["status"]) == (f"urn:ratchet:problem:{kind}", status)
    assert problem["detail"]
    return problem


def test_what_the_framework_refuses_is_a_problem_too(shop: Any, start: Start) -> None:
    shop.publish("a")
    client = start()
    told(client.get("/nowhere"), 404, "not-found")
    told(client.post("/v1/recommend/", json={"user_id": "u"}), 404, "not-found")  # no redirect, which drops the body
    for path, allowed in (
        ("/v1/recommend", "POST"),
        ("/v1/recommend/batch", "POST"),
        ("/v1/feedback", "POST"),
        ("/healthz", "GET"),
        ("/readyz", "GET"),
        ("/metrics", "GET"),
        ("/docs", "GET"),
    ):
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
            if method != allowed:
                answer = client.request(method, path)
                told(answer, 405, "wrong-method")
                assert answer.headers["allow"] == allowed
        assert client.head(path).status_code == 405


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/recommend/batch", "/v1/feedback"])
def test_bodies_that_are_not_ours(start: Start, path: str) -> None:
    client = start()
    told(client.post(path, content=b"{", headers=JSON), 400, "malformed")
    told(client.post(path, content=b"{}", headers=JSON), 422, "invalid")
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        told(client.post(path, content=b"{}", headers={"Content-Type": kind}), 415, "not-json")
    told(client.post(path, content=b" " * (MAX_BODY + 1), headers=JSON), 413, "too-large")

    def chunks() -> Any:  # without a length to be believed
        for _ in range(MAX_BODY // 65_536 + 2):
            yield b" " * 65_536

    told(client.post(path, content=chunks(), headers=JSON), 413, "too-large")
    told(client.post(path, content=b"[" * 100_000, headers=JSON), 400, "malformed")


def test_a_failing_dependency_and_a_defect(shop: Any, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    client = start()
    answer = client.post("/v1/recommend", json={"user_id": "u"})
    told(answer, 503, "unavailable")
    assert answer.headers["retry-after"] == "2"
    shop.publish("a")
    client = start()
    desk = client.app.state.service.desk  # type: ignore[attr-defined]
    monkeypatch.setattr(type(desk), "receive", lambda *_, **__: 1 / 0)
    problem = told(client.post("/v1/feedback", json={"events": []}), 500, "defect")
    assert "division" not in problem["detail"]


def test_errors_as_failures() -> None:
    late = failure_of(Overloaded("later", retry_seconds=3.2))
    assert (late.status, late.kind) == (503, OVERLOADED)
    assert late.response().headers["retry-after"] == "4"
    assert failure_of(DependencyFailed("disk")).response().headers["retry-after"] == "2"
    assert failure_of(Refused(403, "no", kind="special")).members()["type"] == "urn:ratchet:problem:special"
    assert failure_of(TimeoutError()).status == 500
    assert len(set(KINDS.values())) == len(KINDS)


IDS = ("user_id", "item_id", "event_id", "token")
WRONG: Any = st.sampled_from([[CANARY], {CANARY: 1}, CANARY * 60, {"a": CANARY}])


@given(field=st.sampled_from(["user_id", "exclude", "events", "attributes", "surface", "filters"]), wrong=WRONG)
def test_no_id_of_a_request_is_repeated(field: str, wrong: Any) -> None:
    body = {"user_id": CANARY, "k": -1, "exclude": [CANARY], "surface": CANARY} | {field: wrong}
    with pytest.raises(ValidationError) as raised:
        RecommendRequest.model_validate(body)
    assert CANARY not in explain(raised.value).replace(f"{field}.{CANARY}", "")  # names of a client's own attributes


@given(field=st.sampled_from(IDS), wrong=WRONG)
@hypothesis_settings(suppress_health_check=[HealthCheck.too_slow])
def test_no_id_of_an_event_is_repeated(field: str, wrong: Any) -> None:
    body = dict.fromkeys(IDS, CANARY) | {"behaviour": "click", "value": "x", field: wrong}
    with pytest.raises(ValidationError) as raised:
        FeedbackEvent.model_validate(body)
    assert CANARY not in explain(raised.value)


def test_no_id_reaches_an_answer_that_refuses(shop: Any, start: Start) -> None:
    shop.publish("a")
    client = start()
    event = {"user_id": CANARY, "item_id": CANARY, "behaviour": "click", "token": f"{CANARY}:1.5.x.y"}
    for path, body in (
        ("/v1/recommend", {"user_id": CANARY, "k": 0, "exclude": [CANARY]}),
        ("/v1/recommend", {"user_id": [CANARY]}),
        ("/v1/recommend", {"user_id": CANARY, "events": [{"item_id": CANARY, "behaviour": CANARY, "event_time": "x"}]}),
        ("/v1/recommend", {"user_id": CANARY, "filters": {"items": [CANARY], "min_price": 2, "max_price": 1}}),
        ("/v1/recommend/batch", {"requests": [{"user_id": CANARY, "k": 0}, CANARY, [CANARY]]}),
        ("/v1/feedback", {"events": [event, event | {"event_time": "soon"}, event | {"value": "x"}, CANARY]}),
    ):
        answer = client.post(path, json=body)
        assert "problem" in answer.text or "refused" in answer.text
        assert CANARY not in answer.text, answer.text


def test_a_long_name_of_the_clients_own_is_cut() -> None:
    with pytest.raises(ValidationError) as raised:
        RecommendRequest.model_validate({"user_id": "u", "x" * 5_000: 1})
    assert len(explain(raised.value)) < 100
