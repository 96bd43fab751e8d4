"""Softmax losses that never hold states × items at once.

Shapes: N states, D width, V items, S negatives. Both compute their gradients together with the loss, a chunk of
states at a time, so that a chunk's logits are the only large array alive: backward merely scales what is there.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 2_000_000
"""Logits alive at once: 8 MB of float32, which still fits a CPU's outer cache."""


def full_softmax(state_ND: Tensor, table_VD: Tensor, bias_V: Tensor, target_N: Tensor) -> Tensor:
    """Mean cross-entropy of the target among all items, in nats. `target_N` are columns of `table_VD`."""
    return _Full.apply(state_ND, table_VD, bias_V, target_N)  # type: ignore[no-any-return, no-untyped-call]


def sampled_softmax(
    state_ND: Tensor,
    table_VD: Tensor,
    bias_V: Tensor,
    target_N: Tensor,
    *,
    negative_S: Tensor,
    log_q_S: Tensor,
) -> Tensor:
    """Mean cross-entropy of the target among itself and negatives that all states share, in nats.

    Negatives are drawn with replacement; `log_q_S` is the log probability that one draw gives that item. Subtracting
    log(S·q) makes the sum over negatives an unbiased estimate of the sum over all other items, so the loss tends to
    `full_softmax` as S grows. The target itself is always present and gets no correction; a negative that equals a
    state's target is left out for that state. Sources: Bengio & Senécal 2008; without a correction
    of the target: Khrylchenko et al., RecSys 2025.
    """
    correction_S = log_q_S + torch.log(torch.tensor(float(len(negative_S)), device=log_q_S.device))
    return _Sampled.apply(  # type: ignore[no-any-return, no-untyped-call]
        state_ND, table_VD, bias_V, target_N, negative_S, correction_S
    )


class _Full(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, state_ND: Tensor, table_VD: Tensor, bias_V: Tensor, target_N: Tensor) -> Tensor:
        count = len(state_ND)
        grad_state, grad_table, grad_bias = (
            torch.empty_like(state_ND),
            torch.zeros_like(table_VD),
            torch.zeros_like(bias_V),
        )
        loss = state_ND.new_zeros(())
        step = max(1, CHUNK_ELEMENTS // len(table_VD))
        for at in range(0, count, step):
            state, target = state_ND[at : at + step], target_N[at : at + step]
            each = torch.arange(len(state), device=state.device)
            logits = torch.addmm(bias_V, state, table_VD.T)
            scale = logits.logsumexp(dim=1)
            loss += (scale - logits[each, target]).sum()
            slope = logits.sub_(scale[:, None]).exp_()
            slope[each, target] -= 1
            torch.mm(slope, table_VD, out=grad_state[at : at + step])
            grad_table.addmm_(slope.T, state)
            grad_bias += slope.sum(dim=0)
        ctx.save_for_backward(grad_state, grad_table, grad_bias)
        ctx.count = count
        return loss / count

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad / ctx.count
        return (*(saved * scale for saved in ctx.saved_tensors), None)


class _Sampled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        state_ND: Tensor,
        table_VD: Tensor,
        bias_V: Tensor,
        target_N: Tensor,
        negative_S: Tensor,
        correction_S: Tensor,
    ) -> Tensor:
        count = len(state_ND)
        negative_SD, positive_ND = table_VD[negative_S], table_VD[target_N]
        shift_S = bias_V[negative_S] - correction_S
        own_N = (state_ND * positive_ND).sum(dim=1) + bias_V[target_N]
        grad_state, grad_negative = torch.empty_like(state_ND), torch.zeros_like(negative_SD)
        slope_bias_S, slope_own_N = torch.zeros_like(shift_S), torch.empty_like(own_N)
        loss = state_ND.new_zeros(())
        step = max(1, CHUNK_ELEMENTS // max(1, len(negative_S)))
        for at in range(0, count, step):
            part = slice(at, at + step)
            logits = torch.addmm(shift_S, state_ND[part], negative_SD.T)
            logits.masked_fill_(negative_S[None, :] == target_N[part, None], float("-inf"))
            scale = torch.logaddexp(logits.logsumexp(dim=1), own_N[part])
            loss += (scale - own_N[part]).sum()
            slope = logits.sub_(scale[:, None]).exp_()
            own = torch.exp(own_N[part] - scale) - 1
            slope_own_N[part] = own
            grad_state[part] = torch.addmm(own[:, None] * positive_ND[part], slope, negative_SD)
            grad_negative.addmm_(slope.T, state_ND[part])
            slope_bias_S += slope.sum(dim=0)
        grad_table, grad_bias = torch.zeros_like(table_VD), torch.zeros_like(bias_V)
        grad_table.index_add_(0, negative_S, grad_negative).index_add_(0, target_N, slope_own_N[:, None] * state_ND)
        grad_bias.index_add_(0, negative_S, slope_bias_S).index_add_(0, target_N, slope_own_N)
        ctx.save_for_backward(grad_state, grad_table, grad_bias)
        ctx.count = count
        return loss / count

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad / ctx.count
        return (*(saved * scale for saved in ctx.saved_tensors), None, None, None)
