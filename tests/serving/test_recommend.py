"""POST /v1/recommend, through the real app on a real home."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from relations import schemas
from serving.web.messages import BEHAVIOURS, RecommendAnswer
from stores.clock import set_clock
from stores.pseudonyms import Keys

Start = Callable[..., TestClient]
GREEDY = {"exploration": 0.0}
T = "2026-01-01T00:00:00Z"


def ask(client: TestClient, user: str = "u", *, k: int = 10, now: str = T, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/recommend", json={"user_id": user, "k": k, **body}, headers={"X-Ratchet-Now": now})
    assert answer.status_code == 200, answer.text
    RecommendAnswer.model_validate_json(answer.content)
    return answer.json()


def items(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def eye(n: int, *, shift: int = 1) -> dict[str, np.ndarray]:
    """A network whose best item after a history ending only in row r is row r + shift, the next one r + shift + 1, …"""
    distance = (np.arange(n)[None, :] - np.arange(n)[:, None] - shift) % n
    return {"embedding_IxD": np.vstack([np.zeros(n), np.eye(n)]), "output_DxV": -distance.astype(np.float32)}


def seen(*items: str) -> list[dict[str, str]]:
    return [{"item_id": item, "behaviour": "click", "event_time": T} for item in items]


def test_the_networks_best_items_come_in_order(shop: Any, start: Start) -> None:
    digest = shop.crown(**eye(20))
    answer = ask(start(policy=GREEDY), k=3, events=seen("item-04"))
    assert items(answer) == ["item-05", "item-06", "item-07"]
    assert [item["score"] for item in answer["items"]] == [0.0, -1.0, -2.0]
    assert [item["position"] for item in answer["items"]] == [1, 2, 3]
    assert [item["propensity"] for item in answer["items"]] == [1.0, 1.0, 1.0]
    assert answer["model"] == {"version": 1, "digest": digest, "arm": "champion", "trial": None}


def test_each_shown_item_is_logged_with_every_column_of_the_exposures_table(shop: Any, start: Start) -> None:
    digest = shop.crown(**eye(20))
    answer = ask(start(), k=4, events=seen("item-04"), surface="home page", context={"page": 2})
    rows = shop.logged("exposures")
    arrival = {"received_time", "source", "delivery_id"}
    assert all(set(row) == set(schemas.EXPOSURES.names) - arrival for row in rows)
    assert [row["item_id"] for row in rows] == items(answer)
    assert [row["exposure_id"] for row in rows] == [f"{answer['request_id']}:{position}" for position in (1, 2, 3, 4)]
    assert [row["propensity"] for row in rows] == [item["propensity"] for item in answer["items"]]
    first = rows[0] | {"latency_ms": 0.0, "candidate_set_hash": "", "explored": False, "item_id": "", "score": 0.0}
    del first["propensity"]
    assert first == {
        "exposure_id": f"{answer['request_id']}:1",
        "request_id": answer["request_id"],
        "user": Keys.load(shop.home.keys).user("u"),
        "item_id": "",
        "position": 1,
        "propensity_kind": "exact",
        "score": 0.0,
        "policy": "epsilon-greedy",
        "surface": "home page",
        "trial": None,
        "variant": "champion",
        "allocation": 0.0,
        "assignment_reason": "no trial",
        "champion_epoch": 1,
        "model_version": 1,
        "digest": digest,
        "served_by": "onnxruntime/CPUExecutionProvider",
        "candidate_set_hash": "",
        "explored": False,
        "is_shadow": False,
        "is_bot": False,
        "bot_rules": None,
        "latency_ms": 0.0,
        "error": None,
        "shown_time": "2026-01-01T00:00:00.000000Z",
        "context": '{"page": 2}',
    }
    assert all(0 < row["latency_ms"] < 5_000 for row in rows)


def test_propensities_are_those_of_the_policy(shop: Any, start: Start) -> None:
    shop.crown(**eye(20))
    client = start(policy={"exploration": 0.2, "candidates": 4})
    for n in range(30):
        left = ["item-05", "item-06", "item-07", "item-08"]
        for item in ask(client, k=2, user=f"u{n}", events=seen("item-04"))["items"]:
            r = len(left)  # 4, then 3
            expected = 0.2 / r + (0.8 if item["item_id"] == left[0] else 0.0)
            assert item["propensity"] == pytest.approx(expected)
            left.remove(item["item_id"])


def test_feedback_changes_the_next_answer_at_once(shop: Any, start: Start) -> None:
    shop.crown(**eye(20))
    shop.publish("item-19")
    client = start(policy=GREEDY)
    assert items(ask(client, k=2)) == ["item-00", "item-01"]  # no history: all scores are equal
    event = {"user_id": "u", "item_id": "item-10", "behaviour": "click", "event_time": T}
    assert client.post("/v1/feedback", json={"events": [event]}, headers={"X-Ratchet-Now": T}).json()["accepted"] == 1
    assert items(ask(client, k=2)) == ["item-11", "item-12"]
    assert items(ask(client, "another", k=1)) == ["item-00"]


def test_stated_events_stand_for_the_newest_history(shop: Any, start: Start) -> None:
    shop.crown(**eye(20), max_history=1)
    client = start(policy=GREEDY)
    event = {"user_id": "u", "item_id": "item-10", "behaviour": "click", "event_time": T}
    client.post("/v1/feedback", json={"events": [event]}, headers={"X-Ratchet-Now": T})
    events = [
        {"item_id": "item-03", "behaviour": "view", "event_time": 1_767_225_602, "value": 1.5},
        {"item_id": "item-15", "behaviour": "view", "event_time": "2026-01-01T00:00:01+00:00"},
    ]
    assert items(ask(client, k=1, events=events)) == ["item-04"]  # item-03 is the later one, whatever the order sent
    assert items(ask(client, k=2, events=[])) == ["item-00", "item-01"]  # a stated empty history is empty


def test_unknown_items_and_behaviours_in_the_history_are_skipped(shop: Any, start: Start) -> None:
    shop.crown(**eye(20))
    client = start(policy=GREEDY)
    events = [*seen("item-04", "never heard of"), {"item_id": "item-09", "behaviour": "hummed", "event_time": T}]
    assert items(ask(client, k=1, events=events)) == ["item-05"]
    cold = ask(client, k=2, events=seen("never heard of"))
    assert items(cold) == ["item-00", "item-01"]
    assert shop.logged("exposures")[-1]["policy"] == "epsilon-greedy"
    assert cold["model"]["version"] == 1


def test_what_is_said_of_the_user_is_asked_with(shop: Any, start: Start) -> None:
    age = {"name": "age", "source": "user", "kind": "number", "edges": [18.0]}
    shop.crown(**eye(20), attributes=[age])
    client = start(policy=GREEDY)
    # Each code adds to every vector the same, so the scores fall by code · (0 + 1 + … + 19) and the order stays.
    for stated, code in (({}, 0), ({"age": None}, 0), ({"age": "old"}, 1), ({"age": 17}, 2), ({"age": 18.5}, 3)):
        answer = ask(client, k=2, events=seen("item-04"), attributes=stated)
        assert items(answer) == ["item-05", "item-06"]
        assert [item["score"] for item in answer["items"]] == [-190.0 * code, -190.0 * code - 1]
    assert shop.logged("exposures")[-1]["policy"] == "epsilon-greedy"
    ask(client, "new", k=1, attributes={"age": 17})  # without history, but something is known
    assert shop.logged("exposures")[-1]["policy"] == "epsilon-greedy"
    unsaid = ask(client, "new", k=1, attributes={})
    assert unsaid["items"][0]["score"] == 0.0  # of the padding position alone
    refused = client.post(
        "/v1/recommend", json={"user_id": "u", "attributes": {"agee": 17}}, headers={"X-Ratchet-Now": T}
    )
    assert refused.status_code == 422
    assert "'agee' is not what the model was trained on; known: age" in refused.json()["detail"]


def test_attributes_are_no_mistake_where_no_model_knows_any(shop: Any, start: Start) -> None:
    shop.publish("a")
    assert items(ask(start(policy=GREEDY), attributes={"age": 17})) == ["a"]


@pytest.mark.parametrize("reign", ["model", "cold model", "popularity"])
def test_exclusions_hold_on_every_path(shop: Any, start: Start, reign: str) -> None:
    shop.publish(*shop.items)
    if reign != "popularity":
        shop.crown(**eye(20))
    client = start(policy={"exploration": 0.9, "candidates": 7})
    history = seen("item-02") if reign == "model" else []
    banned = [f"item-{n:02d}" for n in range(3, 17)]
    for n in range(40):
        shown = items(ask(client, f"u{n}", events=history, exclude=[*banned, "never heard of"]))
        assert shown
        assert not {*banned, *(event["item_id"] for event in history)} & set(shown)
        assert len(set(shown)) == len(shown)


def test_seen_items_are_left_out_unless_the_settings_say_otherwise(shop: Any, start: Start) -> None:
    shop.crown(**eye(20, shift=0))  # the best next item is the one just seen
    assert items(ask(start(policy=GREEDY), k=1, events=seen("item-04"))) == ["item-05"]
    assert items(ask(start(policy=GREEDY | {"exclude_seen": False}), k=1, events=seen("item-04"))) == ["item-04"]


def test_k_beyond_the_candidates_returns_fewer(shop: Any, start: Start) -> None:
    shop.crown(**eye(20))
    assert len(items(ask(start(), k=100, events=seen("item-04")))) == 19
    assert len(items(ask(start(policy={"candidates": 5}), k=100, events=seen("item-04")))) == 5
    everything = ask(start(), k=5, exclude=list(shop.items))
    assert items(everything) == []


def test_without_a_champion_popularity_answers(shop: Any, start: Start) -> None:
    shop.publish("b", "a", "ü🛒")
    answer = ask(start(policy=GREEDY), k=2, exclude=["a"])
    assert items(answer) == ["b", "ü🛒"]
    assert [item["score"] for item in answer["items"]] == [1.0, 0.5]
    assert answer["model"] == {"version": 0, "digest": "popularity", "arm": "popularity", "trial": None}
    row = shop.logged("exposures")[0]
    assert (row["variant"], row["model_version"], row["digest"]) == ("popularity", 0, "popularity")
    assert (row["assignment_reason"], row["champion_epoch"], row["error"]) == ("no champion", 0, None)


def test_an_empty_home_says_what_is_missing(start: Start) -> None:
    client = start()
    answer = client.post("/v1/recommend", json={"user_id": "u"})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    assert "ratchet ingest" in answer.json()["detail"]
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 503


def test_more_than_thirty_requests_a_minute_are_a_bots(shop: Any, start: Start) -> None:
    shop.crown()
    client = start()
    for second in range(32):
        ask(client, k=1, now=f"2026-01-01T00:00:{second:02d}Z")
    ask(client, k=1, now="2026-01-01T00:02:00Z")
    ask(client, "calm", k=1, now="2026-01-01T00:00:31Z")
    rows = shop.logged("exposures")
    assert [row["is_bot"] for row in rows] == [False] * 30 + [True, True] + [False, False]
    assert {row["bot_rules"] for row in rows if row["is_bot"]} == {"rate>30/min"}


def test_the_log_is_handed_over_when_due_and_at_the_end(shop: Any, start: Start) -> None:
    shop.crown()
    client = start(serving={"flush_seconds": 0.05})
    ask(client, k=3)
    deadline = time.monotonic() + 5
    while client.get("/readyz").json()["pending_rows"] and time.monotonic() < deadline:
        time.sleep(0.02)
    files = list((shop.home.landing / "exposures").iterdir())
    assert [file.suffix for file in files] == [".jsonl"]
    assert len(files[0].read_text().splitlines()) == 3


def test_a_simulation_repeats_itself(shop: Any, start: Start) -> None:
    shop.crown()
    first, second = start(), start()
    asked = [("u", T), ("u", T), ("v", T), ("u", "2026-01-01T00:00:01Z")]
    answers = [[ask(client, user, now=now) for user, now in asked] for client in (first, second)]
    assert answers[0] == answers[1]
    assert len({answer["request_id"] for answer in answers[0]}) == 4


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"{", 400, "Invalid JSON"),
        (b"", 400, "Invalid JSON"),
        (b'{"user_id": "\\ud800"}', 400, "Invalid JSON"),
        (b"[]", 422, "object"),
        (b"{}", 422, "user_id"),
        (b'{"user_id": ""}', 422, "user_id: String should have at least 1 character"),
        (b'{"user_id": 7}', 422, "user_id: Input should be a valid string"),
        (b'{"user_id": "u", "k": 0}', 422, "k: Input should be greater than or equal to 1"),
        (b'{"user_id": "u", "k": 101}', 422, "k: Input should be less than or equal to 100"),
        (b'{"user_id": "u", "number": 3}', 422, "number: Extra inputs"),
        (b'{"user_id": "u", "events": [{"item_id": "i", "behaviour": "click"}]}', 422, "events.0.event_time"),
        (
            b'{"user_id": "u", "events": [{"item_id": "i", "behaviour": "click", "event_time": "soon"}]}',
            422,
            "'soon' is not an ISO 8601 time",
        ),
        (b'{"user_id": "u", "context": {"x": NaN}}', 422, "context"),
        (json.dumps({"user_id": "u" * 513}).encode(), 422, "at most 512"),
        (json.dumps({"user_id": "u", "context": {"x": "y" * 5000}}).encode(), 422, "4096 characters"),
        (json.dumps({"user_id": "u", "exclude": ["x" * 400] * 25_000}).encode(), 413, "larger than"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(shop: Any, start: Start, body: bytes, status: int, told: str) -> None:
    shop.publish("a")
    answer = start().post("/v1/recommend", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert set(problem) == {"type", "title", "status", "detail"}
    assert told in problem["detail"]
    assert shop.logged("exposures") == []


def test_only_json_is_read(shop: Any, start: Start) -> None:
    shop.publish("a")
    client = start()
    answer = client.post("/v1/recommend", content=b'{"user_id": "u"}', headers={"Content-Type": "text/plain"})
    assert (answer.status_code, answer.json()["detail"]) == (415, "send application/json")
    assert client.get("/v1/recommend").status_code == 405
    assert client.get("/nowhere").headers["content-type"] == "application/problem+json"


def test_a_simulated_time_needs_a_simulations_clock(shop: Any, start: Start) -> None:
    shop.publish("a")
    real = start(home={"clock": "wall"})
    for path, body in (("/v1/recommend", {"user_id": "u"}), ("/v1/feedback", {"events": []})):
        answer = real.post(path, json=body, headers={"X-Ratchet-Now": T})
        assert answer.status_code == 403
        assert "clock" in answer.json()["detail"]
    assert real.post("/v1/recommend", json={"user_id": "u"}).status_code == 200
    answer = start().post("/v1/recommend", json={"user_id": "u"}, headers={"X-Ratchet-Now": "yesterday"})
    assert (answer.status_code, "X-Ratchet-Now" in answer.json()["detail"]) == (422, True)


def test_without_the_header_a_simulation_stands_at_its_own_time(shop: Any, start: Start) -> None:
    shop.publish("a")
    set_clock(shop.home, datetime(2026, 1, 9, 12, tzinfo=UTC))
    client = start()
    assert client.post("/v1/recommend", json={"user_id": "u"}).status_code == 200
    client.close()
    shown = [row["shown_time"] for row in shop.logged("exposures")]
    assert [time[:16] for time in shown] == ["2026-01-09T12:00"]


@pytest.mark.parametrize(
    "user", ["ü", "👩‍👩‍👧", "\u202eabc", "a\x00b", " ", "'; DROP TABLE events; --", "=cmd|'/C calc'!A0"]
)
def test_ids_may_be_any_unicode_and_never_reach_the_log(shop: Any, start: Start, user: str) -> None:
    shop.publish("a")
    answer = ask(start(), user)
    pseudonym = shop.logged("exposures")[0]["user"]
    assert pseudonym == Keys.load(shop.home.keys).user(user)
    if user.strip():
        assert user not in json.dumps([answer, shop.logged("exposures")], ensure_ascii=False)


def test_the_behaviours_are_those_of_the_events_table() -> None:
    assert set(schemas.ITEM_BEHAVIOURS) == BEHAVIOURS


def test_the_api_describes_itself(shop: Any, start: Start) -> None:
    shop.publish("a")
    described = start().get("/openapi.json").json()
    asked = {"/v1/recommend", "/v1/recommend/batch", "/v1/feedback"}
    asked |= {"/v1/users/preferences", "/v1/users/preferences/read", "/v1/admin/kill"}
    assert asked | {"/healthz", "/readyz", "/metrics"} == set(described["paths"])
    referred = set()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            referred.update(value for key, value in node.items() if key == "$ref")
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(described)
    stated = {f"#/components/{kind}/{name}" for kind, parts in described["components"].items() for name in parts}
    assert referred == {one for one in stated if "/securitySchemes/" not in one}
    body = described["paths"]["/v1/recommend"]["post"]["requestBody"]
    assert body["content"]["application/json"]["schema"]["$ref"].endswith("/RecommendRequest")
