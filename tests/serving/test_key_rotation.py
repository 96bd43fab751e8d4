"""A key rotated, and a user forgotten, under a running server."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient

from stores.delivery import ingest_lock
from stores.privacy import FORGET, ROTATE, Order, carry_out
from stores.pseudonyms import Keys

Start = Callable[..., TestClient]
T = "2026-01-01T00:00:00Z"
CLICK = {"user_id": "u", "item_id": "a", "behaviour": "click", "event_time": T}
RECEIPT = {"id": "key-2", "asked": T, "asked_by": "ada", "reason": "yearly"}


@pytest.fixture
def client(shop: Any, start: Start) -> TestClient:
    shop.publish("a", "b", "c")
    return start(policy={"exploration": 0.0})


def tell(client: TestClient, *events: Any) -> dict[str, Any]:
    answer = client.post("/v1/feedback", json={"events": events}, headers={"X-Ratchet-Now": T})
    assert answer.status_code == 200, answer.text
    return answer.json()


def shown(client: TestClient, user: str = "u") -> list[dict[str, Any]]:
    answer = client.post("/v1/recommend", json={"user_id": user, "k": 3}, headers={"X-Ratchet-Now": T})
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


def items(client: TestClient) -> list[str]:
    return [item["item_id"] for item in shown(client)]


def rotate(shop: Any) -> None:
    with ingest_lock(shop.home):
        carry_out(shop.home, Order(ROTATE, RECEIPT, version=2, pause_seconds=1.5))  # thirty of the server's looks


def test_no_answer_forgets_the_user_while_the_key_changes(shop: Any, client: TestClient) -> None:
    tell(client, CLICK)
    assert items(client) == ["b", "c"]  # what was clicked is left out: the server knows the user
    answers = []
    with ThreadPoolExecutor(1) as elsewhere:
        rotation = elsewhere.submit(rotate, shop)
        while not rotation.done():
            answers.append(items(client))
    rotation.result()
    assert len(answers) > 10
    assert all(answer == ["b", "c"] for answer in [*answers, items(client)])
    assert shop.logged("exposures")[-1]["user"] == Keys.load(shop.home.keys).user("u")
    assert Keys.load(shop.home.keys).user("u").startswith("p2_")


def test_a_user_is_known_between_the_key_and_the_state(shop: Any, client: TestClient) -> None:
    """The new key is in force, and the state is still under the old one."""
    tell(client, CLICK)
    service = client.app.state.service  # type: ignore[attr-defined]
    keys = service.desk.keys
    service.recommender.keys = Keys((*keys.pseudonym, b"2" * 32), keys.event, keys.token)
    assert items(client) == ["b", "c"]


def test_what_was_given_under_the_old_key_counts_under_the_new(shop: Any, client: TestClient) -> None:
    token = shown(client)[0]["token"]
    assert tell(client, CLICK)["accepted"] == 1
    rotate(shop)
    assert tell(client, CLICK) == {"accepted": 0, "duplicate": 1, "refused": []}  # the derived id is as before
    outcome = {"token": token, "user_id": "u", "item_id": "a", "behaviour": "click", "event_time": T}
    assert tell(client, outcome)["accepted"] == 1
    assert [row["user"][:3] for row in shop.logged("feedback")] == ["p1_", "p2_"]
    assert tell(client, {**outcome, "user_id": "v"})["refused"]


def test_what_a_request_wrote_under_the_old_key_is_found_again(shop: Any, client: TestClient) -> None:
    rotate(shop)
    service = client.app.state.service  # type: ignore[attr-defined]
    old = Keys.load(shop.home.keys).history("u")[1]
    service.user_state.absorb([(old, "e1", "a", "click", 1)])  # a request that had begun before
    deadline = time.monotonic() + 10
    while service.user_state.newest(old, 1):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert items(client) == ["b", "c"]


def test_a_forgotten_user_is_cold_at_once(shop: Any, client: TestClient) -> None:
    tell(client, CLICK)
    names = Keys.load(shop.home.keys).history("u")
    receipt = {**RECEIPT, "id": "r", "kind": FORGET}
    with ingest_lock(shop.home):
        carry_out(shop.home, Order(FORGET, receipt, raw=("u",), pseudonyms=names))
    assert items(client) == ["a", "b", "c"]
