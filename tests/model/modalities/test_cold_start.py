"""From a text to a rank: trained beside vectors, exported with these worked in, grown by items nobody has met."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model.continual.increment import fit_increment
from model.continual.options import IncrementOptions
from model.export import export_release
from model.fit import fit_full
from model.fitted import Fitted, load_fitted, save_fitted
from model.modalities.adapters import tune
from model.modalities.admission import admit
from model.modalities.encoders import Encoder, encode
from model.modalities.material import NamedVectors
from model.modalities.options import Adapter, AdapterOptions
from model.network.ranker import materialised
from model.options import NetworkOptions, TrainOptions
from model.sequences import Histories
from relations.errors import DataRejected

COLOURS = ("red", "blue", "green")


def vectors(items: list[str]) -> NamedVectors:
    """An item's vector is its place on the cycle of twelve, whatever its name."""
    angle_I = np.array([int(item[1:]) for item in items]) * (2 * np.pi / 12)
    return NamedVectors(tuple(items), np.stack([np.cos(angle_I), np.sin(angle_I)], axis=1), source="circle", dims=0)


@pytest.fixture(scope="module")
def beside(cycle: Histories, tiny: NetworkOptions, brief: TrainOptions) -> Fitted:
    described = vectors([str(item) for item in cycle.items if item != "i05"])  # one of the twelve says nothing
    return fit_full(cycle, network=tiny, training=brief, modalities={"text": described})


def scores(fitted: Fitted, history: list[str]) -> dict[str, float]:
    row_BL = torch.from_numpy(fitted.vocabulary.rows(history))[None]
    with torch.inference_mode():
        score_V = fitted.ranker(row_BL, torch.ones_like(row_BL), torch.zeros_like(row_BL))[0]
    return dict(zip(fitted.vocabulary.items, score_V.tolist(), strict=True))


def test_a_new_item_is_ranked_by_its_vector(beside: Fitted) -> None:
    """x06 says of itself what i06 says, x00 what i00 says: after i03, i04 … comes i06, and so x06 before x00."""
    known = [item for item in beside.vocabulary.items if item != "i05"]
    named = vectors([*known, "x06", "x00"])
    admitted = admit(beside, {"text": named}, items=["x06", "x00", "undescribed"])
    assert admitted.vocabulary.items == (*beside.vocabulary.items, "x00", "x06")
    found = scores(admitted, ["i02", "i03", "i04", "i05"])
    assert found["x06"] > found["x00"]
    before = scores(beside, ["i02", "i03", "i04", "i05"])
    np.testing.assert_allclose([found[item] for item in before], list(before.values()), atol=1e-5)
    assert admit(beside, {"text": named}, items=["undescribed"]) is beside
    with pytest.raises(DataRejected, match="full retrain"):
        admit(beside, {"text": NamedVectors(named.items, named.vector_IK, source="other", dims=0)}, items=["x06"])


def test_saved_and_loaded_it_scores_the_same(beside: Fitted, tmp_path: Path) -> None:
    save_fitted(beside, tmp_path / "fitted")
    back = load_fitted(tmp_path / "fitted")
    assert back.digest == beside.digest
    assert scores(back, ["i01", "i02"]) == scores(beside, ["i01", "i02"])


def test_an_increment_goes_on_beside_its_vectors(
    beside: Fitted, cycle: Histories, brief: TrainOptions, histories_of: object
) -> None:
    new = histories_of([("u00", "i03", "view", 9_000), ("u00", "x04", "view", 9_001), ("u01", "i07", "view", 9_002)])  # type: ignore[operator]
    named = vectors([*(item for item in beside.vocabulary.items if item != "i05"), "x04"])
    grown = fit_increment(
        beside, new=new, past=cycle, training=brief, increment=IncrementOptions(epochs=1), modalities={"text": named}
    )
    assert "x04" in grown.vocabulary.items
    assert all(np.isfinite(list(scores(grown, ["i02", "i03"]).values())))


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [Adapter.LORA, Adapter.PREFIX, Adapter.BOTTLENECK])
def test_each_adapter_is_exported_with_parity(
    texts: Encoder, cycle: Histories, tiny: NetworkOptions, brief: TrainOptions, tmp_path: Path, adapter: Adapter
) -> None:
    """Trained, re-embedded, fused, exported: ONNX Runtime scores what torch scores."""
    titles = [f"{COLOURS[at % 3]} {'shoe' if at % 2 else 'hat'} " * (1 + at // 6) for at in range(12)]
    pairs = np.array([(at, (at + 1) % 12) for at in range(12)])
    options = AdapterOptions(adapter=adapter, rank=2, steps=2, batch_pairs=8)
    vector_IK = encode(tune(texts, titles, pairs, options=options).encoder, titles)
    named = NamedVectors(tuple(str(item) for item in cycle.items), vector_IK, source=adapter, dims=4)
    once = TrainOptions(**(brief.__dict__ | {"epochs": 1}))
    fitted = fit_full(cycle, network=tiny, training=once, modalities={"text": named})
    assert not torch.equal(materialised(fitted.ranker).item_table.weight, fitted.ranker.item_table.weight)
    exported = export_release(fitted, tmp_path, histories=cycle)
    assert exported.parity.holds
    assert exported.parity.max_abs_diff < 1e-4
    assert exported.describe["modalities"] == ["id", "text"]
