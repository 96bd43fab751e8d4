"""POST /v1/feedback, through the real app on a real home."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from relations.errors import DependencyFailed
from serving.web.messages import FeedbackAnswer
from stores.pseudonyms import Keys

Start = Callable[..., TestClient]
T = "2026-01-01T00:00:00Z"
EVENT = {"user_id": "u", "item_id": "a", "behaviour": "click", "event_time": T}


@pytest.fixture
def client(shop: Any, start: Start) -> TestClient:
    shop.publish("a", "b", "c")
    return start(policy={"exploration": 0.0})


def tell(client: TestClient, *events: Any, now: str = T) -> dict[str, Any]:
    answer = client.post("/v1/feedback", json={"events": events}, headers={"X-Ratchet-Now": now})
    assert answer.status_code == 200, answer.text
    FeedbackAnswer.model_validate_json(answer.content)
    return answer.json()


def shown(client: TestClient, user: str = "u", now: str = T) -> list[dict[str, Any]]:
    body = {"user_id": user, "k": 3}
    return client.post("/v1/recommend", json=body, headers={"X-Ratchet-Now": now}).json()["items"]


def test_organic_behaviour_is_logged_under_its_derived_id(shop: Any, client: TestClient) -> None:
    event = EVENT | {"behaviour": "rating", "value": 4, "event_time": 1_767_225_600.25}
    assert tell(client, event) == {"accepted": 1, "duplicate": 0, "refused": []}
    keys = Keys.load(shop.home.keys)
    us = 1_767_225_600_250_000
    assert shop.logged("feedback") == [
        {
            "event_id": keys.event_id(
                user_root=keys.user("u"), item_id="a", behaviour="rating", event_time_us=us, value=4.0
            ),
            "user": keys.user("u"),
            "item_id": "a",
            "behaviour": "rating",
            "value": 4.0,
            "event_time": "2026-01-01T00:00:00.250000Z",
            "exposure_id": None,
        }
    ]


def test_a_token_makes_an_outcome_of_its_exposure(shop: Any, client: TestClient) -> None:
    first = shown(client)[1]
    outcome = {"token": first["token"], "user_id": "u", "item_id": "b", "behaviour": "click", "event_time": T}
    assert tell(client, outcome)["accepted"] == 1
    assert [row["exposure_id"] for row in shop.logged("feedback")] == [shop.logged("exposures")[1]["exposure_id"]]


def test_two_exposures_clicks_are_two_outcomes_and_an_organic_one_is_a_third(shop: Any, client: TestClient) -> None:
    tokens = [shown(client)[0]["token"], shown(client)[0]["token"]]
    assert tokens[0] != tokens[1]
    events = [EVENT | {"token": tokens[0]}, EVENT | {"token": tokens[1]}, EVENT]
    assert tell(client, *events) == {"accepted": 3, "duplicate": 0, "refused": []}
    assert len({row["event_id"] for row in shop.logged("feedback")}) == 3


@pytest.mark.parametrize("named", [True, False])
def test_a_replay_counts_once(shop: Any, start: Start, client: TestClient, named: bool) -> None:
    event = EVENT | ({"event_id": "theirs-1"} if named else {"token": shown(client)[0]["token"]})
    assert tell(client, event, event) == {"accepted": 1, "duplicate": 1, "refused": []}
    assert tell(client, event) == {"accepted": 0, "duplicate": 1, "refused": []}
    assert tell(start(), event) == {"accepted": 0, "duplicate": 1, "refused": []}  # another process knows it too
    assert len(shop.logged("feedback")) == 1


def test_an_outcome_without_a_time_is_the_same_whenever_it_is_sent(shop: Any, client: TestClient) -> None:
    event = {"token": shown(client)[0]["token"], "user_id": "u", "item_id": "a", "behaviour": "click"}
    assert tell(client, event)["accepted"] == 1
    assert tell(client, event, now="2026-01-01T05:00:00Z") == {"accepted": 0, "duplicate": 1, "refused": []}
    assert [row["event_time"] for row in shop.logged("feedback")] == ["2026-01-01T00:00:00.000000Z"]


def test_a_replay_is_known_after_the_user_state_forgot_it(shop: Any, client: TestClient) -> None:
    assert tell(client, EVENT)["accepted"] == 1
    later = [
        EVENT | {"event_time": f"2026-01-01T00:{n // 60:02d}:{n % 60:02d}Z", "item_id": "b"} for n in range(1, 251)
    ]
    assert tell(client, *later, now="2026-01-01T01:00:00Z")["accepted"] == 250
    assert tell(client, EVENT)["duplicate"] == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"behaviour": "hummed"}, "behaviour 'hummed' is none of cart, click"),
        ({"event_time": "soon"}, "'soon' is not an ISO 8601 time"),
        ({"event_time": 1_767_225_600_000}, "numbers are epoch seconds"),
        ({"event_time": -5}, "outside 1970"),
        ({"event_time": "2026-01-01T00:10:01Z"}, "more than 10 minutes in the future"),
        ({"event_time": "1969-12-31T23:59:59Z"}, "outside 1970"),
        ({"user_id": ""}, "user_id: String should have at least 1 character"),
        ({"item_id": 5}, "item_id: Input should be a valid string"),
        ({"value": "4"}, "value: Input should be a valid number"),
        ({"colour": "red"}, "colour: Extra inputs"),
        ({"token": "made up"}, "not one of ours"),
        ({"token": "ab:1.1767225600000000.popularity.AAAA"}, "does not fit"),
    ],
)
def test_a_bad_event_is_refused_with_its_reason_and_the_others_count(
    shop: Any, client: TestClient, change: dict[str, Any], told: str
) -> None:
    answer = tell(client, EVENT, EVENT | change, EVENT | {"item_id": "b"})
    assert (answer["accepted"], answer["duplicate"]) == (2, 0)
    assert [refusal["index"] for refusal in answer["refused"]] == [1]
    assert told in answer["refused"][0]["reason"]
    assert [row["item_id"] for row in shop.logged("feedback")] == ["a", "b"]


def test_what_is_no_number_is_refused(shop: Any, client: TestClient) -> None:
    body = b'{"events": [{"user_id": "u", "item_id": "a", "behaviour": "rating", "value": NaN}, 7, null]}'
    answer = client.post("/v1/feedback", content=body, headers={"Content-Type": "application/json"}).json()
    assert (answer["accepted"], [refusal["index"] for refusal in answer["refused"]]) == (0, [0, 1, 2])
    assert "finite" in answer["refused"][0]["reason"]
    assert shop.logged("feedback") == []


def test_a_token_of_another_user_item_or_time_is_refused(shop: Any, client: TestClient) -> None:
    token = shown(client, "victim")[0]["token"]
    own = {"token": token, "user_id": "victim", "item_id": "a", "behaviour": "purchase"}
    for change in ({"user_id": "u"}, {"item_id": "b"}):
        assert "does not fit" in tell(client, own | change)["refused"][0]["reason"]
    assert "older than 30 days" in tell(client, own, now="2026-02-01T00:00:00Z")["refused"][0]["reason"]
    assert tell(client, own)["accepted"] == 1


def test_an_event_up_to_the_allowed_skew_is_taken(client: TestClient) -> None:
    assert tell(client, EVENT | {"event_time": "2026-01-01T01:10:00+01:00"})["accepted"] == 1


def test_feedback_is_kept_whole_or_not_at_all(shop: Any, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_file: int, _content: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        answer = client.post("/v1/feedback", json={"events": [EVENT]}, headers={"X-Ratchet-Now": T})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert "No space left" in answer.json()["detail"]
    assert tell(client, EVENT) == {"accepted": 1, "duplicate": 0, "refused": []}
    assert len(shop.logged("feedback")) == 1


def test_no_events_are_fine_and_too_many_are_not(client: TestClient) -> None:
    assert tell(client) == {"accepted": 0, "duplicate": 0, "refused": []}
    many = client.post("/v1/feedback", json={"events": [EVENT] * 10_001})
    assert (many.status_code, "10000" in many.json()["detail"]) == (422, True)


def test_feedback_that_the_state_cannot_count_is_logged_and_accepted(
    shop: Any, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down(*_: Any) -> Any:
        raise DependencyFailed("no state")

    state = client.app.state.service.user_state  # type: ignore[attr-defined]
    monkeypatch.setattr(state, "known", down)
    monkeypatch.setattr(state, "admit", down)
    assert tell(client, EVENT, EVENT) == {"accepted": 1, "duplicate": 1, "refused": []}
    assert tell(client, EVENT)["duplicate"] == 1  # this server remembers
    assert len(shop.logged("feedback")) == 1


def test_a_state_that_is_down_is_reported_once_not_at_each_request(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def down(rows: Any) -> set[str]:
        raise DependencyFailed("user state: gone")

    state = client.app.state.service.user_state  # type: ignore[attr-defined]
    for outage in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(state, "known", down)
            patched.setattr(state, "admit", down)
            for number in range(5):
                tell(client, EVENT | {"event_id": f"e{outage}-{number}"})
        tell(client, EVENT | {"event_id": f"e{outage}"})
    assert caplog.text.count("user state: gone") == 2


def test_an_event_that_another_server_counts_first_is_a_duplicate(
    shop: Any, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logged by both: a server that is killed between counting and logging would lose it."""

    async def counted_elsewhere(_rows: Any) -> set[str]:
        return set()

    state = client.app.state.service.user_state  # type: ignore[attr-defined]
    monkeypatch.setattr(state, "admit", counted_elsewhere)
    assert tell(client, EVENT) == {"accepted": 0, "duplicate": 1, "refused": []}
    assert len(shop.logged("feedback")) == 1
