"""A home with real bundles, a real ledger and the real app; the networks are small enough to know what they say."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fastapi.testclient import TestClient
from onnx import TensorProto, helper, numpy_helper
from prometheus_client.parser import text_string_to_metric_families

from model.graph import add_best
from serving.app import create_app
from serving.choosing.offers import OfferWatch
from serving.choosing.snapshots import Watcher
from serving.networks.side import SideWatch
from stores import popularity
from stores.bundle import Bundle, write_bundle
from stores.home import Home
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.settings import Settings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BEHAVIOURS = ["<pad>", "view", "click", "favourite", "cart", "purchase", "rating", "dwell", "share", "dislike"]


EVENTS = ["items", "behaviours", "ages"]
REQUEST = ["mask", "excluded", "k"]


def linear_network(
    embedding_IxD: np.ndarray,
    output_DxV: np.ndarray,
    behaviours: int,
    *,
    per_second: float = 0.0,
    of_attributes: int = 0,
) -> bytes:
    """A release's graph of a linear network.

    scores[v] = mean over the history of (embedding[item] + 0 · of_behaviour + per_second · age) · output[:, v].

    With `of_attributes` > 0 the sum of an event's attribute codes is added beside the age.
    """
    width = embedding_IxD.shape[1]
    weights = {
        "embedding": embedding_IxD.astype(np.float32),
        "of_behaviour": np.zeros((behaviours, width), np.float32),
        "output": np.pad(output_DxV.astype(np.float32), ((0, 0), (1, 0))),
        "per_second": np.array([per_second], np.float32),
        "last": np.array([2], np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["embedding", "items"], ["item_vectors"]),
        helper.make_node("Gather", ["of_behaviour", "behaviours"], ["behaviour_vectors"]),
        helper.make_node("Add", ["item_vectors", "behaviour_vectors"], ["of_codes"]),
        helper.make_node("Cast", ["ages"], ["seconds"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["seconds", "per_second"], ["weighed"]),
        helper.make_node("Unsqueeze", ["weighed", "last"], ["of_ages"]),
        helper.make_node("Add", ["of_codes", "of_ages"], ["vectors"]),
        helper.make_node("ReduceMean", ["vectors", "axes"], ["state"], keepdims=0),
        helper.make_node("MatMul", ["state", "output"], ["unmasked"]),
        helper.make_node("Add", ["unmasked", "mask"], ["scores"]),
    ]
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "length"]) for n in EVENTS]
    if of_attributes:
        shape = ["batch", "length", of_attributes]
        inputs.append(helper.make_tensor_value_info("attributes", TensorProto.INT64, shape))
        nodes[6:7] = [
            helper.make_node("ReduceSum", ["attributes", "last"], ["sums"], keepdims=1),
            helper.make_node("Cast", ["sums"], ["of_attributes"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["of_codes", "of_ages"], ["told"]),
            helper.make_node("Add", ["told", "of_attributes"], ["vectors"]),
        ]
    rows = output_DxV.shape[1] + 1
    inputs.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [rows]))
    graph = helper.make_graph(
        nodes,
        "linear",
        inputs,
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", rows]),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, ["batch", width]),
        ],
        [
            *(numpy_helper.from_array(array, name) for name, array in weights.items()),
            numpy_helper.from_array(np.array([1], np.int64), "axes"),
        ],
    )
    model = add_best(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def write_release(
    releases: Path,
    scratch: Path,
    *,
    items: Sequence[str],
    output_DxV: np.ndarray | None = None,
    embedding_IxD: np.ndarray | None = None,
    graph: bytes | None = None,
    per_second: float = 0.0,
    inputs: Any = None,
    attributes: Sequence[dict[str, Any]] = (),
    withdrawn: Sequence[int] = (),
    seed: int = 0,
    width: int = 16,
    max_history: int = 5,
) -> Bundle:
    """A bundle as the exporter lays it out, over a random linear network unless told which."""
    rng = np.random.default_rng(seed)
    embedding = rng.normal(size=(len(items) + 1, width)) if embedding_IxD is None else embedding_IxD
    output = rng.normal(size=(embedding.shape[1], len(items))) if output_DxV is None else output_DxV
    files = scratch / f"files-{len(list(scratch.iterdir())) if scratch.exists() else 0}"
    files.mkdir(parents=True)
    (files / "model.onnx").write_bytes(
        graph
        or linear_network(embedding, output, len(BEHAVIOURS), per_second=per_second, of_attributes=len(attributes))
    )
    (files / "vocabulary.json").write_text(
        json.dumps({"version": 1, "items": list(items), "withdrawn": list(withdrawn)})
    )
    features = {"max_history": max_history, "behaviours": BEHAVIOURS, "padding": 0}
    stated: dict[str, Any] = {"attributes": list(attributes)} if attributes else {}
    given = ["attributes"] if attributes else []
    stated["inputs"] = [*EVENTS, *given, *REQUEST] if inputs is None else inputs
    if stated["inputs"] == []:
        del stated["inputs"]
    (files / "features.json").write_text(json.dumps(features | stated))
    describe = {"architecture": "linear", "items": len(items), "kind": "full", "max_history": max_history}
    return write_bundle(files, describe=describe, releases=releases, attestation={})


@dataclass
class Shop:
    """A home, its ledger, and what the tests do with them."""

    home: Home
    scratch: Path
    settings: Settings
    ledger: Ledger = field(init=False)
    items: tuple[str, ...] = tuple(f"item-{n:02d}" for n in range(20))
    versions: int = 0
    running: list[TestClient] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger = Ledger.of(self.home, self.settings)

    def release(self, **shape: Any) -> Bundle:
        return write_release(self.home.releases, self.scratch, **{"items": self.items, **shape})

    def version(self, bundle: Bundle | None = None, **shape: Any) -> int:
        bundle = bundle or self.release(**{"seed": self.versions, **shape})
        self.versions += 1
        return self.ledger.record_version(
            VersionRecord(
                version=self.versions,
                digest=bundle.digest,
                mode="full",
                parent=None,
                events_version=0,
                items_version=0,
                cutoff_us=0,
                offline_passed=True,
                metrics={},
                run_id="run",
                created=NOW,
                checkpoint="",
                submitter="trainer",
            )
        )

    def crown(self, version: int | None = None, **shape: Any) -> str:
        """Bootstrap a champion; returns its digest."""
        return self.ledger.bootstrap(version or self.version(**shape), actor="ada", reason="first", now=NOW).digest

    def trial(
        self, *challengers: int, name: str = "t1", allocation: float = 0.5, salt: str = "salt", **given: Any
    ) -> None:
        """`given`: as is_aa, mode, share; bake_hours goes into the frozen configuration."""
        config = {"name": name, "bake_hours": given.pop("bake_hours", 0)}
        self.ledger.open_trial(
            name, config, challengers=challengers, salt=salt, allocation=allocation, actor="flow", now=NOW, **given
        )

    def promote(self, name: str = "t1") -> str:
        self.ledger.record_evidence(name, {"decision": "PROMOTE", "trial": name}, now=NOW)
        return self.ledger.approve(name, actor="ada", reason="better", now=NOW).digest

    def watcher(self, ledger: Any) -> Watcher:
        """What follows the ledger in an app, to be refreshed by hand."""
        return Watcher(
            ledger,
            releases=self.home.releases,
            popularity_list=self.home.popularity,
            offers=OfferWatch(catalogue_file=self.home.catalogue, blocklist_file=self.home.blocklist),
            filters_mb=1.0,
            sides=SideWatch(in_force_file=self.home.side_in_force, folder=self.home.side_indexes),
            device="cpu",
            threads=1,
            retry_seconds=0.0,
            now=lambda: NOW,
        )

    def publish(self, *items: str) -> None:
        popularity.publish(self.home.popularity, [(item, len(items) - rank) for rank, item in enumerate(items)])

    def logged(self, kind: str) -> list[dict[str, Any]]:
        """All rows of one kind, those in open files too."""
        for client in self.running:
            assert client.app.state.service.exposure_log.drain()  # type: ignore[attr-defined]
        files = sorted((self.home.landing / kind).iterdir())
        return [json.loads(line) for file in files for line in file.read_bytes().splitlines()]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    settings = Settings.model_validate(
        {"home": {"clock": "request"}, "serving": {"poll_seconds": 0.05, "flush_seconds": 30}}
    )
    return Shop(Home.create(tmp_path / "home", simulation=True), tmp_path / "scratch", settings)


@pytest.fixture
def start(shop: Shop) -> Iterator[Callable[..., TestClient]]:
    """Start the app on the shop's home, perhaps with other settings by section; stopped at the end of the test."""

    def start(**sections: dict[str, Any]) -> TestClient:
        stated = shop.settings.model_dump()
        for section, keys in sections.items():
            stated[section] |= keys
        app = create_app(shop.home, Settings.model_validate(stated))
        client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
        client.__enter__()
        shop.running.append(client)
        return client

    yield start
    for client in shop.running:
        client.__exit__(None, None, None)


@pytest.fixture
def scrape() -> Callable[[TestClient], dict[str, float]]:
    """The samples of an app's /metrics, as Prometheus writes them: name{label="text",…} → value."""

    def scrape(client: TestClient) -> dict[str, float]:
        answer = client.get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        found = {}
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                labels = ",".join(f'{name}="{text}"' for name, text in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return found

    return scrape
