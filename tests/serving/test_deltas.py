"""Deltas in serving: what answers, until when, and what never does."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from fastapi.testclient import TestClient

from model.export import export_graph
from model.network.ranker import Ranker, RankerConfig
from model.served import served_weights
from relations.errors import DataRejected, GateRefused
from serving.networks.engine import Engine
from serving.networks.histories import Asked
from stores.bundle import Bundle, open_bundle, write_bundle
from stores.clock import set_clock
from stores.deltas import Change, Weights, delta_facts, find_change, read_delta, write_delta
from stores.standing_records import DeltaLimits

Start = Callable[..., TestClient]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
T = "2026-01-01T00:00:00Z"
LIMITS = DeltaLimits(deltas=5, rows=20, relative_change=2.0, overlap=0.0)
RECIPE = "r" * 64
HISTORY = [{"item_id": "item-07", "behaviour": "click", "event_time": T}]


def ask(client: TestClient, user: str = "u") -> dict[str, Any]:
    body = {"user_id": user, "k": 3, "events": HISTORY}
    answer = client.post("/v1/recommend", json=body, headers={"X-Ratchet-Now": T})
    assert answer.status_code == 200, answer.text
    return answer.json()


def wait(client: TestClient, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while not holds(state := client.get("/readyz").json()):
        assert time.monotonic() < deadline, state
        time.sleep(0.02)
    return state


def serves(digest: str) -> Callable[[dict[str, Any]], bool]:
    return lambda state: bool(state["champion"]) and state["champion"]["digest"] == digest


def louder(base: Bundle, *, sequence: int = 1, factor: float = 1.5) -> Bundle:
    """A delta of the linear network: the vector of item 7 is `factor` times as long."""
    graph = onnx.load_from_string(base.read("model.onnx"))
    embedding = next(onnx.numpy_helper.to_array(t) for t in graph.graph.initializer if t.name == "embedding")
    return write_delta(
        Change(np.array([8]), {"embedding": embedding[[8]] * np.float32(factor)}, {}),
        base,
        releases=base.folder.parent,
        sequence=sequence,
        recipe=RECIPE,
        attestation={},
    )


@pytest.fixture
def base(shop: Any) -> Bundle:
    return open_bundle(shop.home.releases, shop.crown())


def allow(shop: Any, limits: DeltaLimits = LIMITS) -> None:
    shop.ledger.allow_deltas(
        recipe=RECIPE, limits=limits, expires=NOW + timedelta(hours=1), actor="ann", reason="sale", now=NOW
    )


def record(shop: Any, bundle: Bundle, **stated: Any) -> str:
    shop.ledger.record_delta(replace(delta_facts(bundle), **stated), now=NOW)
    return bundle.digest


def test_a_delta_serves_and_its_withdrawal_takes_it_back(shop: Any, start: Start, base: Bundle) -> None:
    allow(shop)
    set_clock(shop.home, NOW)
    client = start(serving={"poll_seconds": 0.02})
    before = ask(client)
    assert before["model"]["digest"] == base.digest
    delta = record(shop, louder(base))
    state = wait(client, serves(delta))
    assert state["champion"] == {"version": 1, "digest": delta, "epoch": 1}
    assert (state["delta"]["sequence"], state["delta"]["base_digest"], state["problems"]) == (1, base.digest, [])
    after = ask(client)
    assert after["model"] == {"version": 1, "digest": delta, "arm": "champion", "trial": None}
    scores = [{item["item_id"]: item["score"] for item in answer["items"]} for answer in (before, after)]
    both = scores[0].keys() & scores[1].keys()  # an answer may hold an item that is explored
    assert len(both) > 1
    assert all(scores[1][item] == pytest.approx(1.5 * scores[0][item]) for item in both)  # linear in one item's vector
    newer = record(shop, louder(base, sequence=2, factor=2.0))
    state = wait(client, serves(newer))
    assert state["loaded"] == sorted([base.digest, newer]), "the base stays warm, the former delta does not"
    shop.ledger.withdraw_deltas(actor="ann", reason="enough", now=NOW)
    assert wait(client, serves(base.digest))["delta"] is None
    assert ask(client)["items"] == before["items"] or ask(client)["model"]["digest"] == base.digest
    rows = shop.logged("exposures")
    assert [row["digest"] for row in rows[:6]] == [base.digest] * 3 + [delta] * 3
    assert {(row["model_version"], row["assignment_reason"], row["error"]) for row in rows} == {(1, "no trial", None)}


def test_expiry_is_kept_by_serving_alone(shop: Any, start: Start, base: Bundle) -> None:
    allow(shop)
    set_clock(shop.home, NOW)
    delta = record(shop, louder(base))
    client = start(serving={"poll_seconds": 0.02})
    assert serves(delta)(client.get("/readyz").json())
    set_clock(shop.home, NOW + timedelta(hours=1))
    state = wait(client, serves(base.digest))
    assert (state["delta"], state["problems"]) == (None, [])


def test_a_damaged_delta_leaves_the_base_serving(shop: Any, start: Start, base: Bundle) -> None:
    allow(shop)
    set_clock(shop.home, NOW)
    bundle = louder(base)
    (bundle.folder / "table-0.bin").write_bytes(b"\0" * 64)
    record(shop, bundle)
    client = start()
    state = client.get("/readyz").json()
    assert state["champion"]["digest"] == base.digest
    assert "delta 1: " in state["problems"][0]
    assert "damaged" in state["problems"][0]
    ask(client)
    assert {row["assignment_reason"] for row in shop.logged("exposures")} == {"no trial"}, "the base is the champion"
    assert shop.ledger.standing(now=NOW) is not None, "a disk's fault is no guardrail"


@pytest.mark.parametrize(
    ("limits", "stated", "named"),
    [
        ({"relative_change": 0.2}, {"relative_change": 0.1}, "relative_change: "),
        ({"rows": 0}, {"rows": 0}, "rows: 1 > 0"),
        ({"overlap": 1.0}, {}, "overlap: "),
    ],
)
def test_a_delta_that_is_not_what_it_claims_ends_the_approval(
    shop: Any, start: Start, base: Bundle, limits: dict[str, Any], stated: dict[str, Any], named: str
) -> None:
    allow(shop, replace(LIMITS, **limits))
    set_clock(shop.home, NOW)
    digest = record(shop, louder(base, factor=-0.9 if "overlap" in limits else 1.5), **stated)
    client = start(serving={"poll_seconds": 0.02})
    state = wait(client, lambda state: state["problems"] == [])  # the next look finds no approval
    assert state["champion"]["digest"] == base.digest
    assert shop.ledger.standing(now=NOW) is None
    assert shop.ledger.standings()[-1].ended_reason.startswith(f"delta 1 ({digest}): {named}")
    assert shop.ledger.verify() == []


def test_a_delta_may_be_a_challenger_like_any_version(shop: Any, start: Start, base: Bundle) -> None:
    bundle = louder(base)
    shop.trial(shop.version(bundle), allocation=0.999)
    client = start()
    assert client.get("/readyz").json()["problems"] == []
    assert bundle.digest in {ask(client, f"user {n}")["model"]["digest"] for n in range(4)}


def test_a_delta_of_another_base_is_refused(shop: Any, base: Bundle) -> None:
    other = Engine.load(shop.release(seed=9))
    with pytest.raises(DataRejected, match="is on base"):
        other.with_delta(read_delta(louder(base)))


def test_scores_that_are_not_finite_break_a_guardrail(base: Bundle) -> None:
    graph = onnx.load_from_string(base.read("model.onnx"))
    held = {t.name: onnx.numpy_helper.to_array(t) for t in graph.graph.initializer}
    large = Change(np.array([1, 2]), {"embedding": np.full((2, 16), 3e38, np.float32)}, {"output": held["output"] * 9})
    bundle = write_delta(large, base, releases=base.folder.parent, sequence=1, recipe=RECIPE, attestation={})
    with pytest.raises(GateRefused, match="not finite"):
        Engine.load(base).with_delta(read_delta(bundle))


@pytest.mark.parametrize("temperature", [0.0, 0.1])
def test_a_trained_networks_delta_scores_as_the_network(
    temperature: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From torch's weights before and after to ONNX Runtime's scores; with weights in the graph and beside it."""
    monkeypatch.chdir(tmp_path)  # what lies beside a graph is not looked for in the working directory
    torch.manual_seed(0)
    config = RankerConfig(items=30, behaviours=1, width=16, blocks=1, heads=2, max_history=6, temperature=temperature)
    ranker = Ranker(config).eval()
    with torch.no_grad():
        for weight in ranker.parameters():
            weight += 0.1 * torch.randn_like(weight)
    before, graph = Weights(*served_weights(ranker)), export_graph(ranker)
    with torch.no_grad():
        ranker.item_table.weight[[3, 7]] += 0.5
        ranker.item_bias[4] += 1.0
        for name, weight in ranker.named_parameters():
            if name.startswith(("blocks", "final_norm", "position_table")):
                weight += 0.01 * torch.randn_like(weight)
    asked = Asked([3, 9, 7], [1, 1, 1], [50, 20, 0], [[], [], []])
    with torch.no_grad():
        expected = ranker(*(torch.tensor([codes]) for codes in asked[:-1]))[0].numpy()
    for beside in (False, True):
        base = _release(graph, tmp_path, beside=beside)
        change = find_change(base, before=before, after=Weights(*served_weights(ranker)))
        assert change.rows_R.tolist() == [3, 4, 7]
        bundle = write_delta(change, base, releases=tmp_path, sequence=1, recipe=RECIPE, attestation={})
        engine = Engine.load(base)
        assert engine.with_delta(read_delta(bundle)).scores(asked) == pytest.approx(expected, abs=1e-4)
        assert not np.allclose(engine.scores(asked), expected, atol=1e-2), "the base's engine is as it was"


def _release(graph: onnx.ModelProto, folder: Path, *, beside: bool) -> Bundle:
    files = folder / f"files-{beside}"
    files.mkdir()
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)  # saving moves the weights out of it
    onnx.save_model(
        copy,
        files / "model.onnx",
        save_as_external_data=beside,
        location="model.onnx.data",
        size_threshold=1024,  # as the exporter; smaller ones stay in the graph
    )
    items = ", ".join(f'"item-{n:02d}"' for n in range(30))
    (files / "vocabulary.json").write_text(f'{{"items": [{items}]}}')
    (files / "features.json").write_text(
        '{"max_history": 6, "behaviours": ["<pad>", "view"], '
        '"inputs": ["items", "behaviours", "ages", "mask", "excluded", "k"]}'
    )
    return write_bundle(files, describe={"kind": "full"}, releases=folder, attestation={})
