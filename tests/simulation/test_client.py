from typing import Any

import pytest

from relations.errors import DependencyFailed, UsageError
from simulation import client as module
from simulation.client import RecommendClient, RequestFailed


def test_a_request_carries_user_time_and_exclusions(stub: Any) -> None:
    stub.show = lambda body: ["b", "ä 🎈"]
    client = RecommendClient(stub.url)
    slate = client.recommend("użytkownik-1", k=2, now="2026-01-05T00:00:00.000Z", exclude=["x"], surface="home")
    assert slate.item_ids == ("b", "ä 🎈")
    assert slate.tokens == ("r1:1", "r1:2")
    assert slate.propensities == (1.0, 1.0)
    assert (slate.arm, slate.trial, slate.digest, slate.version) == ("champion", None, "d", 1)
    body = {"user_id": "użytkownik-1", "k": 2, "exclude": ["x"], "surface": "home"}
    assert stub.requests == [("/v1/recommend", body, "2026-01-05T00:00:00.000Z")]


def test_without_a_time_there_is_no_header(stub: Any) -> None:
    RecommendClient(stub.url).recommend("u", k=1)
    assert stub.requests == [("/v1/recommend", {"user_id": "u", "k": 1}, None)]


def test_one_connection_serves_many_requests(stub: Any) -> None:
    client = RecommendClient(stub.url)
    for _ in range(5):
        client.recommend("u", k=1)
    receipt = client.feedback([{"user_id": "u", "item_id": "i", "behaviour": "view", "event_time": 0}])
    assert (receipt.accepted, receipt.duplicate, receipt.refused) == (1, 0, ())
    assert stub.connections == 1
    assert client.counts.requests == 6
    assert client.counts.recommendations == 5
    assert client.counts.failures == 0


def test_an_idle_connection_is_opened_anew(stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_SECONDS", -1.0)
    client = RecommendClient(stub.url)
    client.recommend("u", k=1)
    client.recommend("u", k=1)
    assert stub.connections == 2


def test_failures_are_counted_and_say_where(stub: Any) -> None:
    client = RecommendClient(stub.url)
    stub.status = 403
    with pytest.raises(RequestFailed, match=r"127\.0\.0\.1:\d+/v1/recommend: status 403"):
        client.recommend("u", k=1)
    stub.status = 200
    stub.answer = lambda path, body: {"items": []}
    with pytest.raises(RequestFailed, match="answer lacks 'model'"):
        client.recommend("u", k=1)
    with pytest.raises(RequestFailed, match="answer lacks 'accepted'"):
        client.feedback([])
    assert (client.counts.requests, client.counts.failures) == (3, 3)
    assert "accepted" in client.counts.last_failure


def test_nobody_there(stub: Any) -> None:
    client = RecommendClient("http://127.0.0.1:9", timeout_seconds=1)
    with pytest.raises(DependencyFailed, match=r"ConnectionRefusedError.*ratchet serve"):
        client.recommend("u", k=1)
    assert client.counts.failures == 1


@pytest.mark.parametrize("url", ["127.0.0.1:80", "https://127.0.0.1", "http://", ""])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="HOST:PORT"):
        RecommendClient(url)
