import copy
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from model.modalities.adapters import Tuned, adapted, info_nce, load_adapter, save_adapter, successive_pairs, tune
from model.modalities.encoders import Encoder, encode
from model.modalities.options import Adapter, AdapterOptions
from relations.errors import DataRejected, UsageError

TITLES = ["red shoe", "blue hat", "red coat", "blue coat small", "red hat", "blue shoe", "green hat", "green shoe"]
# colours follow each other: red 0 2 4, blue 1 3 5, green 6 7
PAIRS = np.array([(0, 2), (2, 4), (4, 0), (1, 3), (3, 5), (5, 1), (6, 7), (0, 4), (1, 5)])
KINDS = [Adapter.LORA, Adapter.PREFIX, Adapter.BOTTLENECK]


def options(adapter: Adapter) -> AdapterOptions:
    rate = 0.3 if adapter is Adapter.PREFIX else 2e-2  # few numbers far from the output
    return AdapterOptions(adapter=adapter, rank=4, steps=15, batch_pairs=9, learning_rate=rate)


@pytest.fixture(scope="module")
def tuned(texts: Encoder) -> dict[Adapter, Tuned]:
    return {adapter: tune(texts, TITLES, PAIRS, options=options(adapter)) for adapter in KINDS}


@pytest.mark.parametrize("adapter", KINDS)
def test_the_loss_falls_and_the_vectors_move(tuned: dict[Adapter, Tuned], texts: Encoder, adapter: Adapter) -> None:
    found = tuned[adapter]
    assert np.mean(found.losses[-3:]) < np.mean(found.losses[:3]) - 0.1
    before_NK, after_NK = encode(texts, TITLES), encode(found.encoder, TITLES)
    assert np.abs(after_NK - before_NK).max() > 0.01
    assert found.encoder.digest != texts.digest

    def margin(vector_NK: np.ndarray) -> float:  # how much nearer the partner lies than any item
        cosine_NN = vector_NK @ vector_NK.T
        return float(cosine_NN[PAIRS[:, 0], PAIRS[:, 1]].mean() - cosine_NN.mean())

    assert margin(after_NK) > margin(before_NK)


@pytest.mark.parametrize("adapter", KINDS)
def test_only_the_adapter_is_trained(texts: Encoder, adapter: Adapter) -> None:
    base = copy.deepcopy(texts.model.state_dict())
    learner = adapted(texts, options(adapter))
    trainable = {name for name, weight in learner.model.named_parameters() if weight.requires_grad}
    mark = {Adapter.LORA: "lora_", Adapter.PREFIX: "prompt_encoder", Adapter.BOTTLENECK: (".down.", ".up.")}[adapter]
    assert all(any(part in name for part in ((mark,) if isinstance(mark, str) else mark)) for name in trainable)
    optimizer = torch.optim.SGD([w for w in learner.model.parameters() if w.requires_grad], lr=1.0)
    before = {name: weight.detach().clone() for name, weight in learner.model.named_parameters()}
    (learner.vectors(TITLES[:4]) * torch.linspace(-1, 1, 16)).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    moved = {name for name, weight in learner.model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved
    assert moved <= trainable
    assert all(torch.equal(weight, base[name]) for name, weight in texts.model.state_dict().items())


def test_lora_and_bottleneck_start_as_nothing(texts: Encoder) -> None:
    before_NK = encode(texts, TITLES)
    for adapter in (Adapter.LORA, Adapter.BOTTLENECK):
        np.testing.assert_allclose(encode(adapted(texts, options(adapter)), TITLES), before_NK, atol=1e-6)


@pytest.mark.parametrize("adapter", KINDS)
def test_an_adapter_comes_back_from_its_file(
    tuned: dict[Adapter, Tuned], texts: Encoder, tmp_path: Path, adapter: Adapter
) -> None:
    file = tmp_path / "text.safetensors"
    save_adapter(tuned[adapter], file)
    back = load_adapter(texts, file)
    np.testing.assert_array_equal(encode(back.encoder, TITLES), encode(tuned[adapter].encoder, TITLES))
    assert back.encoder.digest == tuned[adapter].encoder.digest
    assert back.losses == tuned[adapter].losses
    other = dataclasses.replace(texts, digest="0" * 64)
    with pytest.raises(DataRejected, match="another encoder"):
        load_adapter(other, file)
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(DataRejected, match="full retrain"):
        load_adapter(texts, file)


def test_merging_lora_changes_no_answer(texts: Encoder) -> None:
    learner = adapted(texts, options(Adapter.LORA))
    torch.manual_seed(1)
    for name, weight in learner.model.named_parameters():
        if "lora_B" in name:  # as if trained
            torch.nn.init.normal_(weight, std=0.3)
    unmerged_NK = encode(learner, TITLES)
    assert np.abs(unmerged_NK - encode(texts, TITLES)).max() > 0.01
    merged = dataclasses.replace(learner, model=learner.model.merge_and_unload())  # type: ignore[operator]
    assert not any("lora" in name for name in merged.model.state_dict())
    np.testing.assert_allclose(encode(merged, TITLES), unmerged_NK, atol=1e-5)


def test_training_is_deterministic(tuned: dict[Adapter, Tuned], texts: Encoder) -> None:
    state = torch.random.get_rng_state()
    again = tune(texts, TITLES, PAIRS, options=options(Adapter.LORA))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert again.losses == tuned[Adapter.LORA].losses
    assert again.encoder.digest == tuned[Adapter.LORA].encoder.digest


def test_pictures_take_lora_and_bottlenecks_but_no_prefix(pictures: Encoder) -> None:
    for adapter in (Adapter.LORA, Adapter.BOTTLENECK):
        learner = adapted(pictures, options(adapter))
        assert any(weight.requires_grad for weight in learner.model.parameters())
    with pytest.raises(UsageError, match="for texts"):
        adapted(pictures, options(Adapter.PREFIX))


def test_the_contrastive_loss_and_its_gradient_are_the_formula() -> None:
    rng = np.random.default_rng(0)
    left_BK, right_BK = (torch.tensor(rng.normal(size=(4, 3)), requires_grad=True) for _ in range(2))
    # item 7 is the left of pairs 0 and 1, item 5 the right of 0 and the left of 2
    item_B2 = torch.tensor([[7, 5], [7, 6], [5, 9], [1, 2]])
    loss = info_nce(left_BK, right_BK, item_B2, temperature=0.5)
    total = torch.zeros((), dtype=torch.float64)
    for b in range(4):
        for ours, theirs, column in ((left_BK, right_BK, 1), (right_BK, left_BK, 0)):
            own = item_B2[b].tolist()
            logits = [ours[b] @ theirs[c] / 0.5 for c in range(4) if c == b or item_B2[c, column].item() not in own]
            total = total - (ours[b] @ theirs[b] / 0.5 - torch.logsumexp(torch.stack(logits), dim=0))
    slow = total / 8
    torch.testing.assert_close(loss, slow)
    ours_grad = torch.autograd.grad(loss, (left_BK, right_BK))
    for first, second in zip(ours_grad, torch.autograd.grad(slow, (left_BK, right_BK)), strict=True):
        torch.testing.assert_close(first, second)
    # B pairs of unlike items with equal vectors: log B
    same = functional.normalize(torch.ones(3, 4), dim=-1)
    assert info_nce(same, same, torch.arange(6).view(3, 2), temperature=1.0).item() == pytest.approx(math.log(3))


def test_pairs_are_neighbours_of_one_user() -> None:
    item_N, user_N = np.array([1, 2, 2, 3, 1, 4]), np.array([0, 0, 0, 0, 1, 1])
    # one apart: 1-2, 2-3, 1-4; two apart: 1-2, 2-3
    assert successive_pairs(item_N, user_N).tolist() == [[1, 2], [2, 3], [1, 4], [1, 2], [2, 3]]
    assert successive_pairs(item_N[:1], user_N[:1]).shape == (0, 2)


@pytest.mark.parametrize("pairs", [np.zeros((0, 2), dtype=np.int64), np.array([[0, 0]]), np.array([[0, 1], [1, 0]])])
def test_too_few_pairs_are_refused(texts: Encoder, pairs: np.ndarray) -> None:
    with pytest.raises(DataRejected, match="too few"):
        tune(texts, TITLES, pairs, options=options(Adapter.LORA))
