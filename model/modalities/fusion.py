"""The item table: an id embedding, and gated beside it what an item says and looks like.

Shapes: R rows asked for, V items (row 0 of a table of V + 1 is padding), D width, W whitened directions of a modality,
K dimensions of its vectors.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.modalities.material import Modality, Whitening
from relations.errors import DataRejected

SCALE = 0.02
"""Deviation of a fresh projection's answers, and of a fresh id embedding's entries: neither drowns the other."""
COSINE_SCALE = 3.0
"""The same where logits are cosines, so that lengths do not count in them: what blocks add at first is then small
against what the item says, and an untrained network already recommends what resembles the newest events. One seed of
Amazon's reviews, width 64: HR@10 of items never met .026 at scale 1, .043 at 3.
"""
OPEN = 1.0
"""A fresh gate is σ(1) ≈ .73 open: the modality speaks from the first step, and can be turned up or down."""
BY_ITEM = ("weight", "white_VW", "present_V")
"""Tensors with one row an item."""


@dataclass(frozen=True)
class TowerConfig:
    """Stored in the network's configuration, a modality each."""

    dims: int
    """K"""
    kept: int
    """W"""
    id_dropout: float = 0.1
    source: str = ""
    """What made the vectors: an encoder's digest."""

    @staticmethod
    def of(modalities: Mapping[str, Modality]) -> dict[str, dict[str, Any]]:
        """As JSON takes it, by the modality's name."""
        return {
            name: asdict(TowerConfig(modality.vector_VK.shape[1], modality.kept, modality.id_dropout, modality.source))
            for name, modality in modalities.items()
        }


class Tower(nn.Module):
    """One modality of every item: frozen whitened vectors with their mask, a learned projection and a learned gate."""

    white_VW: Tensor
    present_V: Tensor
    mean_K: Tensor
    matrix_KW: Tensor

    def __init__(self, items: int, width: int, config: TowerConfig, *, scale: float) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("white_VW", torch.zeros(items + 1, config.kept))
        self.register_buffer("present_V", torch.zeros(items + 1, dtype=torch.bool))
        self.register_buffer("mean_K", torch.zeros(config.dims))
        self.register_buffer("matrix_KW", torch.zeros(config.dims, config.kept))
        self.projection_DW = nn.Parameter(torch.randn(width, config.kept) * (scale / config.kept**0.5))
        self.gate_id_D = nn.Parameter(torch.zeros(width))
        self.gate_vector_W = nn.Parameter(torch.zeros(config.kept))
        self.gate_bias = nn.Parameter(torch.full((1,), OPEN))

    def forward(self, id_RD: Tensor, rows: Tensor | None) -> Tensor:
        """What the modality adds [R, D]: σ(a·e + b·x + c) (P x) where it is present, 0 elsewhere."""
        white_RW = self.white_VW if rows is None else functional.embedding(rows, self.white_VW)
        present_R = self.present_V if rows is None else self.present_V[rows]
        gate_R = torch.sigmoid(id_RD @ self.gate_id_D + white_RW @ self.gate_vector_W + self.gate_bias)
        return (gate_R * present_R)[..., None] * functional.linear(white_RW, self.projection_DW)

    @torch.no_grad()
    def fill(self, modality: Modality, whitening: Whitening) -> None:
        """Take the vectors of all items through `whitening`."""
        self.mean_K.copy_(torch.from_numpy(whitening.mean_K))
        self.matrix_KW.copy_(torch.from_numpy(whitening.matrix_KW))
        self.white_VW[1:] = torch.from_numpy(whitening.apply(modality))
        self.present_V[1:] = torch.from_numpy(modality.present_V)


class ItemVectors(nn.Embedding):
    """f_v = e_v + Σ_m p_vm · σ(a_m·e_v + b_m·x_vm + c_m) · P_m x_vm for item v and its modalities m.

    e_v is the id embedding (`weight`), x_vm the whitened vector, p_vm its presence. The gate is that of gated
    multimodal units (Arevalo et al. 2017, section 3.1), here one number an item and modality. Without modalities this
    is `nn.Embedding` and costs what that costs.

    In training the id of an item that has a modality is left out with probability `id_dropout` (the largest of its
    modalities'), so that vectors learn to stand alone (DropoutNet, Volkovs et al., NeurIPS 2017, section 4.2): an item
    whose id was never trained has e_v = 0 and is scored by its vectors. With `id_dropout` 1 such ids are never used.
    """

    def __init__(
        self,
        items: int,
        width: int,
        *,
        modalities: Mapping[str, Mapping[str, Any]] | None = None,
        scale: float = SCALE,
    ) -> None:
        """`items` without padding; `modalities` as `TowerConfig.of` gives them, and in their order."""
        super().__init__(items + 1, width)
        self.modalities = tuple(modalities or {})
        self.towers = nn.ModuleList(
            Tower(items, width, TowerConfig(**stated), scale=scale) for stated in (modalities or {}).values()
        )

    def start(self, modalities: Mapping[str, Modality]) -> None:
        """Take the vectors before the first training, and fit each modality's whitening on them.

        Raises ValueError when they are not of these modalities and items.
        """
        if set(modalities) != set(self.modalities):
            raise ValueError(f"vectors of {sorted(modalities)} for a network with {sorted(self.modalities)}")
        self._check(modalities)
        for name, tower in self._each():
            tower.fill(modalities[name], Whitening.fit(modalities[name]))

    def table(self) -> Tensor:
        """The fused table [V + 1, D], row 0 included; the parameter itself when there is no modality."""
        return self._fused(None) if self.towers else self.weight

    def forward(self, rows: Tensor) -> Tensor:
        """The fused vectors [..., D] of `rows` [...]."""
        if not self.towers:
            return super().forward(rows)
        if rows.numel() > self.num_embeddings and not self.sparse:  # cheaper once an item than once a position
            return functional.embedding(rows, self.table())
        return self._fused(rows)

    def _fused(self, rows: Tensor | None) -> Tensor:
        id_RD = self.weight if rows is None else super().forward(rows)
        id_RD = id_RD * self._kept_ids(rows)[..., None]
        fused_RD = id_RD
        for tower in self.towers:
            fused_RD = fused_RD + tower(id_RD, rows)
        return fused_RD

    def _kept_ids(self, rows: Tensor | None) -> Tensor:
        """Float [R]: 0 where the id is left out."""
        share_R = torch.zeros(self.num_embeddings if rows is None else rows.shape, device=self.weight.device)
        for _, tower in self._each():
            present_R = tower.present_V if rows is None else tower.present_V[rows]
            share_R = torch.maximum(share_R, present_R * tower.config.id_dropout)
        if self.training:
            return (torch.rand_like(share_R) >= share_R).to(self.weight.dtype)
        return (share_R < 1).to(self.weight.dtype)

    def first_vectors(self) -> Tensor | None:
        """Whitened vectors [V, W] of the first modality, rows of zeros where an item has none; None without any."""
        return next((tower.white_VW[1:] for _, tower in self._each()), None)

    @torch.no_grad()
    def grown(
        self, items: int, *, start_RD: Tensor | None = None, modalities: Mapping[str, Modality] | None = None
    ) -> "ItemVectors":
        """With rows for `items` items; this one stays as it is.

        `modalities` hold the vectors of all items, old and new; they replace the former ones and are whitened as at the
        first training. Of a modality that is not among them what is known stays, and new items have none. A new item
        with vectors has the id embedding 0, so that it starts from them; one without starts from its row of `start_RD`,
        else from the mean of the known. Raises DataRejected when another encoder made the vectors: they mean something
        else.
        """
        known, width = self.num_embeddings - 1, self.embedding_dim
        grown = self._sized(items)
        if start_RD is None:
            start_RD = self.materialised().weight[1:].mean(dim=0).nan_to_num().expand(items - known, width)
        grown.weight[: known + 1], grown.weight[known + 1 :] = self.weight, start_RD
        modalities = modalities or {}
        grown._check(modalities)
        for (name, tower), (_, fresh) in zip(self._each(), grown._each(), strict=True):
            if name in modalities:
                fresh.fill(modalities[name], Whitening(tower.mean_K.cpu().numpy(), tower.matrix_KW.cpu().numpy()))
            else:
                fresh.white_VW[: known + 1], fresh.present_V[: known + 1] = tower.white_VW, tower.present_V
            grown.weight[known + 1 :][fresh.present_V[known + 1 :]] = 0
        return grown.train(self.training)

    @torch.no_grad()
    def without_items(self) -> "ItemVectors":
        """What is learnt of modalities, and no item: what `grown` appends to it, it would append to this one."""
        bare = self._sized(0)
        bare.weight.copy_(self.weight[:1])
        return bare.train(self.training)

    def _sized(self, items: int) -> "ItemVectors":
        """For so many items, with the towers of this one; what belongs to an item is not filled in."""
        stated = {name: asdict(tower.config) for name, tower in self._each()}
        sized = ItemVectors(items, self.embedding_dim, modalities=stated).to(self.weight)
        sized.load_state_dict(
            {name: tensor for name, tensor in self.state_dict().items() if name.rpartition(".")[2] not in BY_ITEM},
            strict=False,
        )
        return sized

    @torch.no_grad()
    def materialised(self) -> "ItemVectors":
        """The same vectors as a plain table: what is exported, and what scores fast. Modalities are worked in."""
        plain = ItemVectors(self.num_embeddings - 1, self.embedding_dim).to(self.weight).eval()
        training = self.training
        plain.weight.copy_(self.eval().table())
        self.train(training)
        return plain

    def _each(self) -> list[tuple[str, Tower]]:
        towers = [tower for tower in self.towers if isinstance(tower, Tower)]
        return list(zip(self.modalities, towers, strict=True))

    def _check(self, modalities: Mapping[str, Modality]) -> None:
        """Raises ValueError for a modality of another network or of other items, DataRejected for its source."""
        for name in modalities:
            if name not in self.modalities:
                raise ValueError(f"vectors of {name} for a network with {sorted(self.modalities)}")
        for name, tower in self._each():
            if name not in modalities:
                continue
            config, modality = tower.config, modalities[name]
            if modality.source != config.source:
                raise DataRejected(
                    f"[modalities.{name}] the vectors come from {modality.source or 'elsewhere'}, the network was "
                    f"trained on those of {config.source or 'another'}; run a full retrain"
                )
            if (len(modality), modality.vector_VK.shape[1]) != (self.num_embeddings - 1, config.dims):
                raise ValueError(
                    f"[modalities.{name}] vectors {modality.vector_VK.shape} for {self.num_embeddings - 1} items of "
                    f"{config.dims} dimensions"
                )
