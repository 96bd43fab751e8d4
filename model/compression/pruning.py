"""Smaller matrices in place of large ones: attention heads and feed-forward channels that the loss hardly feels go.

A head's importance is |∂L/∂ξ| for a gate ξ = 1 on its output, averaged over batches (Michel, Levy & Neubig, "Are
Sixteen Heads Really Better than One?", NeurIPS 2019, section 4.1, there over examples); a channel's likewise
(Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, section 3.2, the first-order score of
a gate). What follows the gate is a linear layer y = W x, so that ∂L/∂ξ is the inner product of W's columns behind the
gate with their gradients, and no gate need be built. Scores of heads are divided by their block's L2 norm before
blocks are compared (Michel et al., there).

Softmax blocks lose heads and channels. HSTU blocks have no feed-forward layer, so that they lose heads alone; there the
mixed values are normalised over all heads before the output layer, which shifts what the other heads say: recovery
is trained for that. Unsupported: whole blocks, states' width and items (a student has fewer of the first two).

Shapes: B blocks, H heads of a block, d width of a head, F channels of a feed-forward layer, D width.
"""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from model.compression.student import taught
from model.fitted import Fitted
from model.machine import seeded_threads
from model.network.blocks import Block, HSTUBlock, SoftmaxBlock
from model.network.ranker import Ranker, materialised
from model.objectives.next_item import ItemObjective
from model.objectives.objective import Objective
from model.objectives.options import ObjectiveOptions
from model.options import Loss, TrainOptions
from model.sequences import Histories
from model.windows import Corpus, Epoch, tile
from relations.errors import DataRejected, UsageError

CHANNELS_AT_ONCE = 8
"""Kept channels are a multiple of this: products of odd widths gain nothing."""
RECOVERY_RATE = 0.25
"""Of the training's learning rate: what is left has been trained already."""


@dataclass(frozen=True)
class PruneOptions:
    heads: float = 0.25
    """Share of all attention heads that go, rounded down; each block keeps one."""
    channels: float = 0.5
    """Share of each feed-forward layer's channels that go; the rest is rounded up to a multiple of 8."""
    epochs: int = 2
    """Of recovery, taught by the whole ranker; 0: none."""
    batches: int = 32
    """From which importance is measured."""


@dataclass(frozen=True)
class Importance:
    """Of each block: nats of loss that a gate on the head, or channel, moves; `channels` is None in HSTU blocks."""

    heads: tuple[np.ndarray, ...]
    channels: tuple[np.ndarray | None, ...]


def prune(
    fitted: Fitted, histories: Histories, *, options: PruneOptions, training: TrainOptions, run: Path | None = None
) -> Fitted:
    """`fitted` with fewer heads and channels, and what is left trained again for `options.epochs`.

    Its weights are of other shapes than its config says, so that it can be exported but not saved as a checkpoint.
    Raises UsageError where nothing would go, and for a private training.
    """
    if training.dp_clip or fitted.privacy is not None:
        raise UsageError("[train] dp_clip: importance read from the events has no privacy bound; leave pruning out")
    importance = measure_importance(fitted, histories, batches=options.batches, training=training)
    ranker = without(fitted.ranker, importance, heads=options.heads, channels=options.channels)
    if parameters(ranker) == parameters(materialised(fitted.ranker)):
        raise UsageError(
            f"[release] pruned_heads = {options.heads}, pruned_channels = {options.channels}: no head and no channel "
            f"would go of {fitted.ranker.config.blocks} {fitted.ranker.config.block} blocks with "
            f"{fitted.ranker.config.heads} heads each; raise the shares"
        )
    if not options.epochs:
        return replace(fitted, ranker=ranker, optimizer_state={})
    recovery = replace(
        training, epochs=options.epochs, learning_rate=RECOVERY_RATE * training.learning_rate, patience=0
    )
    return taught(ranker, fitted, histories, training=recovery, run=run)


def measure_importance(fitted: Fitted, histories: Histories, *, batches: int, training: TrainOptions) -> Importance:
    """By the full softmax on at most `batches` batches of `histories`. Raises DataRejected without a target."""
    ranker = _copied(fitted.ranker)
    known_I = fitted.vocabulary.rows(histories.items) > 0
    histories = histories.keep(known_I[histories.item_N])
    corpus = Corpus.of(histories, fitted.vocabulary.rows(histories.items), fitted.features)
    rng = np.random.default_rng(training.seed)
    windows = tile(corpus, length=ranker.config.max_history, rng=rng)
    epoch = Epoch.of(corpus, windows, opens_U=None, batch_tokens=training.batch_tokens, rng=rng)
    if not len(epoch):
        raise DataRejected(f"events: {len(histories)} events hold no target to measure importance on")
    loss = Objective(
        ObjectiveOptions(),
        item=ItemObjective(Loss.FULL),
        width=ranker.config.width,
        cosine=bool(ranker.config.temperature),
    )
    blocks = [cast(Block, block) for block in ranker.blocks]
    heads = [np.zeros(block.heads) for block in blocks]
    channels = [np.zeros(_narrow(block).in_features) if isinstance(block, SoftmaxBlock) else None for block in blocks]
    taken = min(batches, len(epoch))
    with seeded_threads(training.threads):
        for step in range(taken):
            ranker.zero_grad()
            loss(ranker, epoch.batch(step), seed=step).total.backward()
            for block, head_H, channel_F in zip(blocks, heads, channels, strict=True):
                head_H += _felt(_out(block)).view(block.heads, -1).sum(dim=1).abs().numpy() / taken
                if channel_F is not None:
                    channel_F += _felt(_narrow(block)).abs().numpy() / taken
    return Importance(tuple(heads), tuple(channels))


def without(ranker: Ranker, importance: Importance, *, heads: float, channels: float) -> Ranker:
    """A copy without the least important `heads` (share of all) and `channels` (share of each layer)."""
    pruned = _copied(ranker)
    blocks = [cast(Block, block) for block in pruned.blocks]
    kept = _kept_heads(importance.heads, share=heads)
    for block, head_K, channel_F in zip(blocks, kept, importance.channels, strict=True):
        _keep_heads(block, torch.from_numpy(head_K))
        if channel_F is not None and isinstance(block, SoftmaxBlock):
            count = -(-round((1 - channels) * len(channel_F)) // CHANNELS_AT_ONCE) * CHANNELS_AT_ONCE
            count = min(len(channel_F), max(CHANNELS_AT_ONCE, count))
            at = torch.from_numpy(np.sort(np.argsort(-channel_F, kind="stable")[:count]))
            block.widen, block.narrow = _rows(block.widen, at), _columns(block.narrow, at)
    return pruned


def parameters(ranker: Ranker) -> int:
    """How many numbers the network holds."""
    return sum(weight.numel() for weight in ranker.parameters())


def _kept_heads(importance: tuple[np.ndarray, ...], *, share: float) -> list[np.ndarray]:
    """Of each block the heads that stay, ascending; the most important one of a block always does."""
    score = [head_H / max(float(np.linalg.norm(head_H)), 1e-30) for head_H in importance]
    kept = [np.ones(len(head_H), dtype=bool) for head_H in importance]
    weakest = sorted((value, block, head) for block, each in enumerate(score) for head, value in enumerate(each))
    left = int(share * len(weakest))
    for _, block, head in weakest:
        if left and kept[block].sum() > 1:
            kept[block][head] = False
            left -= 1
    return [np.flatnonzero(kept_H) for kept_H in kept]


def _keep_heads(block: Block, head_K: Tensor) -> None:
    old = block.heads
    wide = _out(block).in_features
    at = torch.arange(wide).view(old, -1)[head_K].flatten()
    both = torch.cat([at, wide + at])  # two of them in one matrix, one after the other
    block.heads = len(head_K)
    block.position_bias = _parameter(block.position_bias, head_K)
    block.time_bias = _parameter(block.time_bias, head_K)
    if isinstance(block, SoftmaxBlock):
        block.query, block.key_value = _rows(block.query, at), _rows(block.key_value, both)
        block.out = _columns(block.out, at)
    elif isinstance(block, HSTUBlock):
        block.query_gate, block.key_value = _rows(block.query_gate, both), _rows(block.key_value, both)
        norm = nn.LayerNorm(len(at), eps=block.mixed_norm.eps)
        norm.weight, norm.bias = (
            nn.Parameter(each.detach()[at]) for each in (block.mixed_norm.weight, block.mixed_norm.bias)
        )
        block.mixed_norm, block.out = norm, _columns(block.out, at)
    else:
        raise UsageError(f"{type(block).__name__}: heads of such a block cannot be pruned; leave `pruned` out")


def _felt(layer: nn.Linear) -> Tensor:
    """⟨W, ∂L/∂W⟩ of each of the layer's inputs: ∂L/∂ξ of a gate on that input."""
    assert layer.weight.grad is not None
    return (layer.weight.detach() * layer.weight.grad).sum(dim=0)


def _out(block: Block) -> nn.Linear:
    return cast(nn.Linear, block.out)


def _narrow(block: Block) -> nn.Linear:
    return cast(nn.Linear, block.narrow)


def _rows(layer: nn.Linear, at: Tensor) -> nn.Linear:
    """The layer with these outputs alone."""
    made = nn.Linear(layer.in_features, len(at), device="meta")
    made.weight, made.bias = nn.Parameter(layer.weight.detach()[at]), nn.Parameter(layer.bias.detach()[at])
    return made


def _columns(layer: nn.Linear, at: Tensor) -> nn.Linear:
    """The layer with these inputs alone."""
    made = nn.Linear(len(at), layer.out_features, device="meta")
    made.weight, made.bias = nn.Parameter(layer.weight.detach()[:, at]), nn.Parameter(layer.bias.detach().clone())
    return made


def _parameter(table: nn.Parameter, head_K: Tensor) -> nn.Parameter:
    return nn.Parameter(table.detach()[:, head_K], requires_grad=table.requires_grad)


def _copied(ranker: Ranker) -> Ranker:
    """With its modalities worked in; the argument stays as it is."""
    return copy.deepcopy(materialised(ranker))
