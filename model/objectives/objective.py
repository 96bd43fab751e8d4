"""The loss of a step, composed of what `[objective]` asks for.

Shapes: N packed positions, B windows, T targets, M hidden positions, D width, V items, E width of a text vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from model.network.sight import Group
from model.objectives.adversarial import adversarial
from model.objectives.behaviours import BehaviourQueries, leave_untold
from model.objectives.contrastive import Augmentation, augment, nt_xent
from model.objectives.distillation import Teacher
from model.objectives.lifelong import lifelong
from model.objectives.masked import choose_masked, masked_vector_loss
from model.objectives.multitask import FixedSum, UncertaintySum
from model.objectives.next_item import ItemObjective, Negatives
from model.objectives.options import ObjectiveOptions, Robust, TaskWeighting
from model.objectives.packed import windows_of
from model.objectives.rating import RatingHead, RatingLoss
from model.objectives.robust import soften, target_nats, truncate
from model.options import Loss
from model.sequences import BEHAVIOUR_NAMES, is_target
from model.windows import Batch


class Network(Protocol):
    """What the loss asks of a ranker."""

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
        """States [N, D]. Where `masked_N`, a mask vector stands in the item's place; `shift_ND` is added to the vectors
        of the items."""

    def catalogue(self) -> tuple[Tensor, Tensor]:
        """[V, D] and [V]: the logits of states s are s @ table.T + bias."""

    def catalogue_rows(self, row_R: Tensor) -> tuple[Tensor, Tensor]:
        """[R, D] and [R]: of these rows, from 1, alone."""


@dataclass(frozen=True)
class Losses:
    total: Tensor
    """To go backward from."""
    parts: dict[str, Tensor]
    """By name, unweighted and without gradient, for the record."""


@dataclass(frozen=True)
class Step:
    """What the parts of one step share."""

    ranker: Network
    batch: Batch
    catalogue: tuple[Tensor, Tensor]
    negatives: Negatives | None
    vector_VE: Tensor | None
    dtype: torch.dtype
    seed: int
    row_R: Tensor | None = None
    """The catalogue's rows, ascending, where it holds not all."""

    def columns(self, row: Tensor) -> Tensor:
        """Where the catalogue has the vocabulary's rows `row`."""
        return row - 1 if self.row_R is None else torch.searchsorted(self.row_R, row)

    def states(
        self,
        batch: Batch,
        *,
        masked_N: Tensor | None = None,
        shift_ND: Tensor | None = None,
        causal: bool = True,
    ) -> Tensor:
        """[N, D] of `batch`: the step's own, or a view of it."""
        return self.ranker.encode(
            batch.row_N,
            batch.behaviour_N,
            batch.age_N,
            batch.place_N,
            groups=batch.groups,
            dtype=self.dtype,
            masked_N=masked_N,
            shift_ND=shift_ND,
            causal=causal,
            attribute_NA=batch.attribute_NA,
        )


class Objective(nn.Module):
    """(1 − α)·(Σ λ_i ℓ_i + λ_adv·Σ λ_i ℓ_i(x + r)) + α·Σ λ_j ℓ_j over supervised i and self-supervised j.

    Its parameters (behaviour queries, rating head, vector head, uncertainty weights) are trained and saved beside the
    network's. With default options it has none, and its total is the plain next-item loss, bit for bit.
    """

    def __init__(
        self,
        options: ObjectiveOptions,
        *,
        item: ItemObjective,
        width: int,
        cosine: bool = False,
        vector_width: int = 0,
    ) -> None:
        """`width` of the states; `cosine`: they have one length, and keep it; `vector_width` of items' text vectors.

        Raises ValueError when text is to be predicted and there is none.
        """
        super().__init__()
        self.options = options
        self.item = item
        self.cosine = cosine
        self.augmentation = Augmentation(
            crop=options.crop_share, mask=options.view_mask_share, reorder=options.reorder_share
        )
        factor_C = [options.behaviour_weights.get(name, 1.0) for name in BEHAVIOUR_NAMES]
        self.register_buffer("factor_C", torch.tensor(factor_C), persistent=False)
        codes = [
            code for code, name in enumerate(BEHAVIOUR_NAMES) if bool(is_target(np.array(code))) and factor_C[code]
        ]
        self.task_codes = codes if options.behaviour_tasks else []
        self.queries = (
            BehaviourQueries(behaviours=len(BEHAVIOUR_NAMES) - 1, width=width) if options.behaviour_queries else None
        )
        self.rating = RatingHead(width) if options.rating_weight else None
        supervised = {"next_item": 1.0}
        if self.task_codes:
            supervised = {f"next_item.{BEHAVIOUR_NAMES[code]}": factor_C[code] for code in self.task_codes}
        if self.rating is not None:
            supervised["rating"] = options.rating_weight
        self_supervised = {
            "masked": options.masked_weight,
            "masked_text": options.masked_text_weight,
            "contrastive": options.contrastive_weight,
        }
        self_supervised = {name: weight for name, weight in self_supervised.items() if weight}
        if not options.self_supervised:
            self_supervised = {}
        self.vector_head = None
        if "masked_text" in self_supervised:
            if not vector_width:
                raise ValueError("masked_text_weight asks for the items' text vectors, and there are none")
            self.vector_head = nn.Linear(width, vector_width)
        self.supervised_sum = self._sum(supervised)
        self.self_supervised_sum = self._sum(self_supervised)
        self.self_supervised = frozenset(self_supervised)
        self._teacher: Teacher | None = None

    factor_C: Tensor

    def _sum(self, weights: dict[str, float]) -> FixedSum | UncertaintySum:
        if self.options.task_weighting is TaskWeighting.FIXED:
            return FixedSum(weights)
        squared = frozenset({"rating"} if self.options.rating_loss is RatingLoss.MSE else ())
        return UncertaintySum(weights, squared=squared)

    def learn_from(self, teacher: Teacher) -> None:
        """Stay near its answers as well, in this training."""
        self._teacher = teacher

    def start(self, behaviour_N: Tensor, value_N: Tensor) -> None:
        """Take the scale of the ratings among all events, before the first training."""
        if self.rating is not None:
            self.rating.scale_to(value_N[behaviour_N == BEHAVIOUR_NAMES.index(self.options.rating_behaviour)])

    def forward(
        self,
        ranker: Network,
        batch: Batch,
        *,
        seed: int,
        negatives: Negatives | None = None,
        vector_VE: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        by_rows: bool = False,
    ) -> Losses:
        """The loss of `batch`; what is drawn follows from `seed`, but for the network's dropout.

        `vector_VE`: text vectors of the catalogue's items, rows of zeros where there is none. A sampled loss needs
        `negatives`; they serve every part that tells items. `by_rows`, for a sampled loss: only the rows that the step
        asks for are looked up, for a table with sparse gradients.
        """
        if by_rows and negatives is not None:
            asked = [batch.target_T, negatives.column_S + 1]
            if "masked" in self.self_supervised:
                asked.append(batch.row_N)
            row_R = torch.unique(torch.cat(asked))
            negatives = replace(negatives, column_S=torch.searchsorted(row_R, negatives.column_S + 1))
            step = Step(ranker, batch, ranker.catalogue_rows(row_R), negatives, vector_VE, dtype, seed, row_R)
        else:
            step = Step(ranker, batch, ranker.catalogue(), negatives, vector_VE, dtype, seed)
        parts: dict[str, Tensor] = {}

        def supervised(shift_ND: Tensor | None) -> Tensor:
            state_ND = step.states(batch, shift_ND=shift_ND)
            state_TD, column_T = state_ND[batch.at_T], step.columns(batch.target_T)
            found = self._supervised(step, state_TD, column_T)
            total: Tensor = self.supervised_sum(found)
            if self._teacher is not None and shift_ND is None:
                found["distillation"] = self._taught(step, state_TD)
                total = total + found["distillation"]
            for name, part in found.items():
                parts.setdefault(name, part.detach())  # the first pass is the unmoved one
            return total

        if self.options.adversarial_epsilon:
            total, moved = adversarial(
                supervised,
                torch.zeros(len(batch.row_N), step.catalogue[0].shape[1], device=batch.row_N.device),
                epsilon=self.options.adversarial_epsilon,
                group_N=windows_of(batch.offsets_B1, positions=len(batch.row_N)),
            )
            parts["adversarial"] = moved.detach()
            total = total + self.options.adversarial_weight * moved
        else:
            total = supervised(None)
        if self.self_supervised:
            found = self._self_supervised(step)
            parts |= {name: part.detach() for name, part in found.items()}
            total = lifelong(total, self.self_supervised_sum(found), alpha=self.options.self_supervised)
        return Losses(total, parts)

    def _taught(self, step: Step, state_TD: Tensor) -> Tensor:
        assert self._teacher is not None
        self._teacher = self._teacher.to(state_TD.device)
        return self._teacher.loss(
            step.batch, state_TD, step.catalogue, negatives=step.negatives, dtype=step.dtype, row_R=step.row_R
        )

    def _supervised(self, step: Step, state_TD: Tensor, column_T: Tensor) -> dict[str, Tensor]:
        batch = step.batch
        found = self._next_item(step, state_TD, column_T)
        if self.rating is not None:
            rated_T = batch.behaviour_T == BEHAVIOUR_NAMES.index(self.options.rating_behaviour)
            found["rating"] = self.rating.loss(
                state_TD,
                step.catalogue[0][column_T],
                torch.where(rated_T, batch.value_T, torch.nan),
                kind=self.options.rating_loss,
                weight_N=batch.weight_T,
            )
        return found

    def _next_item(self, step: Step, state_TD: Tensor, column_T: Tensor) -> dict[str, Tensor]:
        behaviour_T, weight_T = step.batch.behaviour_T, step.batch.weight_T
        if self.queries is not None:
            told_T = leave_untold(behaviour_T, share=self.options.behaviour_untold, seed=step.seed)
            state_TD = self.queries(state_TD, told_T, keep_length=self.cosine)
        if self.options.robust is not Robust.NONE:
            weight_T = weight_T * self._trust(step, state_TD, column_T)
        if not self.task_codes:
            if self.options.behaviour_weights:
                weight_T = weight_T * self.factor_C[behaviour_T]
            return {"next_item": self._tell(step, state_TD, column_T, weight_T)}
        found = {}
        for code in self.task_codes:
            of_T = behaviour_T == code
            found[f"next_item.{BEHAVIOUR_NAMES[code]}"] = self._tell(
                step, state_TD[of_T], column_T[of_T], weight_T[of_T]
            )
        return found

    def _tell(self, step: Step, state_TD: Tensor, column_T: Tensor, weight_T: Tensor | None) -> Tensor:
        """0 where nothing has a weight: a batch of behaviours that count for nothing."""
        idle = None
        if weight_T is not None and weight_T is not step.batch.weight_T:
            idle = weight_T.sum() == 0
            weight_T = weight_T + idle
        loss = self.item(
            state_TD, step.catalogue, column_T, weight_T=weight_T, negatives=step.negatives, dtype=step.dtype
        )
        return loss if idle is None else loss * ~idle

    def _trust(self, step: Step, state_TD: Tensor, column_T: Tensor) -> Tensor:
        sampled = {}
        if self.item.loss is not Loss.FULL and step.negatives is not None:
            sampled = {"negative_S": step.negatives.column_S, "log_q_S": step.negatives.log_q_S}
        nats_T = target_nats(state_TD, *step.catalogue, column_T, **sampled)
        if self.options.robust is Robust.SOFTEN:
            return soften(nats_T, power=self.options.robust_power)
        return truncate(nats_T, share=self.options.robust_share)

    def _self_supervised(self, step: Step) -> dict[str, Tensor]:
        batch, options, found = step.batch, self.options, {}
        if self.self_supervised & {"masked", "masked_text"}:
            masked_N = choose_masked(batch.row_N, batch.offsets_B1, share=options.masked_share, seed=step.seed)
            state_MD = step.states(batch, masked_N=masked_N, causal=options.masked_causal)[masked_N]
            row_M = batch.row_N[masked_N]
            if "masked" in self.self_supervised:
                found["masked"] = self._tell(step, state_MD, step.columns(row_M), None)
            if self.vector_head is not None:
                if step.vector_VE is None:
                    raise ValueError("masked_text_weight needs vector_VE")
                found["masked_text"] = masked_vector_loss(
                    self.vector_head(state_MD),
                    row_M - 1,
                    step.vector_VE,
                    temperature=options.masked_text_temperature or None,
                )
        if "contrastive" in self.self_supervised:
            views = [augment(batch, self.augmentation, seed=2 * step.seed + half) for half in (0, 1)]
            known_B = batch.user_B >= 0
            first_BD, second_BD = (
                step.states(view.batch, masked_N=view.masked_N)[view.batch.offsets_B1[1:][known_B] - 1]
                for view in views
            )
            found["contrastive"] = nt_xent(
                first_BD, second_BD, temperature=options.contrastive_temperature, user_B=batch.user_B[known_B]
            )
        return found
