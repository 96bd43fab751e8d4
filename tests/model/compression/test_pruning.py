"""Heads and channels that go: which ones, that they are gone, and that nothing else moved."""

import copy
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import nn

from model.compression.pruning import (
    Importance,
    PruneOptions,
    _kept_heads,
    measure_importance,
    parameters,
    prune,
    without,
)
from model.export import export_graph, parity_rows
from model.fitted import Fitted
from model.network.blocks import HSTUBlock, SoftmaxBlock
from model.network.config import RankerConfig
from model.network.ranker import Ranker
from model.objectives.next_item import ItemObjective
from model.objectives.objective import Objective
from model.objectives.options import ObjectiveOptions
from model.options import Loss, NetworkOptions, TrainOptions
from model.parity import measure_parity
from model.private_steps import Privacy
from model.sequences import Histories
from model.windows import Corpus, Epoch, tile
from relations.errors import UsageError


def ranker_of(tiny: NetworkOptions, **stated: object) -> Ranker:
    torch.manual_seed(0)
    return Ranker(RankerConfig(items=12, behaviours=9, **asdict(tiny) | stated)).eval()


def chances(ranker: Ranker, *, channels: int | None) -> Importance:
    rng = np.random.default_rng(0)
    blocks = range(ranker.config.blocks)
    heads = tuple(rng.random(ranker.config.heads) for _ in blocks)
    return Importance(heads, tuple(None if channels is None else rng.random(channels) for _ in blocks))


def asked(ranker: Ranker) -> tuple[torch.Tensor, ...]:
    items = torch.tensor([[0, 0, 3, 4, 5], [1, 2, 3, 4, 12]])
    return items, items.clamp(max=1), torch.tensor([[0, 0, 900, 70, 4]]).expand(2, -1)


def test_a_head_that_says_nothing_goes_and_no_score_moves(tiny: NetworkOptions) -> None:
    ranker = ranker_of(tiny)
    with torch.no_grad():
        ranker.blocks[0].out.weight[:, 8:] = 0  # the second of two heads of width 8 is not listened to
        ranker.blocks[1].narrow.weight[:, ::2] = 0  # nor is every other of 64 channels
    channels = (np.ones(64), np.tile([0.0, 1.0], 32))
    pruned = without(
        ranker, Importance((np.array([1.0, 0.0]), np.array([1.0, 1.0])), channels), heads=0.25, channels=0.5
    )
    first, second = pruned.blocks
    assert isinstance(first, SoftmaxBlock)
    assert isinstance(second, SoftmaxBlock)
    assert (first.heads, second.heads) == (1, 2)
    shapes = {name: tuple(tensor.shape) for name, tensor in first.state_dict().items()}
    assert shapes["query.weight"] == (8, 16)
    assert shapes["key_value.weight"] == (16, 16)
    assert shapes["out.weight"] == (16, 8)
    assert shapes["position_bias"] == (8, 1)
    assert shapes["widen.weight"] == (32, 16)
    assert shapes["narrow.weight"] == (16, 32)
    # the first block's channels were all alike, so that its scores move; with those put back nothing does
    first.widen, first.narrow = copy.deepcopy(ranker.blocks[0].widen), copy.deepcopy(ranker.blocks[0].narrow)
    with torch.no_grad():
        torch.testing.assert_close(pruned(*asked(ranker)), ranker(*asked(ranker)), rtol=0, atol=1e-5)


def test_importance_is_the_gradient_of_a_gate(fitted: Fitted, cycle: Histories, brief: TrainOptions) -> None:
    """Against gates that are really there: ξ on the columns of the layer behind them."""
    found = measure_importance(fitted, cycle, batches=1, training=brief)
    ranker = copy.deepcopy(fitted.ranker)
    gate_H, gate_F = (torch.ones(count, requires_grad=True) for count in (2, 64))

    class Gated(nn.Module):
        def __init__(self, gate: torch.Tensor) -> None:
            super().__init__()
            self.gate = gate

        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight * self.gate.repeat_interleave(weight.shape[1] // len(self.gate))

    nn.utils.parametrize.register_parametrization(ranker.blocks[0].out, "weight", Gated(gate_H), unsafe=True)
    nn.utils.parametrize.register_parametrization(ranker.blocks[1].narrow, "weight", Gated(gate_F), unsafe=True)
    corpus, rng = Corpus.of(cycle, fitted.vocabulary.rows(cycle.items)), np.random.default_rng(brief.seed)
    windows = tile(corpus, length=8, rng=rng)
    epoch = Epoch.of(corpus, windows, opens_U=None, batch_tokens=brief.batch_tokens, rng=rng)
    loss = Objective(ObjectiveOptions(), item=ItemObjective(Loss.FULL), width=16)
    loss(ranker, epoch.batch(0), seed=0).total.backward()
    assert gate_H.grad is not None
    assert gate_F.grad is not None
    assert found.channels[1] is not None
    np.testing.assert_allclose(found.heads[0], gate_H.grad.abs().numpy(), rtol=1e-3)
    np.testing.assert_allclose(found.channels[1], gate_F.grad.abs().numpy(), rtol=1e-3, atol=1e-7)


def test_which_heads_stay() -> None:
    # By block, over its norm: [3, 4] → .6, .8; [.1, 0] → 1, 0; [5, 5, 5] → .577 each. Two of the seven: the 0 and then
    # the first .577, for the second block keeps its last head.
    kept = _kept_heads((np.array([3.0, 4.0]), np.array([0.1, 0.0]), np.array([5.0, 5.0, 5.0])), share=2 / 7)
    assert [at.tolist() for at in kept] == [[0, 1], [0], [1, 2]]
    kept = _kept_heads((np.array([3.0, 4.0]), np.array([0.1, 0.0])), share=0.99)
    assert [at.tolist() for at in kept] == [[1], [0]]  # one stays in each, however much should go
    kept = _kept_heads((np.zeros(2), np.zeros(2)), share=0.5)
    assert [len(at) for at in kept] == [1, 1]


def test_hstu_loses_heads_and_the_graph_is_that_of_torch(
    fitted: Fitted, tiny: NetworkOptions, cycle: Histories
) -> None:
    ranker = ranker_of(tiny, block="hstu", blocks=1)
    pruned = without(ranker, chances(ranker, channels=None), heads=0.5, channels=0.5)
    (block,) = pruned.blocks
    assert isinstance(block, HSTUBlock)
    assert block.heads == 1
    assert block.mixed_norm.normalized_shape == (8,)
    assert block.query_gate.weight.shape == (16, 16)  # of 32 × 16: query and gate of one head of width 8
    # One of 2 heads of width 8 goes: 2·(16·16 + 16) of query, gate, key and value, 2·8 of the norm, 16·8 of the
    # output, and its biases of 8 places and 40 ages.
    assert parameters(ranker) - parameters(pruned) == 544 + 16 + 128 + 48
    graph = export_graph(pruned).SerializeToString()
    rows = parity_rows(replace(fitted, ranker=pruned), cycle)
    assert measure_parity(pruned, graph, sequences=rows, max_abs=1e-4, top10=0.99).holds
    assert not measure_parity(ranker, graph, sequences=rows, max_abs=1e-4, top10=0.99).holds


def test_what_is_left_learns_again_and_items_stay(fitted: Fitted, cycle: Histories, brief: TrainOptions) -> None:
    before = {name: tensor.clone() for name, tensor in fitted.ranker.state_dict().items()}
    one, two = (prune(fitted, cycle, options=PruneOptions(epochs=1), training=brief) for _ in range(2))
    assert one.digest == two.digest
    assert torch.equal(one.ranker.item_table.weight, fitted.ranker.item_table.weight)
    assert parameters(one.ranker) < parameters(fitted.ranker)
    raw = prune(fitted, cycle, options=PruneOptions(epochs=0), training=brief)
    assert not torch.equal(raw.ranker.blocks[0].out.weight, one.ranker.blocks[0].out.weight)
    assert all(torch.equal(tensor, before[name]) for name, tensor in fitted.ranker.state_dict().items())


def test_nothing_to_prune_is_refused(fitted: Fitted, cycle: Histories, brief: TrainOptions) -> None:
    with pytest.raises(UsageError, match=r"pruned_heads = 0\.2, pruned_channels = 0: no head and no channel would go"):
        prune(fitted, cycle, options=PruneOptions(heads=0.2, channels=0), training=brief)
    with pytest.raises(UsageError, match="no privacy bound"):
        prune(replace(fitted, privacy=Privacy((), 1e-6, 1.0)), cycle, options=PruneOptions(), training=brief)
