"""One step's gradients, in as many pieces as memory asks for.

Shapes: V items, S negatives.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from model.network.ranker import Ranker
from model.objectives.next_item import Negatives
from model.objectives.objective import Objective
from model.options import Loss, TrainOptions
from model.windows import Batch, Epoch
from relations.errors import DependencyFailed, UsageError

SAMPLING_POWER = 0.75
"""Negatives are drawn by popularity to this power (word2vec's): between uniform and what users see."""


@dataclass(frozen=True)
class Sums:
    """Of one step, over its targets."""

    loss: float
    parts: dict[str, float]
    targets: int
    tokens: int


class Gradients:
    """Leaves the summed gradient of a step's targets in the parameters; the caller divides by their number."""

    def __init__(
        self,
        ranker: Ranker,
        objective: Objective,
        *,
        options: TrainOptions,
        count_V: np.ndarray,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._ranker = ranker
        self._objective = objective
        self._seed = options.seed
        self._device = device
        self._dtype = dtype
        self._draw = _Sampler(count_V, options) if options.loss is not Loss.FULL else None
        self._pieces = 1

    def __call__(self, plan: Epoch, batches: Sequence[int], *, step: int) -> Sums:
        """Of the plan's `batches`. One that does not fit into memory is cut into pieces, as are all that follow.

        Raises DependencyFailed when a single window does not fit, UsageError when the loss is not finite.
        """
        while True:
            try:
                return self._take(plan, batches, step)
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                most = max(len(plan.plan[batch]) for batch in batches)
                if self._pieces >= most:
                    raise DependencyFailed(
                        "training: one user's window does not fit into memory; lower max_history or width, or take a "
                        "sampled loss"
                    ) from error
                self._pieces *= 2
            for parameter in (*self._ranker.parameters(), *self._objective.parameters()):
                parameter.grad = None
            if self._device.type == "cuda":
                torch.cuda.empty_cache()

    def _take(self, plan: Epoch, batches: Sequence[int], step: int) -> Sums:
        torch.manual_seed(seed_of(self._seed, step))
        negatives = None if self._draw is None else self._draw(step, self._device)
        loss, parts, targets, tokens = 0.0, Counter[str](), 0, 0
        for index in batches:
            for piece in plan.pieces(index, self._pieces):
                batch = piece.to(self._device)
                found = self._objective(self._ranker, batch, seed=step, negatives=negatives, dtype=self._dtype)
                (found.total * batch.targets).backward()
                loss += found.total.item() * batch.targets
                for name, part in found.parts.items():
                    parts[name] += part.item() * batch.targets
                targets, tokens = targets + batch.targets, tokens + batch.tokens
                if not math.isfinite(loss):
                    raise UsageError(_not_finite(batch, step, index))
        return Sums(loss / targets, {name: value / targets for name, value in parts.items()}, targets, tokens)


class _Sampler:
    """Draws one set of negatives for all targets of a step."""

    def __init__(self, count_V: np.ndarray, options: TrainOptions) -> None:
        power = SAMPLING_POWER if options.loss is Loss.SAMPLED else 0.0  # gBCE's correction is for uniform draws
        weight_V = np.maximum(count_V, 1) ** power  # an item without events must be pushed down as well
        self._q_V = weight_V / weight_V.sum()
        self._up_to_V = np.cumsum(self._q_V)
        self._seed, self._count = options.seed, options.negatives

    def __call__(self, step: int, device: torch.device) -> Negatives:
        u_S = np.random.default_rng([self._seed, step, 1]).random(self._count)
        column_S = np.minimum(np.searchsorted(self._up_to_V, u_S, side="right"), len(self._q_V) - 1)
        log_q_S = np.log(self._q_V[column_S]).astype(np.float32)
        return Negatives(torch.from_numpy(column_S).to(device), torch.from_numpy(log_q_S).to(device))


def seed_of(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _out_of_memory(error: RuntimeError) -> bool:
    """A GPU's refusal has a class of its own, the CPU allocator's has only its words."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _not_finite(batch: Batch, step: int, index: int) -> str:
    users = sorted({int(user) for user in batch.user_B if user >= 0})
    rows = int(batch.row_N.max()) if batch.tokens else 0
    return (
        f"training: the loss is not finite at step {step + 1} (batch {index} of its epoch: {len(batch.offsets_B1) - 1} "
        f"windows, {batch.targets} targets, users number {users[:3]}{' …' if len(users) > 3 else ''}, item rows up to "
        f"{rows}); lower learning_rate, or set clip_norm = 1.0"
    )
