"""New items between releases, as the recommend API shows them."""

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import onnx
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relations.errors import DataRejected
from serving.networks.engine import Engine
from serving.networks.histories import Asked
from serving.networks.queries import Query, mask_of
from stores.bundle import Bundle
from stores.deltas import Change, read_delta, write_delta
from stores.home import Home
from stores.side_index import NEVER, InForce, NewItem, SideIndex, publish, write_side_index

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def side_of(bundle: Bundle, items: Iterable[str], *, seed: int = 0, width: int = 16, bias: float = 0.0) -> SideIndex:
    ids = sorted(items)
    vector_RD = np.random.default_rng(seed).normal(size=(len(ids), width)).astype(np.float32)
    rows = tuple(NewItem(item, 0, True) for item in ids)
    return SideIndex(bundle.digest, rows, vector_RD, np.full(len(ids), bias, np.float32))


def put(home: Home, *indexes: SideIndex, version: int = 1, without: Iterable[str] = ()) -> list[str]:
    """In force: these, and nothing for the releases in `without`; their digests."""
    written = [write_side_index(index, home.side_indexes, items_version=version, now=NOW) for index in indexes]
    named = {index.base_digest: index.digest for index in written} | dict.fromkeys(without, "")
    publish(home.side_in_force, InForce(version, NEVER, "recipe", named))
    return [index.digest for index in written]


def until(wanted: Callable[[], Any]) -> Any:
    """The watcher looks every 0.05 s."""
    for _ in range(600):
        if found := wanted():
            return found
        time.sleep(0.02)
    raise AssertionError("never came")


def serving(client: TestClient) -> dict[str, Any] | None:
    found: dict[str, Any] | None = client.get("/readyz").json()["new_items"]
    return found


def recommend(client: TestClient, user: str = "u", k: int = 10, **rest: Any) -> dict[str, Any]:
    history = [{"item_id": "item-03", "behaviour": "view", "event_time": "2025-12-31T00:00:00Z"}]
    answer = client.post("/v1/recommend", json={"user_id": user, "k": k, "events": history, **rest})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(1, 30),
    excluded=st.sets(st.integers(0, 26), max_size=20),
    forbidden=st.sets(st.integers(0, 26), max_size=20),
    bias=st.sampled_from([0.0, -100.0, 100.0]),
    tie=st.booleans(),
)
def test_both_are_ranked_as_one_list(
    engines: tuple[Engine, Engine, SideIndex], n: int, excluded: set[int], forbidden: set[int], bias: float, tie: bool
) -> None:
    """Against a sort of all 20 + 7 scores by (score, row), without what is excluded or forbidden."""
    bare, _, side = engines
    bias_R = side.bias_R + np.float32(bias)
    side = SideIndex(side.base_digest, side.items, side.vector_RD * np.float32(not tie), bias_R, "x")
    both = bare.with_side(side)
    asked = [
        Query(Asked([4, 2], [1, 1], [9, 5], [[], []])),
        Query(Asked([7, 1], [1, 1], [3, 0], [[], []]), sorted(excluded)),
    ]
    forbidden_N = np.isin(np.arange(27), list(forbidden))
    asked = [query._replace(mask_V1=mask) for mask in [mask_of(forbidden_N)] for query in asked]
    for query, best in zip(asked, both.best(asked, n=n), strict=True):
        (state_BD,) = bare._run(["state"], [query._replace(excluded=(), mask_V1=None)], n=1)
        scores = [*bare.scores(query.asked).tolist(), *(state_BD @ side.vector_RD.T + bias_R)[0].tolist()]
        left = [row for row in range(27) if row not in forbidden and row not in query.excluded]
        wanted = sorted(left, key=lambda row: (-scores[row], row))[:n]
        np.testing.assert_allclose(best.scores, [scores[row] for row in wanted], atol=1e-4)
        near = np.abs(np.subtract.outer(scores, scores))[~np.eye(27, dtype=bool)].min()
        if near > 1e-4 or tie:
            assert best.rows == wanted


@pytest.fixture
def engines(shop: Any) -> tuple[Engine, Engine, SideIndex]:
    bundle = shop.release()
    side = side_of(bundle, [f"new-{n}" for n in range(7)])
    bare = Engine.load(bundle)
    return bare, bare.with_side(side), side


def test_histories_skip_new_items(engines: tuple[Engine, Engine, SideIndex]) -> None:
    from serving.networks.histories import History

    bare, both, _ = engines
    history = History(["item-03", "new-1"], ["view", "view"], [0, 1])
    assert list(both.codes(history, now_us=2).items_L) == list(bare.codes(history, now_us=2).items_L) == [4]


def test_what_does_not_fit_is_refused(engines: tuple[Engine, Engine, SideIndex], shop: Any) -> None:
    bare = engines[0]
    with pytest.raises(DataRejected, match="vectors of 3 for states of 16"):
        bare.with_side(side_of(shop.release(), ["new"], width=3))
    with pytest.raises(DataRejected, match="'item-03', which the release has"):
        bare.with_side(side_of(shop.release(), ["item-03"]))


def test_a_new_item_is_shown_and_the_exposure_says_by_what(shop: Any, start: Any) -> None:
    bundle = shop.release()
    shop.crown(shop.version(bundle))
    client = start(policy={"exploration": 0.0})
    before = recommend(client)
    (digest,) = put(shop.home, side_of(bundle, ["new-1", "nouveau-é"], bias=1000.0))
    assert until(lambda: serving(client)) == {"digest": digest, "items": 2}
    answer = recommend(client)
    assert {each["item_id"] for each in answer["items"][:2]} == {"new-1", "nouveau-é"}
    assert [each["item_id"] for each in answer["items"][2:]] == [each["item_id"] for each in before["items"][:8]]
    assert answer["model"]["digest"] == bundle.digest
    client.__exit__(None, None, None)
    rows = shop.logged("exposures")
    first, second = ([row for row in rows if row["request_id"] == each["request_id"]] for each in (before, answer))
    assert {row["served_by"] for row in first} == {"onnxruntime/CPUExecutionProvider"}
    assert {row["served_by"] for row in second} == {f"onnxruntime/CPUExecutionProvider+side:{digest[:12]}"}
    assert first[0]["candidate_set_hash"] != second[0]["candidate_set_hash"]


def test_seen_and_excluded_new_items_are_not_shown(shop: Any, start: Any) -> None:
    bundle = shop.release()
    shop.crown(shop.version(bundle))
    put(shop.home, side_of(bundle, ["new-1", "new-2", "new-3"], bias=1000.0))
    client = start(policy={"exploration": 0.0})
    until(lambda: serving(client))
    history = [{"item_id": item, "behaviour": "view", "event_time": "2025-12-31T00:00:00Z"}
               for item in ("item-03", "new-1")]  # fmt: skip
    shown = [each["item_id"] for each in recommend(client, events=history, exclude=["new-2"])["items"]]
    assert shown[0] == "new-3"
    assert not {"new-1", "new-2"} & set(shown)


def test_the_next_index_takes_over_and_a_damaged_one_leaves_the_release_alone(shop: Any, start: Any) -> None:
    bundle = shop.release()
    shop.crown(shop.version(bundle))
    (first,) = put(shop.home, side_of(bundle, ["new-1"], bias=1000.0))
    client = start(policy={"exploration": 0.0})
    assert until(lambda: serving(client))["digest"] == first
    (second,) = put(shop.home, side_of(bundle, ["new-1", "new-2"], bias=1000.0), version=2)
    until(lambda: (serving(client) or {}).get("digest") == second)
    third = write_side_index(side_of(bundle, ["new-9"]), shop.home.side_indexes, items_version=3, now=NOW)
    damaged = shop.home.side_indexes / third.digest / "vectors.bin"
    damaged.write_bytes(bytes(len(damaged.read_bytes())))
    publish(shop.home.side_in_force, InForce(3, NEVER, "recipe", {bundle.digest: third.digest}))
    until(lambda: serving(client) is None)
    assert "does not match its SHA-256" in client.get("/readyz").json()["problems"][0]
    assert len(recommend(client)["items"]) == 10
    shop.home.side_in_force.write_text("{")
    until(lambda: "which side indexes" in "".join(client.get("/readyz").json()["problems"]))
    put(shop.home, side_of(bundle, ["new-1"]), version=4)
    until(lambda: serving(client))


def test_in_a_trial_both_arms_have_new_items_or_none(shop: Any, start: Any) -> None:
    champion, challenger = shop.release(seed=1), shop.release(seed=2)
    shop.crown(shop.version(champion))
    put(shop.home, side_of(champion, ["new-1"], bias=1000.0))
    client = start(policy={"exploration": 0.0})
    until(lambda: serving(client))
    shop.trial(shop.version(challenger), allocation=0.5)
    until(lambda: serving(client) is None)  # the challenger's is not built yet
    arms = {answer["model"]["arm"]: answer for n in range(40) for answer in [recommend(client, f"u{n}")]}
    assert {"champion", "challenger"} <= arms.keys()
    assert all(each["item_id"] != "new-1" for answer in arms.values() for each in answer["items"])
    put(shop.home, side_of(champion, ["new-1"], bias=1000.0), side_of(challenger, ["new-1"], bias=1000.0), version=2)
    until(lambda: serving(client))
    for n in range(40):
        assert recommend(client, f"u{n}")["items"][0]["item_id"] == "new-1"
    put(shop.home, side_of(champion, ["new-1"], bias=1000.0), version=3, without=[challenger.digest])
    treated = next(user for n in range(40) if recommend(client, user := f"u{n}")["model"]["arm"] == "challenger")
    until(lambda: recommend(client, treated)["items"][0]["item_id"] != "new-1")  # it has no new items to show
    shown = {(answer["model"]["arm"], answer["items"][0]["item_id"] == "new-1")
             for n in range(40) for answer in [recommend(client, f"u{n}")]}  # fmt: skip
    assert shown == {("champion", True), ("challenger", False)}


def test_under_a_delta_new_items_are_scored_by_its_states(engines: tuple[Engine, Engine, SideIndex]) -> None:
    """Item 3's vector is doubled, so after item 3 alone the state is, and with it a new item's score: bias 0."""
    bare, both, side = engines
    base = bare._bundle
    graph = onnx.load_from_string(base.read("model.onnx"))
    embedding = next(onnx.numpy_helper.to_array(t) for t in graph.graph.initializer if t.name == "embedding")
    change = Change(np.array([4]), {"embedding": embedding[[4]] * np.float32(2)}, {})
    delta = write_delta(change, base, releases=base.folder.parent, sequence=1, recipe="r", attestation={})
    changed = bare.with_delta(read_delta(delta)).with_side(side)
    query = Query(Asked([4], [1], [0], [[]]))
    before, after = (dict(zip(*engine.best([query], n=27)[0][:2], strict=True)) for engine in (both, changed))
    assert before.keys() == after.keys() == set(range(27))
    for row in range(20, 27):
        assert after[row] == pytest.approx(2 * before[row], rel=1e-4)
