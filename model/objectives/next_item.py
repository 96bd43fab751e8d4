"""The main term: the next item, by whichever loss `[train] loss` names.

Shapes: T targets, D width, V items, S shared negatives.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.objectives.gbce import calibrated_beta, gbce
from model.objectives.softmax import full_softmax, sampled_softmax
from model.options import Loss


@dataclass(frozen=True)
class Negatives:
    """One draw for all targets of a step: columns of the catalogue, and the log probability of drawing each.

    By popularity for the sampled softmax, which corrects for it; uniform for gBCE, which does not.
    """

    column_S: Tensor
    log_q_S: Tensor
    items: int = 0
    """Among how many it was drawn; 0: as many as the catalogue that goes with it has."""


@dataclass(frozen=True)
class ItemObjective:
    loss: Loss
    smoothing: float = 0.0
    """Label smoothing of the full softmax."""
    calibration: float = 0.75
    """t of gBCE."""

    def __call__(
        self,
        state_TD: Tensor,
        catalogue: tuple[Tensor, Tensor],
        column_T: Tensor,
        *,
        weight_T: Tensor | None,
        negatives: Negatives | None,
        dtype: torch.dtype,
    ) -> Tensor:
        """Mean loss of `column_T`, in nats. Raises ValueError when a sampled loss gets no negatives."""
        table_VD, bias_V = catalogue
        if self.loss is Loss.FULL:
            return full_softmax(
                state_TD, table_VD, bias_V, column_T, weight_N=weight_T, smoothing=self.smoothing, dtype=dtype
            )
        if negatives is None:
            raise ValueError(f"loss = {self.loss} needs negatives")
        if self.loss is Loss.SAMPLED:
            return sampled_softmax(
                state_TD,
                table_VD,
                bias_V,
                column_T,
                negative_S=negatives.column_S,
                log_q_S=negatives.log_q_S,
                weight_N=weight_T,
                dtype=dtype,
            )
        items = negatives.items or len(table_VD)
        beta = calibrated_beta(negatives=len(negatives.column_S), items=items, calibration=self.calibration)
        return gbce(
            state_TD, table_VD, bias_V, column_T, negative=negatives.column_S, beta=beta, weight_N=weight_T, dtype=dtype
        )
