"""Generalised binary cross-entropy over the target and sampled negatives.

Shapes: N states, D width, V items, S shared negatives, K negatives of one target. Gradients come with the loss, a
chunk of states at a time, as in `softmax`: no array of states × negatives × width outlives its chunk.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from model.objectives.softmax import CHUNK_ELEMENTS


def calibrated_beta(*, negatives: int, items: int, calibration: float) -> float:
    """β, the power on the target's probability: α·(t·(1 − 1/α) + 1/α) = 1 − t·(1 − α), with α = K/(V − 1).

    `calibration` is t: 0 gives β = 1, plain binary cross-entropy, whose probabilities the sampling makes too large; 1
    gives β = α, with which σ(score) tends to the true probability. Between them it trades calibration for speed of
    learning. Source: Petrov & Macdonald, "gSASRec", RecSys 2023. With as many negatives as there are other items, or
    more (shared draws repeat), nothing is sampled away: α is at most 1.
    """
    rate = min(1.0, negatives / max(1, items - 1))
    return 1 - calibration * (1 - rate)


def gbce(
    state_ND: Tensor,
    table_VD: Tensor,
    bias_V: Tensor,
    target_N: Tensor,
    *,
    negative: Tensor,
    beta: float,
    weight_N: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Weighted mean over targets of −(β·log σ(s⁺) + Σ_k log(1 − σ(s_k⁻))) / (K + 1), in nats.

    `negative` holds columns of `table_VD`: [S], shared by all states, or [N, K], each target's own; drawn uniformly, or
    β does not calibrate. A negative that equals its target adds nothing, and K counts it. Weights of sum 0 give 0.
    `dtype` of the products with shared negatives (None: that of the states); sums are in the states'.
    Source: as `calibrated_beta`; β = 1 is the loss of SASRec (Kang & McAuley, ICDM 2018).
    """
    weight_N = state_ND.new_ones(len(state_ND)) if weight_N is None else weight_N.to(state_ND.dtype)
    return _GBCE.apply(  # type: ignore[no-any-return, no-untyped-call]
        state_ND, table_VD, bias_V, target_N, negative, beta, weight_N, dtype or state_ND.dtype
    )


class _GBCE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        state_ND: Tensor,
        table_VD: Tensor,
        bias_V: Tensor,
        target_N: Tensor,
        negative: Tensor,
        beta: float,
        weight_N: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        shared, draws = negative.dim() == 1, negative.shape[-1]
        share_N = weight_N / (torch.where((total := weight_N.sum()) > 0, total, torch.ones_like(total)) * (draws + 1))
        grad_state, grad_table, grad_bias = (torch.zeros_like(x) for x in (state_ND, table_VD, bias_V))
        negative_SD = table_VD[negative].to(dtype) if shared else None
        grad_negative, slope_S = (table_VD.new_zeros(draws, table_VD.shape[1]), bias_V.new_zeros(draws))
        loss = state_ND.new_zeros(())
        step = max(1, CHUNK_ELEMENTS // max(1, draws * (1 if shared else table_VD.shape[1])))
        for at in range(0, len(state_ND), step):
            part = slice(at, at + step)
            state, target, share = state_ND[part], target_N[part], share_N[part]
            positive_ND = table_VD[target]
            own_N = (state * positive_ND).sum(dim=1) + bias_V[target]
            own_slope_N = -beta * torch.sigmoid(-own_N) * share
            grad_state[part] = own_slope_N[:, None] * positive_ND
            grad_table.index_add_(0, target, own_slope_N[:, None] * state)
            grad_bias.index_add_(0, target, own_slope_N)
            drawn = negative[None] if negative_SD is not None else negative[part]
            counted = (drawn != target[:, None]) * share[:, None]
            if negative_SD is not None:
                logits = torch.addmm(bias_V[negative].to(dtype), state.to(dtype), negative_SD.T).to(state.dtype)
            else:
                near_NKD = table_VD[drawn]
                logits = torch.einsum("nd,nkd->nk", state, near_NKD) + bias_V[drawn]
            loss += (beta * functional.softplus(-own_N) * share).sum() + (functional.softplus(logits) * counted).sum()
            slope = logits.sigmoid_().mul_(counted)
            if negative_SD is not None:
                grad_state[part] += slope.to(dtype) @ negative_SD
                grad_negative += slope.to(dtype).T @ state.to(dtype)
                slope_S += slope.sum(dim=0)
            else:
                grad_state[part] += torch.einsum("nk,nkd->nd", slope, near_NKD)
                pushed = slope[:, :, None] * state[:, None, :]
                grad_table.index_add_(0, drawn.flatten(), pushed.flatten(0, 1))
                grad_bias.index_add_(0, drawn.flatten(), slope.flatten())
        if shared:
            grad_table.index_add_(0, negative, grad_negative)
            grad_bias.index_add_(0, negative, slope_S)
        ctx.save_for_backward(grad_state, grad_table, grad_bias)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*(saved * grad for saved in ctx.saved_tensors), None, None, None, None, None)
