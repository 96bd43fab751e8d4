"""What determines a network: stored beside its weights as `config.json`."""

from enum import StrEnum
from typing import Any

from transformers import PreTrainedConfig


class BlockKind(StrEnum):
    SOFTMAX = "softmax"
    """Softmax attention and a feed-forward layer (Vaswani et al. 2017, pre-norm as Xiong et al. 2020)."""
    HSTU = "hstu"
    """Pointwise attention with a gate, and no feed-forward layer (Zhai et al., ICML 2024)."""


class RankerConfig(PreTrainedConfig):  # type: ignore[misc]
    """The configuration of a `Ranker`.

    items, behaviours: sizes of the vocabularies, without padding.
    width: D of the states and of the item vectors, a multiple of `heads`.
    blocks, heads: depth, and attention heads of each block.
    max_history: the most events that the network sees.
    dropout: on the embeddings, and on what each half block adds.
    block: "softmax" or "hstu".
    feed: the feed-forward layer is this many times as wide as the states (softmax blocks).
    absolute_positions: a learned vector for each place counted from the oldest visible event.
    relative_positions: a learned bias for each distance and head (Shaw et al. 2018; Raffel et al. 2020).
    relative_times: a learned bias for each bucket of the time between key and request, and head (Zhai et al. 2024).
    temperature: above 0, logits are cosines over this; 0: inner products.
    modalities: what items say and look like beside their ids (`model.modalities.fusion.TowerConfig`), by name.
    attributes: what is known of users and events (`model.features.FeatureSpec`): how many codes each has, by name.
    """

    model_type = "ratchet_ranker"
    temperature: float = 0.0  # declared, since Hugging Face would otherwise take it for a parameter of text generation

    def __init__(
        self,
        *,
        items: int = 0,
        behaviours: int = 0,
        width: int = 64,
        blocks: int = 2,
        heads: int = 2,
        max_history: int = 50,
        dropout: float = 0.2,
        block: str = BlockKind.SOFTMAX,
        feed: int = 4,
        absolute_positions: bool = True,
        relative_positions: bool = True,
        relative_times: bool = True,
        temperature: float = 0.0,
        modalities: dict[str, dict[str, Any]] | None = None,
        attributes: dict[str, int] | None = None,
        **rest: Any,
    ) -> None:
        self.items = items
        self.behaviours = behaviours
        self.width = width
        self.blocks = blocks
        self.heads = heads
        self.max_history = max_history
        self.dropout = dropout
        self.block = str(BlockKind(block))
        self.feed = feed
        self.absolute_positions = absolute_positions
        self.relative_positions = relative_positions
        self.relative_times = relative_times
        self.temperature = temperature
        self.modalities = modalities or {}
        self.attributes = dict(sorted((attributes or {}).items()))  # the order of the file
        super().__init__(**rest)
