"""The network: a causal transformer over a user's events that scores every item.

Shapes: B users, L positions (left-padded with 0), D width, H heads, V items.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel

SCORE_BLOCK = 256


class RankerConfig(PreTrainedConfig):  # type: ignore[misc]
    model_type = "ratchet_ranker"

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
        **rest: Any,
    ) -> None:
        """`items` and `behaviours` without padding."""
        self.items = items
        self.behaviours = behaviours
        self.width = width
        self.blocks = blocks
        self.heads = heads
        self.max_history = max_history
        self.dropout = dropout
        super().__init__(**rest)


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each added to its input."""

    def __init__(self, config: RankerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.dropout
        self.attention_norm = nn.LayerNorm(config.width)
        self.query = nn.Linear(config.width, config.width)
        self.key_value = nn.Linear(config.width, 2 * config.width)
        self.mix = nn.Linear(config.width, config.width)
        self.feed_norm = nn.LayerNorm(config.width)
        self.widen = nn.Linear(config.width, 4 * config.width)
        self.narrow = nn.Linear(4 * config.width, config.width)

    def forward(self, x_BLD: Tensor, visible_BLL: Tensor | None, *, newest_only: bool = False) -> Tensor:
        """`visible_BLL` [B, 1, L, L] says which key each query may see; None: every key up to the query's place.

        With `newest_only` the answer is [B, 1, D], the last position alone: in the last block nothing else is read.
        """
        normed_BLD = self.attention_norm(x_BLD)
        if newest_only:
            x_BLD = x_BLD[:, -1:]
            query = self._split(self.query(normed_BLD[:, -1:]))
            visible_BLL = None if visible_BLL is None else visible_BLL[:, :, -1:]
        else:
            query = self._split(self.query(normed_BLD))
        key, value = (self._split(part) for part in self.key_value(normed_BLD).chunk(2, dim=-1))
        causal = visible_BLL is None and not newest_only
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=visible_BLL, is_causal=causal)
        x_BLD = x_BLD + self._drop(self.mix(mixed.transpose(1, 2).flatten(2)))
        wide = functional.gelu(self.widen(self.feed_norm(x_BLD)), approximate="tanh")
        return x_BLD + self._drop(self.narrow(wide))

    def _split(self, x_BLD: Tensor) -> Tensor:
        return x_BLD.view(*x_BLD.shape[:2], self.heads, -1).transpose(1, 2)

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training)


class Ranker(PreTrainedModel):  # type: ignore[misc]
    """Item + behaviour + position embeddings, pre-norm causal blocks, a final norm, output tied to the items.

    Position 0 is the user's oldest visible event, so the same history padded to another length scores the same. A
    padding position sees only itself; its output is the answer for a user without history.
    """

    config_class = RankerConfig
    base_model_prefix = "ranker"

    def __init__(self, config: RankerConfig) -> None:
        super().__init__(config)
        self.item_table = nn.Embedding(config.items + 1, config.width)
        self.behaviour_table = nn.Embedding(config.behaviours + 1, config.width)
        self.position_table = nn.Embedding(config.max_history, config.width)
        self.item_bias = nn.Parameter(torch.zeros(config.items + 1))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.final_norm = nn.LayerNorm(config.width)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02 if isinstance(module, nn.Embedding) else module.in_features**-0.5)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    @torch.no_grad()
    def start_from_popularity(self, count_V: np.ndarray) -> None:
        """Set the items' biases to their centred log counts: popularity is known, so no step need be spent on it."""
        log_V = torch.from_numpy(np.log(np.maximum(count_V, 1))).to(self.item_bias)
        self.item_bias[1:] = log_V - log_V.mean()

    def forward(self, items: Tensor, behaviours: Tensor) -> Tensor:
        """Scores [B, V] of the next item; column c is vocabulary row c + 1.

        `items` and `behaviours` int64 [B, L], newest last, left-padded with 0, 1 ≤ L ≤ max_history.
        """
        real_BL = items > 0
        order_L = torch.arange(items.shape[1], device=items.device)
        causal_LL = order_L[:, None] >= order_L[None, :]
        itself_LL = order_L[:, None] == order_L[None, :]
        visible_BLL = ((causal_LL & real_BL[:, None, :]) | itself_LL)[:, None]
        x_BLD = self._embed(items, behaviours)
        for index, block in enumerate(self.blocks):
            x_BLD = block(x_BLD, visible_BLL, newest_only=index == len(self.blocks) - 1)
        return self._score(self.final_norm(x_BLD[:, -1]))

    def encode(self, row_BL: Tensor, behaviour_BL: Tensor) -> Tensor:
        """States [B, L, D] of right-padded windows, for training; no mask, since causal attention never looks right."""
        x_BLD = self._embed(row_BL, behaviour_BL)
        for block in self.blocks:
            x_BLD = block(x_BLD, None)
        state_BLD: Tensor = self.final_norm(x_BLD)
        return state_BLD

    def _score(self, state_BD: Tensor) -> Tensor:
        table_VD: Tensor = self.item_table.weight
        bias_V: Tensor = self.item_bias
        if not torch.compiler.is_exporting():
            # torch's CPU kernels round a product's last columns otherwise than those inside; in whole blocks a known
            # item's score keeps its bits however many items follow. ONNX Runtime's kernel does so by itself.
            spare = -len(table_VD) % SCORE_BLOCK
            table_VD, bias_V = functional.pad(table_VD, (0, 0, 0, spare)), functional.pad(bias_V, (0, spare))
        return functional.linear(state_BD, table_VD, bias_V)[:, 1 : self.config.items + 1]

    def _embed(self, row_BL: Tensor, behaviour_BL: Tensor) -> Tensor:
        place_BL = ((row_BL > 0).cumsum(dim=1) - 1).clamp(min=0)
        x_BLD = self.item_table(row_BL) + self.behaviour_table(behaviour_BL) + self.position_table(place_BL)
        return functional.dropout(x_BLD, self.config.dropout, self.training)
