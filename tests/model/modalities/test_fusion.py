import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from model.modalities.fusion import ItemVectors, Tower, TowerConfig
from model.modalities.material import Modality, NamedVectors, Whitening
from relations.errors import DataRejected


def modality(items: int, dims: int = 3, *, absent: tuple[int, ...] = (), **rest: object) -> Modality:
    """Vectors of `items` items; entries of `absent` (from 0) are missing."""
    present_V = np.ones(items, dtype=bool)
    present_V[list(absent)] = False
    rng = np.random.default_rng(items)
    return Modality(rng.normal(size=(items, dims)), present_V, **({"dims": 0, "id_dropout": 0.5} | rest))  # type: ignore[arg-type]


def fused(modalities: dict[str, Modality], *, width: int = 4) -> ItemVectors:
    torch.manual_seed(0)
    items = len(next(iter(modalities.values())))
    vectors = ItemVectors(items, width, modalities=TowerConfig.of(modalities))
    vectors.start(modalities)
    for tower in vectors.towers:
        assert isinstance(tower, Tower)
        torch.nn.init.normal_(tower.gate_id_D)
        torch.nn.init.normal_(tower.gate_vector_W)
    return vectors


def slowly(vectors: ItemVectors, row: int) -> list[float]:
    """The formula of the class, number by number."""
    e = vectors.weight[row].tolist()
    answer = list(e)
    for tower in vectors.towers:
        assert isinstance(tower, Tower)
        if not tower.present_V[row]:
            continue
        x, projection = tower.white_VW[row].tolist(), tower.projection_DW.tolist()
        at = tower.gate_bias.item() + sum(a * b for a, b in zip(tower.gate_id_D.tolist(), e, strict=True))
        at += sum(a * b for a, b in zip(tower.gate_vector_W.tolist(), x, strict=True))
        for d in range(len(e)):
            answer[d] += 1 / (1 + math.exp(-at)) * sum(p * value for p, value in zip(projection[d], x, strict=True))
    return answer


def test_no_modality_is_an_embedding() -> None:
    torch.manual_seed(0)
    ours = ItemVectors(5, 4)
    torch.manual_seed(0)
    plain = torch.nn.Embedding(6, 4)
    rows = torch.tensor([[1, 5], [0, 2]])
    assert list(ours.state_dict()) == ["weight"]
    assert ours.table() is ours.weight
    assert torch.equal(ours(rows), plain(rows))


def test_fused_vectors_are_the_formula() -> None:
    vectors = fused({"text": modality(5, absent=(1,)), "image": modality(5, 2, absent=(1, 3))}).eval()
    reference = torch.tensor([slowly(vectors, row) for row in range(6)])
    torch.testing.assert_close(vectors.table(), reference)
    few, many = torch.tensor([2, 5, 2]), torch.randint(0, 6, (3, 9))  # by row, and by the whole table
    torch.testing.assert_close(vectors(few), reference[few])
    torch.testing.assert_close(vectors(many), reference[many])
    # rows 0 (padding) and 2 (item 1) have no modality: the id alone
    assert torch.equal(vectors.table()[[0, 2]], vectors.weight[[0, 2]])


def test_both_ways_to_a_row_have_the_same_gradient() -> None:
    vectors = fused({"text": modality(4, absent=(2,), id_dropout=0.0)})
    rows, target_RD = torch.tensor([1, 3, 4, 1]), torch.randn(4, 4)
    gradients = []
    for looked_up in (vectors(rows), functional.embedding(rows, vectors.table())):
        vectors.zero_grad()
        functional.mse_loss(looked_up, target_RD).backward()
        gradients.append([parameter.grad.clone() for parameter in vectors.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == len(list(vectors.parameters()))
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)


def test_ids_drop_out_in_training_only_where_something_else_stands() -> None:
    vectors = fused({"text": modality(400, absent=tuple(range(200)), id_dropout=0.25)})
    for tower in vectors.towers:
        tower.projection_DW.data.zero_()  # type: ignore[union-attr]  # what is left of a row is its id
    gone_V = (vectors.train().table()[1:] == 0).all(dim=1)
    assert not gone_V[:200].any()
    # 50 of 200 expected, standard deviation √(200 · ¼ · ¾) ≈ 6.1
    assert 50 - 25 < int(gone_V[200:].sum()) < 50 + 25
    assert torch.equal(vectors.eval().table(), vectors.weight)
    # at 1 the id is no part of the model, in training or after
    alone = fused({"text": modality(6, absent=(0,), id_dropout=1.0)})
    for tower in alone.towers:
        tower.projection_DW.data.zero_()  # type: ignore[union-attr]
    for mode in (True, False):
        assert (alone.train(mode).table()[2:] == 0).all()
        assert torch.equal(alone.table()[1], alone.weight[1])


def test_a_new_item_starts_from_its_vector() -> None:
    vectors = fused({"text": modality(5)}).eval()
    grown_to = Modality(np.concatenate([modality(5).vector_VK, np.ones((2, 3))]), [*[True] * 6, False], dims=0)  # type: ignore[arg-type]
    start_RD = torch.full((2, 4), 7.0)
    grown = vectors.grown(7, start_RD=start_RD, modalities={"text": grown_to})
    torch.testing.assert_close(grown.table()[:6], vectors.table())
    assert torch.equal(grown.weight[6], torch.zeros(4))  # text: the id says nothing yet
    assert torch.equal(grown.table()[7], start_RD[1])  # no text: the neighbours
    # the new text goes through the old whitening: x = (1 − μ) W, and σ(b·x + c) P x is all there is
    tower = grown.towers[0]
    assert isinstance(tower, Tower)
    x_W = (torch.ones(3) - tower.mean_K) @ tower.matrix_KW
    at = x_W @ tower.gate_vector_W + tower.gate_bias
    torch.testing.assert_close(grown.table()[6], torch.sigmoid(at) * (tower.projection_DW @ x_W))
    assert len(vectors.weight) == 6


def test_growth_without_vectors_keeps_what_is_known() -> None:
    vectors = fused({"text": modality(5)}).eval()
    grown = vectors.grown(6)
    torch.testing.assert_close(grown.table()[:6], vectors.table())
    torch.testing.assert_close(grown.table()[6], vectors.table()[1:].mean(dim=0))


@settings(deadline=None, max_examples=25)
@given(absent=st.sets(st.integers(0, 5)), again=st.integers(0, 3))
def test_materialised_scores_the_same(absent: set[int], again: int) -> None:
    vectors = fused({"text": modality(6, absent=tuple(absent))})
    plain = vectors.materialised()
    assert vectors.training
    assert list(plain.state_dict()) == ["weight"]
    assert torch.equal(plain.table(), vectors.eval().table())
    loaded = fused({"text": modality(6)})
    loaded.load_state_dict(vectors.state_dict())
    assert torch.equal(loaded.eval().table(), vectors.table())
    # growing by nothing, or twice, is growing once
    torch.testing.assert_close(vectors.grown(6 + again).table()[:7], vectors.table())


def test_another_encoder_is_refused() -> None:
    vectors = fused({"text": modality(5, source="abc")})
    with pytest.raises(DataRejected, match="full retrain"):
        vectors.grown(5, modalities={"text": modality(5, source="def")})
    with pytest.raises(ValueError, match="a network with"):
        vectors.grown(5, modalities={"image": modality(5)})
    with pytest.raises(ValueError, match="for 6 items"):
        vectors.grown(6, modalities={"text": modality(5, source="abc")})


def test_whitened_directions_have_unit_variance_and_no_correlation() -> None:
    rng = np.random.default_rng(0)
    vector_VK = rng.normal(size=(500, 4)) @ rng.normal(size=(4, 4)) + 9  # correlated, off centre
    material = Modality(vector_VK, np.ones(500, dtype=bool), dims=2)
    white_VW = Whitening.fit(material).apply(material)
    assert white_VW.shape == (500, 2)
    np.testing.assert_allclose(white_VW.mean(axis=0), 0, atol=1e-4)
    covariance = np.cov(white_VW.T, bias=True)
    values = np.linalg.eigvalsh(np.cov(vector_VK.T, bias=True))[::-1]
    # λ / (λ + ε), with ε = 1 % of the mean eigenvalue
    np.testing.assert_allclose(np.diag(covariance), (values / (values + 0.01 * values.mean()))[:2], rtol=1e-3)
    assert abs(covariance[0, 1]) < 1e-4


@pytest.mark.parametrize("vectors", [np.zeros((0, 3)), np.ones((1, 3)), np.ones((4, 3))], ids=["none", "one", "alike"])
def test_vectors_that_say_nothing_add_nothing(vectors: np.ndarray) -> None:
    material = Modality(vectors, np.ones(len(vectors), dtype=bool))
    item_vectors = fused({"text": material})
    assert torch.isfinite(item_vectors.table()).all()
    assert torch.equal(item_vectors.eval().table(), item_vectors.weight)


def test_vectors_by_item_lie_beside_the_vocabulary() -> None:
    named = NamedVectors(("c", "ü"), np.array([[1, 2], [3, 4]]), source="s", dims=1, id_dropout=0.3)
    found = named.beside(["ü", "b", "c"])
    assert found.vector_VK.tolist() == [[3, 4], [0, 0], [1, 2]]
    assert found.present_V.tolist() == [True, False, True]
    assert (found.source, found.kept, found.id_dropout) == ("s", 1, 0.3)
    with pytest.raises(DataRejected, match="two vectors of one item"):
        NamedVectors(("a", "a"), np.ones((2, 2)))
    with pytest.raises(DataRejected, match="first that of 'b'"):
        NamedVectors(("a", "b"), np.array([[1.0], [np.nan]]))
    absent = Modality(np.array([[1.0], [np.nan]]), np.array([True, False]))
    assert absent.vector_VK[1] == 0  # what is absent is never looked at
