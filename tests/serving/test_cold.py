"""Users without a history: who answers them, and what their first events change, through the real app."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from model.graph import add_best

Start = Callable[..., TestClient]
T = "2026-01-01T00:00:00Z"
GREEDY = {"exploration": 0.0}
ITEMS = 20


def ring(*, nobody: int) -> dict[str, np.ndarray]:
    """After item n alone item n + 1 is best, then n + 2 …; without a history item `nobody`, then the one after it …

    After several events the distances are averaged.
    """
    distance = (np.arange(ITEMS)[None, :] - np.arange(ITEMS)[:, None]) % ITEMS
    rows = [np.eye(ITEMS)[nobody], *np.roll(np.eye(ITEMS), 1, axis=1)]
    return {"embedding_IxD": np.stack(rows), "output_DxV": -distance.astype(np.float32)}


def ask(client: TestClient, user: str, **body: Any) -> list[str]:
    answer = client.post("/v1/recommend", json={"user_id": user, "k": 2, **body}, headers={"X-Ratchet-Now": T})
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]


def tell(client: TestClient, user: str, item: str, at: str = T) -> None:
    event = {"user_id": user, "item_id": item, "behaviour": "click", "event_time": at}
    answer = client.post("/v1/feedback", json={"events": [event]}, headers={"X-Ratchet-Now": at})
    assert answer.json()["accepted"] == 1, answer.text


def test_a_newcomer_gets_what_first_events_taught(shop: Any, start: Start) -> None:
    shop.publish("item-15", "item-16")
    digest = shop.crown(**ring(nobody=7))
    client = start(policy=GREEDY)
    assert ask(client, "ann") == ["item-07", "item-08"]
    row = shop.logged("exposures")[-1]
    assert (row["digest"], row["policy"], row["assignment_reason"]) == (digest, "epsilon-greedy", "no trial")
    assert ask(client, "ann", exclude=["item-07"]) == ["item-08", "item-09"]
    assert ask(client, "ann", events=[{"item_id": "unheard of", "behaviour": "click", "event_time": T}]) == [
        "item-07",
        "item-08",
    ]


def test_the_popularity_list_answers_newcomers_where_the_settings_say_so(shop: Any, start: Start) -> None:
    shop.publish("item-15", "item-16")
    shop.crown(**ring(nobody=7))
    client = start(policy=GREEDY | {"newcomers": "popularity"})
    assert ask(client, "ann") == ["item-15", "item-16"]
    assert shop.logged("exposures")[-1]["policy"] == "epsilon-greedy/popularity"
    tell(client, "ann", "item-03")
    assert ask(client, "ann") == ["item-04", "item-05"]


def test_a_first_click_changes_the_next_answer_and_nobody_elses(shop: Any, start: Start) -> None:
    shop.publish("item-15")
    digest = shop.crown(**ring(nobody=7))
    client = start(policy=GREEDY)
    assert ask(client, "ann") == ask(client, "bob") == ["item-07", "item-08"]
    tell(client, "ann", "item-03")
    assert ask(client, "ann") == ["item-04", "item-05"]
    assert ask(client, "bob") == ["item-07", "item-08"]
    # A second one counts beside the first: after 3 and 11 the mean distance from 12 on is the least but for what is
    # seen. Item 12: (8 + 0) / 2 = 4, item 4: (0 + 12) / 2 = 6, item 13: 5.
    tell(client, "ann", "item-11", at="2026-01-01T00:00:01Z")
    assert ask(client, "ann") == ["item-12", "item-13"]
    assert {row["digest"] for row in shop.logged("exposures")} == {digest}


def test_a_click_with_its_token_counts_too(shop: Any, start: Start) -> None:
    shop.crown(**ring(nobody=7))
    client = start(policy=GREEDY)
    shown = client.post("/v1/recommend", json={"user_id": "ann", "k": 2}, headers={"X-Ratchet-Now": T}).json()["items"]
    second = shown[1]
    event = {"token": second["token"], "user_id": "ann", "item_id": second["item_id"], "behaviour": "click"}
    told = client.post("/v1/feedback", json={"events": [event]}, headers={"X-Ratchet-Now": T})
    assert told.json()["accepted"] == 1, told.text
    assert ask(client, "ann") == ["item-09", "item-10"]  # item-08 was clicked


@pytest.mark.parametrize(("said", "best"), [({}, "item-07"), ({"kind": "a"}, "item-10"), ({"kind": "new"}, "item-07")])
def test_newcomers_of_other_attributes_get_other_answers(
    shop: Any, start: Start, said: dict[str, str], best: str
) -> None:
    """Known value "a" has code 2, an unknown value 1; the network below adds its vectors by code."""
    kind = {"name": "kind", "source": "user", "kind": "category", "values": ["a"]}
    shop.crown(graph=told_apart(7, 10), attributes=[kind])
    assert ask(start(policy=GREEDY), "ann", attributes=said)[0] == best


def told_apart(nobody: int, of_a: int) -> bytes:
    """scores = one row of a table, chosen by the newest position's attribute code; a history does not matter."""
    from onnx import TensorProto, helper, numpy_helper

    table = np.zeros((3, ITEMS + 1), dtype=np.float32)
    table[[0, 1], nobody + 1] = 1
    table[2, of_a + 1] = 1
    shapes = {name: ["batch", "length"] for name in ("items", "behaviours", "ages")} | {
        "attributes": ["batch", "length", 1]
    }
    constants = {"table": table, "last": np.array(-1), "first": np.array(0)}
    nodes = [
        helper.make_node("Gather", ["attributes", "last"], ["newest"], axis=1),
        helper.make_node("Gather", ["newest", "first"], ["code"], axis=1),
        helper.make_node("Gather", ["table", "code"], ["state"], axis=0),
        helper.make_node("Add", ["state", "mask"], ["scores"]),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(
        nodes,
        "told_apart",
        [*inputs, helper.make_tensor_value_info("mask", TensorProto.FLOAT, [ITEMS + 1])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", ITEMS + 1]) for name in ("scores", "state")],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = add_best(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))
    return bytes(model.SerializeToString())
