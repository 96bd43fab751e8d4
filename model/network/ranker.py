"""The network: a causal transformer over a user's events that scores every item.

Shapes: N packed positions, B users, L positions (left-padded with 0), D width, V items, A attributes.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from model.modalities.fusion import COSINE_SCALE, SCALE, ItemVectors
from model.network.blocks import BLOCKS, drop
from model.network.config import RankerConfig
from model.network.sight import Group, Packed, Padded, buckets

SCORE_BLOCK = 256
ROUND = 64


class Ranker(PreTrainedModel):  # type: ignore[misc]
    """Item + behaviour + position embeddings, pre-norm causal blocks, a final norm, output tied to the items.

    Position 0 is the user's oldest visible event, so the same history padded to another length scores the same. A
    padding position sees only itself; its output is the answer for a user without history.
    """

    config_class = RankerConfig
    base_model_prefix = "ranker"

    def __init__(self, config: RankerConfig) -> None:
        super().__init__(config)
        scale = COSINE_SCALE if config.temperature else SCALE
        self.item_table = ItemVectors(config.items, config.width, modalities=config.modalities, scale=scale)
        self.behaviour_table = nn.Embedding(config.behaviours + 1, config.width)
        self.position_table = nn.Embedding(config.max_history if config.absolute_positions else 0, config.width)
        # Zeros, and not of chance: a network with attributes begins as the one without.
        self.attribute_tables = nn.ParameterList(torch.zeros(n, config.width) for n in config.attributes.values())
        self.mask_vector = nn.Parameter(torch.zeros(config.width))
        self.item_bias = nn.Parameter(torch.zeros(config.items + 1))
        self.blocks = nn.ModuleList(BLOCKS[config.block](config) for _ in range(config.blocks))
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

    def forward(self, items: Tensor, behaviours: Tensor, ages: Tensor, attributes: Tensor | None = None) -> Tensor:
        """Scores [B, V] of the next item; column c is vocabulary row c + 1.

        `items`, `behaviours` and `ages` int64 [B, L], newest last, left-padded with 0, 1 ≤ L ≤ max_history. An age is
        in seconds before the request; all 0 where times are unknown. `attributes` int64 [B, L, A], codes of the feature
        spec; None: all missing.
        """
        return self._score(self.newest_state(items, behaviours, ages, attributes))

    def newest_state(self, items: Tensor, behaviours: Tensor, ages: Tensor, attributes: Tensor | None = None) -> Tensor:
        """[B, D] after the newest event, of the same arguments; scores are its products with `scoring_table`."""
        real_BL = items > 0
        place_BL = (real_BL.cumsum(dim=1) - 1).clamp(min=0)
        bucket_BLL = buckets(ages) if self.config.relative_times else None
        sight = Padded(real_BL, bucket_BLL)
        x_BLD = self._embed(self.item_table(items), behaviours, place_BL, attributes)
        for block in self.blocks[:-1]:
            x_BLD = block(x_BLD, sight, x_BLD.dtype)
        newest = Padded(real_BL, bucket_BLL, newest_only=True)
        x_BD = self.blocks[-1](x_BLD, newest, x_BLD.dtype, newest_only=True)[:, -1]
        return self._finish(x_BD)

    def encode(
        self,
        row_N: Tensor,
        behaviour_N: Tensor,
        age_N: Tensor,
        place_N: Tensor,
        *,
        groups: Sequence[Group],
        dtype: torch.dtype = torch.float32,
        masked_N: Tensor | None = None,
        shift_ND: Tensor | None = None,
        causal: bool = True,
        attribute_NA: Tensor | None = None,
    ) -> Tensor:
        """States [N, D] of packed windows, for training. `place_N`: the position's place in its window.

        Where `masked_N`, the mask vector stands in the item's place; `shift_ND` is added to the items'
        vectors. With `causal=False` a position sees its whole window.
        """
        sight = Packed(groups, age_N, timed=self.config.relative_times, causal=causal)
        item_ND = self.item_table(row_N)
        if masked_N is not None:
            item_ND = torch.where(masked_N[:, None], self.mask_vector, item_ND)
        if shift_ND is not None:
            item_ND = item_ND + shift_ND
        x_ND = self._embed(item_ND, behaviour_N, place_N, attribute_NA)
        # Products of new shapes are slow the first time, so there are few: the positions are rounded up.
        x_ND = functional.pad(x_ND, (0, 0, 0, -len(row_N) % ROUND))
        for block in self.blocks:
            x_ND = block(x_ND, sight, dtype)
        return self._finish(x_ND[: len(row_N)])

    def catalogue(self) -> tuple[Tensor, Tensor]:
        """[V, D] and [V]: the logits of states s are s @ table.T + bias."""
        bias_V: Tensor = self.item_bias[1:]
        return self._as_cosine(self.item_table.table()[1:]), bias_V

    def scoring_table(self) -> tuple[Tensor, Tensor]:
        """[V + 1, D] and [V + 1]: `catalogue` with padding's row 0 before it."""
        return self._as_cosine(self.item_table.table()), self.item_bias

    def catalogue_rows(self, row_R: Tensor) -> tuple[Tensor, Tensor]:
        """[R, D] and [R] of `catalogue`, looked up: with a sparse table, their gradient holds these rows alone."""
        return self._as_cosine(self.item_table(row_R)), self.item_bias[row_R]

    def _finish(self, x: Tensor) -> Tensor:
        state: Tensor = self.final_norm(x)
        if self.config.temperature:
            state = functional.normalize(state, dim=-1) / self.config.temperature
        return state

    def _as_cosine(self, table_VD: Tensor) -> Tensor:
        return functional.normalize(table_VD, dim=-1) if self.config.temperature else table_VD

    def _score(self, state_BD: Tensor) -> Tensor:
        table_VD, bias_V = self.scoring_table()
        # torch's CPU kernels round a product's last columns otherwise than those inside; in whole blocks a known
        # item's score keeps its bits however many items follow. ONNX Runtime's kernel does so by itself.
        spare = -len(table_VD) % SCORE_BLOCK
        table_VD, bias_V = functional.pad(table_VD, (0, 0, 0, spare)), functional.pad(bias_V, (0, spare))
        return functional.linear(state_BD, table_VD, bias_V)[:, 1 : self.config.items + 1]

    def _embed(self, item: Tensor, behaviour: Tensor, place: Tensor, attribute: Tensor | None) -> Tensor:
        x = item + self.behaviour_table(behaviour)
        if self.config.absolute_positions:
            x = x + self.position_table(place)
        if attribute is not None:
            for table, code in zip(self.attribute_tables, attribute.unbind(-1), strict=True):
                x = x + functional.embedding(code, table, padding_idx=0)  # 0, a missing value, stays at zero
        return drop(x, self.config.dropout, self.training)


def materialised(ranker: Ranker) -> Ranker:
    """The ranker with its modalities worked into a plain item table, in eval mode: what is exported and scores fast."""
    if not ranker.config.modalities:
        ranker.eval()
        return ranker
    with torch.device("meta"):
        plain = Ranker(RankerConfig.from_dict(ranker.config.to_dict() | {"modalities": {}}))
    weights = {name: tensor for name, tensor in ranker.state_dict().items() if not name.startswith("item_table.")}
    plain.load_state_dict(weights | {"item_table.weight": ranker.item_table.materialised().weight}, assign=True)
    plain.eval()
    return plain
