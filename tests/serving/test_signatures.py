"""Serving with trusted keys: what nobody trusted signed is not loaded, and the former model goes on."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fastapi.testclient import TestClient

from stores.bundle import Bundle, open_bundle
from stores.clock import set_clock
from stores.deltas import Change, delta_facts, write_delta
from stores.side_index import NEVER, InForce, NewItem, SideIndex, publish, write_side_index
from stores.signatures import key_id, make_key, sign
from stores.standing_records import DeltaLimits

Start = Callable[..., TestClient]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
RECIPE = "r" * 64


@dataclass(frozen=True)
class Signer:
    file: Path
    public: str

    @staticmethod
    def made(file: Path) -> "Signer":
        return Signer(file, make_key(file))


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer.made(tmp_path / "key")


def wait(client: TestClient, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while not holds(state := client.get("/readyz").json()):
        assert time.monotonic() < deadline, state
        time.sleep(0.02)
    return state


def serves(digest: str) -> Callable[[dict[str, Any]], bool]:
    return lambda state: bool(state["champion"]) and state["champion"]["digest"] == digest


def crowned(shop: Any, *signers: Signer) -> Bundle:
    bundle = open_bundle(shop.home.releases, shop.crown())
    for each in signers:
        sign(bundle, each.file)
    return bundle


def trusting(*signers: Signer) -> dict[str, Any]:
    return {"poll_seconds": 0.02, "trusted_keys": tuple(each.public for each in signers)}


def test_an_unsigned_release_leaves_the_former_one_serving_until_it_is_signed(
    shop: Any, start: Start, signer: Signer
) -> None:
    first = crowned(shop, signer)
    client = start(serving=trusting(signer))
    assert client.get("/readyz").json()["problems"] == []
    shop.trial(shop.version())
    second = shop.promote()
    state = wait(client, lambda state: state["problems"] and state["problems"][0].startswith("champion 2"))
    assert f"{second}: not signed" in state["problems"][0]
    assert state["champion"]["digest"] == first.digest
    answer = client.post("/v1/recommend", json={"user_id": "u", "k": 3}).json()
    assert answer["model"]["digest"] == first.digest
    sign(open_bundle(shop.home.releases, second), signer.file)  # found without a restart
    assert wait(client, serves(second))["problems"] == []


def test_an_unsigned_first_champion_leaves_popularity(shop: Any, start: Start, signer: Signer) -> None:
    shop.publish(*shop.items)
    crowned(shop)
    client = start(serving=trusting(signer))
    assert "not signed" in client.get("/readyz").json()["problems"][0]
    assert client.post("/v1/recommend", json={"user_id": "u", "k": 3}).json()["model"]["digest"] == "popularity"


def test_who_trusts_nobody_by_name_serves_everything(shop: Any, start: Start) -> None:
    bundle = crowned(shop)
    (bundle.folder / "signature.json").write_text("whatever")
    assert serves(bundle.digest)(start().get("/readyz").json())


def test_a_stranger_signs_in_vain_and_keys_change_with_both_trusted(
    shop: Any, start: Start, signer: Signer, tmp_path: Path
) -> None:
    newer, stranger = Signer.made(tmp_path / "newer"), Signer.made(tmp_path / "stranger")
    first = crowned(shop, signer)
    client = start(serving=trusting(signer, newer))
    assert serves(first.digest)(client.get("/readyz").json())
    bundle = shop.release(seed=9)
    sign(bundle, stranger.file)
    shop.trial(shop.version(bundle))
    state = wait(client, lambda state: bool(state["trial"]) and bool(state["problems"]))
    assert f"signed by the key {key_id(stranger.public)}, which is not trusted" in state["problems"][0]
    assert state["trial"]["loaded"] is False
    sign(bundle, newer.file)
    wait(client, lambda state: state["trial"]["loaded"])
    assert wait(client, serves(first.digest))["problems"] == []


def louder(base: Bundle) -> Bundle:
    graph = onnx.load_from_string(base.read("model.onnx"))
    embedding = next(onnx.numpy_helper.to_array(t) for t in graph.graph.initializer if t.name == "embedding")
    change = Change(np.array([8]), {"embedding": embedding[[8]] * np.float32(1.5)}, {})
    return write_delta(change, base, releases=base.folder.parent, sequence=1, recipe=RECIPE, attestation={})


def test_an_unsigned_delta_leaves_the_base_and_its_standing_approval(shop: Any, start: Start, signer: Signer) -> None:
    base = crowned(shop, signer)
    limits = DeltaLimits(deltas=5, rows=20, relative_change=2.0, overlap=0.0)
    shop.ledger.allow_deltas(
        recipe=RECIPE, limits=limits, expires=NOW + timedelta(hours=1), actor="ann", reason="sale", now=NOW
    )
    set_clock(shop.home, NOW)
    delta = louder(base)
    shop.ledger.record_delta(delta_facts(delta), now=NOW)
    client = start(serving=trusting(signer))
    state = client.get("/readyz").json()
    assert serves(base.digest)(state)
    assert "not signed" in state["problems"][0]
    assert shop.ledger.serving_state().delta is not None, "another server may trust it"
    sign(delta, signer.file)
    assert wait(client, serves(delta.digest))["problems"] == []


def test_a_delta_that_is_a_version_needs_its_base_signed_too(shop: Any, start: Start, signer: Signer) -> None:
    base = shop.release()
    delta = louder(base)
    sign(delta, signer.file)
    shop.publish(*shop.items)
    shop.crown(shop.version(delta))
    client = start(serving=trusting(signer))
    assert f"{base.digest}: not signed" in client.get("/readyz").json()["problems"][0]
    sign(base, signer.file)
    assert wait(client, serves(delta.digest))["problems"] == []


def test_an_unsigned_index_of_new_items_is_not_used(shop: Any, start: Start, signer: Signer) -> None:
    base = crowned(shop, signer)

    def put(version: int) -> str:
        vector_RD = np.full((1, 16), version, np.float32)
        index = SideIndex(base.digest, (NewItem("new", 0, True),), vector_RD, np.zeros(1, np.float32))
        return write_side_index(index, shop.home.side_indexes, items_version=version, now=NOW).digest

    def publish_(digest: str) -> None:
        publish(shop.home.side_in_force, InForce(1, NEVER, "recipe", {base.digest: digest}))

    publish_(put(1))
    client = start(serving=trusting(signer))
    state = client.get("/readyz").json()
    assert (state["new_items"], serves(base.digest)(state)) == (None, True)
    assert "side index" in state["problems"][0]
    assert "not signed" in state["problems"][0]
    signed = put(2)
    sign(open_bundle(shop.home.side_indexes, signed), signer.file)
    publish_(signed)
    assert wait(client, lambda state: bool(state["new_items"]))["problems"] == []
