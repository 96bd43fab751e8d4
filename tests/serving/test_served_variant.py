"""Which form of a release answers: the one that the settings name, or none."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fastapi.testclient import TestClient

from model.compression.quantising import dynamic_int8
from relations.errors import DataRejected
from serving.networks.engine import Engine
from serving.networks.histories import Asked
from serving.networks.queries import Query
from stores.bundle import Bundle, write_bundle
from stores.deltas import Change, read_delta, write_delta

ASKED = Asked([3, 7], [1, 1], [50, 5], [[], []])


def with_int8(shop: Any, *, named: str | None = "model.int8.onnx") -> Bundle:
    """A release of the shop with an int8 form beside it; `named` by the manifest, None: by nobody."""
    plain = shop.release()
    folder: Path = shop.scratch / "forms"
    shutil.copytree(plain.folder, folder, ignore=shutil.ignore_patterns("manifest.json", "attestation.json"))
    graph = dynamic_int8(onnx.load_from_string(plain.read("model.onnx")))
    (folder / "model.int8.onnx").write_bytes(graph.SerializeToString())
    forms = {"int8": {"file": named, "precision": "int8", "state": "release"}} if named else {}
    describe = {name: value for name, value in plain.manifest.items() if name not in ("digest", "files", "format")}
    return write_bundle(folder, describe=describe | {"variants": forms}, releases=shop.home.releases, attestation={})


def test_the_named_form_answers_nearly_as_the_network_does(shop: Any) -> None:
    bundle = with_int8(shop)
    whole, small = (Engine.load(bundle, variant=name) for name in ("fp32", "int8"))
    ours, theirs = whole.scores(ASKED), small.scores(ASKED)
    assert not np.array_equal(ours, theirs)
    np.testing.assert_allclose(ours, theirs, atol=0.1 * float(np.abs(ours).max()))
    assert (whole.variant, small.variant) == ("fp32", "int8")
    (best,) = small.best([Query(ASKED, excluded=[int(theirs.argmax())])], n=20)
    assert best.rows == np.argsort(-theirs, kind="stable")[1:].tolist()


def test_a_release_without_the_form_is_refused_and_says_what_it_has(shop: Any) -> None:
    bundle = with_int8(shop)
    with pytest.raises(DataRejected, match=r'variant = "fp16", and this release has fp32, int8; release a model with'):
        Engine.load(bundle, variant="fp16")
    with pytest.raises(DataRejected, match=r'variant = "int8", and this release has fp32;'):
        Engine.load(shop.release(seed=9), variant="int8")


def test_only_what_the_manifest_holds_is_opened(shop: Any) -> None:
    with pytest.raises(DataRejected, match=r"no file '\.\./model\.int8\.onnx'"):
        Engine.load(with_int8(shop, named="../model.int8.onnx"), variant="int8")


def test_damage_in_the_other_form_is_found(shop: Any) -> None:
    bundle = with_int8(shop)
    file = bundle.folder / "model.int8.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataRejected, match="changed since it was verified"):
        Engine.load(bundle, variant="int8")
    Engine.load(bundle)


def test_deltas_are_for_the_float32_network(shop: Any) -> None:
    bundle = with_int8(shop)
    rows = np.array([1, 4])
    change = Change(rows, {"embedding": np.full((2, 16), 0.5, np.float32)}, {})
    delta = read_delta(
        write_delta(change, bundle, releases=shop.home.releases, sequence=1, recipe="0" * 64, attestation={})
    )
    Engine.load(bundle).with_delta(delta)
    # not GateRefused, which would end the standing approval
    with pytest.raises(DataRejected, match=r'changes float32 weights, and \[serving\] variant = "int8" serves'):
        Engine.load(bundle, variant="int8").with_delta(delta)


def test_exposures_name_the_form_and_a_release_without_it_serves_as_trained_and_says_so(
    shop: Any, start: Callable[..., TestClient]
) -> None:
    digest = shop.crown(shop.version(with_int8(shop)))
    client = start(serving={"variant": "int8"})
    asked = {"user_id": "ada", "k": 3, "events": [{"item_id": "item-03", "behaviour": "view", "event_time": 1}]}
    answer = client.post("/v1/recommend", json=asked)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"]["digest"] == digest
    assert {row["served_by"] for row in shop.logged("exposures")} == {"onnxruntime/CPUExecutionProvider/int8"}
    service = client.app.state.service  # type: ignore[attr-defined]
    shop.trial(shop.version(seed=5))  # a challenger that has no such form
    service.watcher.refresh()
    snapshot = service.watcher.current
    assert snapshot.champion.engine.variant == "int8"
    assert snapshot.challengers["challenger"].engine.variant == "fp32"
    assert snapshot.problems == (
        "version 2: [serving] variant = 'int8', which its release does not have; fp32 serves. Its attestation says why",
    )
