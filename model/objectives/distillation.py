"""Staying near a teacher's answers: what the ranker that served so far would say of the same histories.

Shapes: N packed positions, T targets, D width of the student, E of the teacher, V items, U items that the teacher
knows (the first of the V), S negatives.

As in `softmax`, gradients come with the loss, a chunk of states at a time: no array of states × items outlives its
chunk. What a chunk holds are two of them, the teacher's logits and the student's.
"""

import copy
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from model.network.ranker import Ranker, materialised
from model.objectives.next_item import Negatives
from model.objectives.softmax import ROUND, normed, states_at_once
from model.windows import Batch
from relations.errors import UsageError

NOWHERE = -1e30
"""A logit that has no probability; finite, so that the difference of two of them is 0."""


def distil(
    state_TD: Tensor,
    table_VD: Tensor,
    bias_V: Tensor,
    *,
    teacher_TE: Tensor,
    teacher_table_UE: Tensor,
    teacher_bias_U: Tensor,
    weight_T: Tensor | None = None,
    temperature: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """τ² · mean_t KL(p_t ‖ q_t) over the first U items, in nats: p = softmax(teacher / τ), q = softmax(student / τ).

    The student's probabilities are renormalised over the items that the teacher knows, so that new items are neither
    pushed down nor up. τ² keeps the gradient's size as τ grows (Hinton, Vinyals & Dean 2015, section 2). With
    `weight_T` the mean is Σ w ℓ / Σ w. Nothing flows to the teacher. Raises ValueError when the teacher knows more
    items than the student.
    """
    known = len(teacher_bias_U)
    if known > len(bias_V):
        raise ValueError(f"a teacher of {known} items for a student of {len(bias_V)}")
    return _Distil.apply(  # type: ignore[no-any-return, no-untyped-call]
        _padded(state_TD),
        table_VD[:known],
        bias_V[:known],
        None,
        _padded(teacher_TE),
        teacher_table_UE,
        teacher_bias_U,
        None,
        None,
        None,
        _padded(normed(weight_T, state_TD)),
        temperature,
        dtype,
    )


def sampled_distil(
    state_TD: Tensor,
    table_VD: Tensor,
    bias_V: Tensor,
    target_T: Tensor,
    *,
    teacher_TE: Tensor,
    teacher_table_UE: Tensor,
    teacher_bias_U: Tensor,
    negative_S: Tensor,
    log_q_S: Tensor,
    weight_T: Tensor | None = None,
    temperature: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """`distil` among the target and negatives that all states share, as `sampled_softmax` is of `full_softmax`.

    Both sides' logits over τ of a negative are corrected by log(S·q), so that the loss tends to `distil` as S grows.
    Items that the teacher does not know are left out: negatives for all states, a target for its own. 0 where no
    negative is left.
    """
    known = len(teacher_bias_U)
    drawn = len(negative_S)
    kept_S = negative_S < known
    negative_S, log_q_S = negative_S[kept_S], log_q_S[kept_S]
    if not len(negative_S):
        return 0 * state_TD.sum()
    shift_S = temperature * (log_q_S + math.log(drawn))
    familiar_T = target_T < known
    taught_T = target_T.clamp(max=known - 1)
    own_T = (state_TD * table_VD[target_T]).sum(dim=1) + bias_V[target_T]
    teacher_own_T = (teacher_TE * teacher_table_UE[taught_T]).sum(dim=1) + teacher_bias_U[taught_T]
    return _Distil.apply(  # type: ignore[no-any-return, no-untyped-call]
        _padded(state_TD),
        table_VD[negative_S],
        bias_V[negative_S] - shift_S,
        _padded(own_T.masked_fill(~familiar_T, NOWHERE)),
        _padded(teacher_TE),
        teacher_table_UE[negative_S],
        teacher_bias_U[negative_S] - shift_S,
        _padded(teacher_own_T.masked_fill(~familiar_T, NOWHERE)),
        negative_S,
        _padded(target_T),
        _padded(normed(weight_T, state_TD)),
        temperature,
        dtype,
    )


class Teacher:
    """A ranker that answers and does not learn. No module, so that it enters no state dict and no optimiser.

    Its items must be the first of the student's, row for row. A row beyond them is shown to it as an event on an item
    that it cannot name: the mask vector stands in the item's place, behaviour, age and place stay. So windows with new
    items teach too. A teacher grown with the student (`model.growth.grow`) sees new items as what they start from;
    pass `items`, how many it knew before, and it is asked for those alone.
    """

    def __init__(self, ranker: Ranker, *, weight: float, temperature: float = 1.0, items: int | None = None) -> None:
        """`weight` of the loss, `temperature` τ > 0; `ranker` is left as it is, and must stay so while this is used.

        Raises UsageError for a weight or temperature out of range.
        """
        if not weight >= 0 or not temperature > 0:
            raise UsageError(
                f"[increment] distillation = {weight}, distillation_temperature = {temperature}: the weight is at "
                "least 0, the temperature above 0"
            )
        self.weight = weight
        self.temperature = temperature
        self._ranker = materialised(ranker)
        self._known = self._ranker.config.items if items is None else items
        with torch.no_grad():
            self._table_VE, self._bias_V = self._ranker.catalogue()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Teacher":
        return self  # it does not change, and is as large as the student

    def to(self, device: torch.device) -> "Teacher":
        """Itself there, or a copy elsewhere: the ranker belongs to someone else."""
        if self._bias_V.device.type == device.type:
            return self
        moved = copy.deepcopy(self._ranker).to(device)
        return Teacher(moved, weight=self.weight, temperature=self.temperature, items=self._known)

    def loss(
        self,
        batch: Batch,
        state_TD: Tensor,
        catalogue: tuple[Tensor, Tensor],
        *,
        negatives: Negatives | None,
        dtype: torch.dtype,
        row_R: Tensor | None = None,
    ) -> Tensor:
        """`weight` times the distillation loss of the batch's targets, in nats.

        `state_TD`: the student's states that the targets are told from. Over all items that the teacher knows, or with
        `negatives` over those and the targets. `row_R`: the catalogue's rows, ascending, where it holds not all.
        """
        table_VD, bias_V = catalogue
        with torch.no_grad():
            teacher_TE = self._states(batch, dtype)[batch.at_T]
        table_UE, bias_U = self._table_VE[: self._known], self._bias_V[: self._known]
        target_T = batch.target_T - 1
        if row_R is not None:
            familiar_R = row_R[row_R <= self._known] - 1  # rows ascend, so these are the first
            table_UE, bias_U = table_UE[familiar_R], bias_U[familiar_R]
            target_T = torch.searchsorted(row_R, batch.target_T)
        if negatives is None:
            found = distil(
                state_TD,
                table_VD,
                bias_V,
                teacher_TE=teacher_TE,
                teacher_table_UE=table_UE,
                teacher_bias_U=bias_U,
                weight_T=batch.weight_T,
                temperature=self.temperature,
                dtype=dtype,
            )
        else:
            found = sampled_distil(
                state_TD,
                table_VD,
                bias_V,
                target_T,
                teacher_TE=teacher_TE,
                teacher_table_UE=table_UE,
                teacher_bias_U=bias_U,
                negative_S=negatives.column_S,
                log_q_S=negatives.log_q_S,
                weight_T=batch.weight_T,
                temperature=self.temperature,
                dtype=dtype,
            )
        return self.weight * found

    def _states(self, batch: Batch, dtype: torch.dtype) -> Tensor:
        strange_N = batch.row_N > self._ranker.config.items
        return self._ranker.encode(
            batch.row_N.masked_fill(strange_N, 0),
            batch.behaviour_N,
            batch.age_N,
            batch.place_N,
            groups=batch.groups,
            dtype=dtype,
            masked_N=strange_N if bool(strange_N.any()) else None,
            attribute_NA=batch.attribute_NA,
        )


def adaptive_weight(base: float, *, old_items: int, items: int, new_events: int, replayed_events: int) -> float:
    """λ_t = λ_base · √(|I_{t−1}| / |I_t| · |E_{t−1}| / |D_t|): the more of what is trained is old, the more to keep.

    I are the items before and after, E what is replayed, D what is new; 0 without replay. Source: Mi, Lin & Faltings,
    "ADER", RecSys 2020, the adaptive weight of its distillation loss. Raises ValueError without items or new events.
    """
    if not 0 < old_items <= items or new_events < 1 or replayed_events < 0:
        raise ValueError(f"{old_items} of {items} items known, {replayed_events} replayed for {new_events} new events")
    return base * math.sqrt(old_items / items * replayed_events / new_events)


class _Distil(torch.autograd.Function):
    """Of C candidates that all states share, and for each state its own target where `own_T` is given.

    `candidate_C` and `target_T` are columns: a candidate that is the state's target is there once already.
    """

    @staticmethod
    def forward(
        ctx: Any,
        state_TD: Tensor,
        table_CD: Tensor,
        bias_C: Tensor,
        own_T: Tensor | None,
        teacher_TE: Tensor,
        teacher_table_CE: Tensor,
        teacher_bias_C: Tensor,
        teacher_own_T: Tensor | None,
        candidate_C: Tensor | None,
        target_T: Tensor | None,
        weight_T: Tensor,
        temperature: float,
        dtype: torch.dtype,
    ) -> Tensor:
        table, teacher_table = table_CD.to(dtype), teacher_table_CE.to(dtype)
        shift, teacher_shift = (bias_C / temperature).to(dtype), (teacher_bias_C / temperature).to(dtype)
        grad_state, slope_own = torch.empty_like(state_TD), torch.zeros_like(weight_T)
        grad_table, grad_bias = torch.zeros_like(table_CD), torch.zeros_like(bias_C)
        loss = state_TD.new_zeros(())
        step = states_at_once(len(shift))
        for at in range(0, len(state_TD), step):
            part = slice(at, at + step)
            state, weight = state_TD[part].to(dtype), weight_T[part]
            student = (state / temperature @ table.T).add_(shift)
            teacher = (teacher_TE[part].to(dtype) / temperature @ teacher_table.T).add_(teacher_shift)
            if own_T is not None and teacher_own_T is not None and candidate_C is not None and target_T is not None:
                taken = candidate_C[None, :] == target_T[part, None]
                student, teacher = (
                    torch.cat([logits.masked_fill_(taken, NOWHERE), (own[part, None] / temperature).to(dtype)], dim=1)
                    for logits, own in ((student, own_T), (teacher, teacher_own_T))
                )
            p, q = torch.softmax(teacher, dim=1), torch.softmax(student, dim=1)
            norms = _log_norm(student, q, loss.dtype) - _log_norm(teacher, p, loss.dtype)
            apart = teacher.sub_(student).mul_(p).sum(dim=1, dtype=loss.dtype)
            loss += temperature**2 * (weight * (apart + norms)).sum()
            slope = q.sub_(p).mul_((temperature * weight)[:, None].to(dtype))
            if own_T is not None:
                slope_own[part], slope = slope[:, -1], slope[:, :-1]
            grad_state[part] = slope @ table
            grad_table += slope.T @ state
            grad_bias += slope.sum(dim=0)
        ctx.save_for_backward(grad_state, grad_table, grad_bias, slope_own)
        ctx.has_own = own_T is not None
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *shared, slope_own = (saved * grad for saved in ctx.saved_tensors)
        return (*shared, slope_own if ctx.has_own else None, *[None] * 9)


def _log_norm(logits: Tensor, probability: Tensor, dtype: torch.dtype) -> Tensor:
    """log Σ exp(logits) from what softmax made of them, without another pass of exponentials."""
    return logits.amax(dim=1).to(dtype) - probability.amax(dim=1).to(dtype).log()


def _padded(x: Tensor) -> Tensor:
    """With zeros up to the next multiple of states (weight 0, which change nothing)."""
    return functional.pad(x, (0, 0) * (x.dim() - 1) + (0, -len(x) % ROUND))
