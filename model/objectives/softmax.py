"""Softmax losses that never hold states × items at once.

Shapes: N states, D width, V items, S negatives. Both compute their gradients together with the loss, a chunk of
states at a time, so that a chunk's logits are the only large array alive: backward merely scales what is there.

In `dtype` bfloat16 a chunk's logits and probabilities have eight bits; sums over chunks and the sum of the loss are in
float32.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

ROUND = 64
"""States come in multiples of this: products of new shapes are slow the first time, and what makes them is kept."""
ALIGNED = 16
"""A product's narrow side comes in multiples of this."""
CHUNK_ELEMENTS = 1_000_000
"""Logits alive at once: 4 MB of float32, which fits a CPU's caches."""


def full_softmax(
    state_ND: Tensor,
    table_VD: Tensor,
    bias_V: Tensor,
    target_N: Tensor,
    *,
    weight_N: Tensor | None = None,
    smoothing: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Mean cross-entropy of the target among all items, in nats. `target_N` are columns of `table_VD`.

    With `weight_N` the mean is Σ w ℓ / Σ w. `smoothing` ε puts (1 − ε) + ε / V on the target and ε / V on every other
    item (Szegedy et al., CVPR 2016, §7).
    """
    rounded = _rounded(state_ND, target_N, normed(weight_N, state_ND))
    return _Full.apply(rounded[0], table_VD, bias_V, *rounded[1:], smoothing, dtype)  # type: ignore[no-any-return, no-untyped-call]


def sampled_softmax(
    state_ND: Tensor,
    table_VD: Tensor,
    bias_V: Tensor,
    target_N: Tensor,
    *,
    negative_S: Tensor,
    log_q_S: Tensor,
    weight_N: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Mean cross-entropy of the target among itself and negatives that all states share, in nats.

    Negatives are drawn with replacement; `log_q_S` is the log probability that one draw gives that item. Subtracting
    log(S·q) makes the sum over negatives an unbiased estimate of the sum over all other items, so the loss tends to
    `full_softmax` as S grows. The target itself is always present and gets no correction; a negative that equals a
    state's target is left out for that state. With `weight_N` the mean is Σ w ℓ / Σ w. Sources: Bengio & Senécal
    2008; without a correction of the target: Khrylchenko et al., RecSys 2025.
    """
    correction_S = log_q_S + torch.log(torch.tensor(float(len(negative_S)), device=log_q_S.device))
    state_ND, target_N, weight_N = _rounded(state_ND, target_N, normed(weight_N, state_ND))
    return _Sampled.apply(  # type: ignore[no-any-return, no-untyped-call]
        state_ND, table_VD, bias_V, target_N, negative_S, correction_S, weight_N, dtype
    )


class _Full(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        state_ND: Tensor,
        table_VD: Tensor,
        bias_V: Tensor,
        target_N: Tensor,
        weight_N: Tensor,
        smoothing: float,
        dtype: torch.dtype,
    ) -> Tensor:
        items = len(table_VD)
        table, bias = table_VD.to(dtype), bias_V.to(dtype)
        grad_state = torch.empty_like(state_ND)
        grad_table, grad_bias = torch.zeros_like(table_VD), torch.zeros_like(bias_V)
        loss = state_ND.new_zeros(())
        step = states_at_once(items)
        logits_CV = torch.empty(min(step, len(state_ND)), items, dtype=dtype, device=state_ND.device)
        for at in range(0, len(state_ND), step):
            part = slice(at, at + step)
            state, target, weight = state_ND[part].to(dtype), target_N[part], weight_N[part]
            slope = torch.mm(state, table.T, out=logits_CV[: len(state)]).add_(bias)
            if smoothing:
                loss -= smoothing * (weight * torch.log_softmax(slope, dim=1).mean(dim=1, dtype=loss.dtype)).sum()
            slope = torch.softmax(slope, dim=1, out=slope)
            each = torch.arange(len(state), device=state.device)
            own = slope[each, target]
            least = torch.finfo(loss.dtype).tiny
            loss -= (1 - smoothing) * (weight * own.to(loss.dtype).clamp(min=least).log()).sum()
            slope[each, target] = own - (1 - smoothing)
            if smoothing:
                slope -= smoothing / items
            slope *= weight[:, None].to(dtype)
            grad_state[part] = slope @ table
            grad_table += slope.T @ state
            grad_bias += slope.sum(dim=0)
        ctx.save_for_backward(grad_state, grad_table, grad_bias)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*(saved * grad for saved in ctx.saved_tensors), None, None, None, None)


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
        weight_N: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        width, draws = table_VD.shape[1], len(negative_S)
        positive_ND = table_VD[target_N]
        own_N = (state_ND * positive_ND).sum(dim=1) + bias_V[target_N]
        # One more column for a state's own target, and columns of −∞ up to a round number: M in all.
        spare = ROUND - draws % ROUND
        negative_MD = functional.pad(table_VD[negative_S], (0, 0, 0, spare)).to(dtype)
        shift_M = functional.pad(bias_V[negative_S] - correction_S, (0, spare), value=float("-inf")).to(dtype)
        row_P, column_P, until_N1 = _meetings(target_N, negative_S)
        weighted = torch.cat(
            [state_ND * weight_N[:, None], weight_N[:, None]], dim=1
        )  # the last column tells of the bias
        weighted = functional.pad(weighted, (0, -(width + 1) % ALIGNED)).to(dtype)
        grad_state = torch.empty_like(state_ND)
        grad_negative = weighted.new_zeros(len(shift_M), weighted.shape[1], dtype=table_VD.dtype)
        slope_own_N = torch.empty_like(own_N)
        loss = state_ND.new_zeros(())
        least = torch.finfo(loss.dtype).tiny
        step = states_at_once(len(shift_M))
        logits_CM = torch.empty(min(step, len(state_ND)), len(shift_M), dtype=dtype, device=state_ND.device)
        for at in range(0, len(state_ND), step):
            part = slice(at, min(at + step, len(state_ND)))
            state, weight = state_ND[part].to(dtype), weight_N[part]
            slope = torch.addmm(shift_M, state, negative_MD.T, out=logits_CM[: len(state)])
            slope[:, draws] = own_N[part].to(dtype)
            met = slice(*until_N1[[part.start, part.stop]].tolist())
            slope[row_P[met] - at, column_P[met]] = float("-inf")
            slope = torch.softmax(slope, dim=1, out=slope)
            own = slope[:, draws].to(loss.dtype)
            loss -= (weight * own.clamp(min=least).log()).sum()
            slope_own_N[part] = (own - 1) * weight
            grad_state[part] = torch.addcmul(
                (slope @ negative_MD).to(state_ND.dtype) * weight[:, None], slope_own_N[part, None], positive_ND[part]
            )
            grad_negative += slope.T @ weighted[part]
        grad_table, grad_bias = torch.zeros_like(table_VD), torch.zeros_like(bias_V)
        grad_table.index_add_(0, negative_S, grad_negative[:draws, :width])
        grad_table.index_add_(0, target_N, slope_own_N[:, None] * state_ND)
        grad_bias.index_add_(0, negative_S, grad_negative[:draws, width]).index_add_(0, target_N, slope_own_N)
        ctx.save_for_backward(grad_state, grad_table, grad_bias)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*(saved * grad for saved in ctx.saved_tensors), None, None, None, None, None)


def _meetings(target_N: Tensor, negative_S: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where a state's target is among the negatives: rows and columns, by rows, and how many come before each row."""
    sorted_S, order_S = torch.sort(negative_S)
    first_N = torch.searchsorted(sorted_S, target_N)
    count_N = torch.searchsorted(sorted_S, target_N, right=True) - first_N
    until_N1 = functional.pad(torch.cumsum(count_N, dim=0), (1, 0))
    row_P = torch.repeat_interleave(count_N)
    place_P = torch.arange(len(row_P), device=row_P.device) - until_N1[row_P] + first_N[row_P]
    return row_P, order_S[place_P], until_N1


def states_at_once(columns: int) -> int:
    """How many states' logits are alive at once."""
    step = max(1, CHUNK_ELEMENTS // max(1, columns))
    return step - step % ROUND or step


def _rounded(state_ND: Tensor, target_N: Tensor, weight_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """With more states of weight 0, which change nothing, up to the next multiple."""
    spare = -len(state_ND) % ROUND
    padded = functional.pad(state_ND, (0, 0, 0, spare))
    return padded, functional.pad(target_N, (0, spare)), functional.pad(weight_N, (0, spare))


def normed(weight_N: Tensor | None, state_ND: Tensor) -> Tensor:
    """Weights that sum to 1."""
    if weight_N is None:
        return state_ND.new_full((len(state_ND),), 1 / max(1, len(state_ND)))
    return weight_N / weight_N.sum()
