"""What a user controls holds from the next answer on, whoever chooses the items."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores.catalogue import Catalogue, publish

Start = Callable[..., TestClient]
T = "2026-01-01T00:00:00Z"
ITEMS = [f"item-{n:02d}" for n in range(20)]
PATH = "/v1/users/preferences"
PATIENT = {"queue_ms": 10_000, "timeout_ms": 10_000}
GREEDY = {"exploration": 0.0}


def eye(n: int = 20) -> dict[str, np.ndarray]:
    """A network whose best item after a history ending in row r is row r + 1, the next one r + 2, …"""
    distance = (np.arange(n)[None, :] - np.arange(n)[:, None] - 1) % n
    return {"embedding_IxD": np.vstack([np.zeros(n), np.eye(n)]), "output_DxV": -distance.astype(np.float32)}


def ask(client: TestClient, user: str = "u", **body: Any) -> Any:
    answer = client.post("/v1/recommend", json={"user_id": user, "k": 3, **body}, headers={"X-Ratchet-Now": T})
    assert answer.status_code == 200, answer.text
    return answer.json()


def items(client: TestClient, user: str = "u", **body: Any) -> list[str]:
    return [item["item_id"] for item in ask(client, user, **body)["items"]]


def click(client: TestClient, *clicked: str, user: str = "u") -> None:
    events = [{"user_id": user, "item_id": item, "behaviour": "click", "event_time": T} for item in clicked]
    assert client.post("/v1/feedback", json={"events": events}, headers={"X-Ratchet-Now": T}).status_code == 200


def prefer(client: TestClient, user: str = "u", **wishes: Any) -> Any:
    stated = {"user_id": user, "personalised": True, "hidden_items": [], "hidden_categories": []}
    answer = client.put(PATH, json=stated | wishes)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_preferences_are_replaced_whole_and_read_back(shop: Any, start: Start) -> None:
    shop.publish("a")
    client = start(serving=PATIENT)
    nobody = {"personalised": True, "hidden_items": [], "hidden_categories": [], "set_time": None}
    assert client.post(f"{PATH}/read", json={"user_id": "u"}).json() == nobody
    set_ = prefer(client, hidden_items=["b", "a", "ü", "b"], hidden_categories=["x"])
    assert (set_["hidden_items"], set_["hidden_categories"], set_["personalised"]) == (["a", "b", "ü"], ["x"], True)
    assert client.post(f"{PATH}/read", json={"user_id": "u"}).json() == set_
    again = prefer(client, personalised=False)
    assert (again["hidden_items"], again["personalised"]) == ([], False)
    assert again["set_time"] > set_["set_time"]
    assert client.post(f"{PATH}/read", json={"user_id": "v"}).json() == nobody
    for body, told in (
        ({"user_id": "u", "personalised": True}, "hidden_items"),  # what is left out would be reset without a word
        ({"user_id": "u", "personalised": "no", "hidden_items": [], "hidden_categories": []}, "personalised"),
        ({"user_id": "u", "personalised": True, "hidden_items": ["x"] * 1_001, "hidden_categories": []}, "1000"),
    ):
        refused = client.put(PATH, json=body)
        assert (refused.status_code, told in refused.json()["detail"]) == (422, True)


def test_without_personalisation_the_answer_is_a_newcomers(shop: Any, start: Start) -> None:
    attribute = {"name": "age", "kind": "number", "source": "user", "values": [], "edges": [30.0]}
    shop.crown(**eye(), attributes=[attribute])
    shop.publish(*reversed(ITEMS))
    client = start(policy=GREEDY, serving=PATIENT)
    click(client, "item-03")
    assert items(client) == ["item-04", "item-05", "item-06"]
    newcomer = items(client, "newcomer")
    prefer(client, personalised=False)
    assert items(client) == newcomer
    stated = [{"item_id": "item-09", "behaviour": "click", "event_time": T}]
    assert items(client, events=stated, attributes={"age": 40}) == newcomer
    # What was seen is history too, so it may be shown; what the request itself leaves out stays out.
    click(client, *newcomer)
    assert items(client) == newcomer
    assert newcomer[0] not in items(client, exclude=newcomer[:1])
    assert ask(client)["model"]["version"] == 1  # the champion answers
    prefer(client)
    assert set(items(client)).isdisjoint(newcomer)  # back on, all that was told meanwhile counts


def test_feedback_is_taken_without_personalisation(shop: Any, start: Start) -> None:
    shop.publish("a", "b")
    client = start(serving=PATIENT)
    prefer(client, personalised=False)
    click(client, "a")
    assert [row["item_id"] for row in shop.logged("feedback")] == ["a"]


@pytest.mark.parametrize("who", ["model", "popularity"])
def test_hidden_items_and_categories_are_gone_from_the_next_answer(shop: Any, start: Start, who: str) -> None:
    if who == "model":
        shop.crown(**eye())
    shop.publish(*ITEMS)
    publish(shop.home.catalogue, Catalogue.of({item: (True, None, ["toys"] * (n % 2)) for n, item in enumerate(ITEMS)}))
    client = start(policy=GREEDY, serving=PATIENT)
    first = items(client)
    assert items(client) == first
    prefer(client, hidden_items=[first[0], "no such item"], hidden_categories=["toys", "no such category"])
    left = [item for n, item in enumerate(ITEMS) if n % 2 == 0 and item != first[0]]
    assert set(items(client, k=20)) == set(left)
    assert len(items(client, "other", k=20)) == 20
    assert set(items(client, k=20, filters={"categories": ["toys"]})) == set()
    prefer(client)
    assert items(client) == first


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    hidden=st.sets(st.sampled_from(ITEMS)),
    seen=st.lists(st.sampled_from(ITEMS), max_size=4),
    personalised=st.booleans(),
    k=st.integers(1, 20),
)
def test_what_is_hidden_is_never_shown(
    shop: Any, start: Start, hidden: set[str], seen: list[str], personalised: bool, k: int
) -> None:
    """Whatever was seen, and with exploration at every slot."""
    client = _client_of(shop, start)
    user = f"{sorted(hidden)}{seen}{personalised}{k}"
    click(client, *seen, user=user)
    prefer(client, user, hidden_items=sorted(hidden), personalised=personalised)
    shown = items(client, user, k=k)
    assert hidden.isdisjoint(shown)
    out = hidden | set(seen) if personalised else hidden
    assert len(shown) == min(k, 20 - len(out))


def _client_of(shop: Any, start: Start) -> TestClient:
    """One app for all examples."""
    if shop.versions == 0:
        shop.crown(**eye())
        shop.publish(*ITEMS)
        shop.client = start(policy={"exploration": 0.9}, serving=PATIENT)
    client: TestClient = shop.client
    return client


def test_the_answer_cache_knows_of_wishes(shop: Any, start: Start) -> None:
    shop.crown(**eye())
    client = start(policy=GREEDY, serving={"cache_seconds": 60, **PATIENT})
    click(client, "item-03")
    assert items(client) == items(client) == ["item-04", "item-05", "item-06"]
    prefer(client, hidden_items=["item-05"])
    assert items(client) == ["item-04", "item-06", "item-07"]
    prefer(client, personalised=False)
    assert items(client) == items(client, "newcomer")
    prefer(client)
    assert items(client) == ["item-04", "item-05", "item-06"]
