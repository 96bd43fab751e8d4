"""A side row is what growth would start the item from: the same scores, without growing."""

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.features import PLAIN
from model.fitted import Fitted
from model.modalities.admission import admit
from model.modalities.fusion import TowerConfig
from model.modalities.material import NamedVectors
from model.network.config import RankerConfig
from model.network.ranker import Ranker
from model.objectives.options import ObjectiveOptions
from model.side_items import SideRows, side_rows
from model.vocabulary import Vocabulary
from relations.errors import DataRejected

KNOWN = ("a", "b", "c", "d", "é")
NOTHING: dict[str, list[str]] = {}


def vectors(items: tuple[str, ...], *, source: str = "here", seed: int = 1) -> NamedVectors:
    """An item's vector follows from its id."""
    made = [np.random.default_rng([seed, *item.encode()]).normal(size=6) for item in items]
    return NamedVectors(items, np.array(made).reshape(-1, 6), source=source, dims=4)


def network(*, temperature: float = 0.0, id_dropout: float = 0.1, modal: bool = True, seed: int = 0) -> Fitted:
    """Random weights over `KNOWN`, of which the last says nothing of itself."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        beside = {"text": vectors(KNOWN[:-1]).beside(KNOWN)} if modal else {}
        towers = TowerConfig.of(beside)
        for tower in towers.values():
            tower["id_dropout"] = id_dropout
        config = RankerConfig(
            items=len(KNOWN), behaviours=2, width=8, heads=2, blocks=1, max_history=4, temperature=temperature,
            modalities=towers,
        )  # fmt: skip
        ranker = Ranker(config).eval()
        if modal:
            ranker.item_table.start(beside)
        with torch.no_grad():
            ranker.item_bias.copy_(torch.randn(len(KNOWN) + 1))
    return Fitted(ranker, ObjectiveOptions(), {}, Vocabulary(KNOWN), {}, (), 0, 0.0, 0, 0, PLAIN)


def scores(fitted: Fitted, side: SideRows, row_BL: torch.Tensor) -> np.ndarray:
    """[B, R] as serving computes them, from the states that the network scores its own items with."""
    ranker = fitted.ranker
    with mock.patch.object(ranker, "_score", lambda state_BD: state_BD):
        state_BD = ranker(row_BL, (row_BL > 0).long(), torch.zeros_like(row_BL))
    return np.asarray(state_BD.numpy() @ side.vector_RD.T + side.bias_R)


@settings(max_examples=25)
@given(
    temperature=st.sampled_from([0.0, 0.1]),
    id_dropout=st.sampled_from([0.1, 1.0]),
    new=st.sets(st.sampled_from(["x", "y", "zoë", "a", "c"]), min_size=1),
    seed=st.integers(0, 3),
)
def test_side_scores_are_those_of_the_grown_network(
    temperature: float, id_dropout: float, new: set[str], seed: int
) -> None:
    fitted = network(temperature=temperature, id_dropout=id_dropout, seed=seed)
    named = vectors(tuple(sorted(new | set(KNOWN[:-1]))))
    fresh = sorted(new - set(KNOWN))
    row_BL = torch.tensor([[0, 0, 1, 2], [5, 4, 3, 1]])
    with torch.inference_mode():
        side = side_rows(fitted, items=sorted(new), modalities={"text": named}, categories=NOTHING, known=NOTHING)
        grown = admit(fitted, {"text": named}, items=sorted(new)).ranker
        found = grown(row_BL, (row_BL > 0).long(), torch.zeros_like(row_BL)).numpy()
        assert side.items == tuple(fresh)
        np.testing.assert_allclose(scores(fitted, side, row_BL), found[:, len(KNOWN) :], atol=2e-5)
    assert side.described_R.all()


def test_without_vectors_an_item_starts_where_its_categories_stand() -> None:
    """x: mean(mean(a, b), c) of categories p and q; r holds nobody known; y has only r, so no row; z has nothing."""
    fitted = network(modal=False)
    table = fitted.ranker.item_table.weight.detach().numpy()
    side = side_rows(
        fitted,
        items=["x", "y", "z", "a"],
        modalities={},
        categories={"x": ["p", "q", "r"], "y": ["r"], "z": [], "a": ["p"]},
        known={"p": ["a", "b"], "q": ["c"], "r": ["stranger"]},
    )
    assert side.items == ("x",)
    np.testing.assert_allclose(side.vector_RD[0], (((table[1] + table[2]) / 2) + table[3]) / 2, rtol=1e-6)
    assert side.bias_R[0] == pytest.approx(fitted.ranker.item_bias[1:].mean().item())
    assert not side.described_R.any()


def test_vectors_go_before_categories() -> None:
    fitted = network()
    named = vectors(("x",))
    both = side_rows(fitted, items=["x"], modalities={"text": named}, categories={"x": ["p"]}, known={"p": ["a"]})
    alone = side_rows(fitted, items=["x"], modalities={"text": named}, categories=NOTHING, known=NOTHING)
    np.testing.assert_array_equal(both.vector_RD, alone.vector_RD)
    mixed = side_rows(fitted, items=["x", "w"], modalities={"text": named}, categories={"w": ["p"]}, known={"p": ["a"]})
    assert mixed.items == ("w", "x")
    assert mixed.described_R.tolist() == [False, True]
    np.testing.assert_allclose(mixed.vector_RD[1], alone.vector_RD[0], atol=1e-6)
    fused = fitted.ranker.item_table.materialised().weight.detach().numpy()
    np.testing.assert_allclose(mixed.vector_RD[0], fused[1], atol=1e-6)  # what stands at a


def test_a_cosine_network_has_vectors_of_length_one() -> None:
    side = side_rows(
        network(temperature=0.1), items=["x"], modalities={"text": vectors(("x",))}, categories=NOTHING, known=NOTHING
    )
    assert np.linalg.norm(side.vector_RD[0]) == pytest.approx(1, abs=1e-6)


def test_nothing_said_no_row() -> None:
    side = side_rows(network(), items=["x", "a"], modalities={}, categories=NOTHING, known=NOTHING)
    assert (side.items, side.vector_RD.shape, side.bias_R.shape) == ((), (0, 8), (0,))


def test_vectors_of_another_encoder_are_refused() -> None:
    with pytest.raises(DataRejected, match="full retrain"):
        side_rows(
            network(),
            items=["x"],
            modalities={"text": vectors(("x",), source="other")},
            categories=NOTHING,
            known=NOTHING,
        )
