"""One step's gradients, in as many pieces as memory asks for.

Shapes: V items, S negatives.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from model.network.ranker import Ranker
from model.objectives.next_item import Negatives
from model.objectives.objective import Objective
from model.options import Loss, TrainOptions
from model.processes import Processes
from model.windows import Batch, Epoch
from relations.errors import DependencyFailed, UsageError

ALONE = Processes()
SAMPLING_POWER = 0.5
"""Negatives are drawn by popularity to this power, between uniform and what users see: on sessions of 40,000 items
increments rank better than with word2vec's .75, and full trainings the same."""


@dataclass(frozen=True)
class Sums:
    """Of one step, over its targets in all processes."""

    loss: float
    """Their weighted mean, nats."""
    parts: dict[str, float]
    weight: float
    """What the gradients that are there must be divided by; 0: there is nothing to learn from."""
    targets: int
    tokens: int


class Gradients:
    """Leaves the summed gradient of a step's targets in the parameters; the caller divides by their weight."""

    def __init__(
        self,
        ranker: Ranker,
        objective: Objective,
        *,
        options: TrainOptions,
        count_V: np.ndarray,
        device: torch.device,
        dtype: torch.dtype,
        processes: Processes = ALONE,
    ) -> None:
        self._ranker = ranker
        self._objective = objective
        self._seed = options.seed
        self._device = device
        self._dtype = dtype
        self._processes = processes
        self._draw = Sampler(count_V, options) if options.loss is not Loss.FULL else None
        self._pieces = 1

    def __call__(self, plan: Epoch, batches: Sequence[int], *, step: int) -> Sums:
        """Of the plan's `batches`. One that does not fit into memory is cut into pieces, as are all that follow.

        Raises DependencyFailed when a single window does not fit, UsageError when the loss is not finite.
        """
        while True:
            try:
                mine = self._take(plan, batches, step)
                break
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                most = max(len(plan.plan[batch]) for batch in batches)
                if self._pieces >= most:
                    raise DependencyFailed(
                        "training: one user's window does not fit into memory; lower max_history or width, or take a "
                        "sampled loss"
                    ) from error
                self._pieces *= 2
            for weight in self._trained():
                weight.grad = None
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
        self._processes.add_up_gradients(self._trained())
        return _together(self._processes.of_all(mine))

    def _trained(self) -> list[nn.Parameter]:
        both = (*self._ranker.parameters(), *self._objective.parameters())
        return [weight for weight in both if weight.requires_grad]

    def _take(self, plan: Epoch, batches: Sequence[int], step: int) -> Sums:
        torch.manual_seed(seed_of(self._seed, step, self._processes.rank))
        negatives = None if self._draw is None else self._draw(step, self._device)
        loss, parts, weight, targets, tokens = 0.0, Counter[str](), 0.0, 0, 0
        for index in batches:
            of = {"rank": self._processes.rank, "ranks": self._processes.count}
            for number, piece in enumerate(plan.pieces(index, self._pieces, **of), start=1):
                share = piece.weight
                if not share:
                    continue
                batch = piece.to(self._device)
                found = self._objective(
                    self._ranker,
                    batch,
                    seed=seed_of(self._seed, step, self._processes.rank, index, number),
                    negatives=negatives,
                    vector_VE=self._ranker.item_table.first_vectors(),
                    dtype=self._dtype,
                    by_rows=self._ranker.item_table.sparse,
                )
                (found.total * share).backward()
                loss += found.total.item() * share
                for name, part in found.parts.items():
                    parts[name] += part.item() * share
                weight, targets, tokens = weight + share, targets + batch.targets, tokens + batch.tokens
                if not math.isfinite(loss):
                    raise UsageError(_not_finite(batch, step, index))
        return Sums(loss, dict(parts), weight, targets, tokens)


def _together(sums: Sequence[Sums]) -> Sums:
    """Means, from each process's weighted sums."""
    weight, parts = sum(one.weight for one in sums), Counter[str]()
    for one in sums:
        parts.update(one.parts)
    return Sums(
        sum(one.loss for one in sums) / (weight or 1),
        {name: value / (weight or 1) for name, value in parts.items()},
        weight,
        sum(one.targets for one in sums),
        sum(one.tokens for one in sums),
    )


class Sampler:
    """Draws one set of negatives for all targets of a step."""

    def __init__(self, count_V: np.ndarray, options: TrainOptions) -> None:
        # gBCE's correction is for uniform draws; privacy has no popularity to draw by
        power = SAMPLING_POWER if options.loss is Loss.SAMPLED and not options.dp_clip else 0.0
        weight_V = np.maximum(count_V, 1) ** power  # an item without events must be pushed down as well
        weight_V = np.where(count_V < 0, 0.0, weight_V)
        self._q_V = weight_V / weight_V.sum()
        self._last = int(np.flatnonzero(weight_V)[-1])
        self._up_to_V = np.cumsum(self._q_V)
        self._seed, self._count = options.seed, options.negatives

    def __call__(self, step: int, device: torch.device) -> Negatives:
        u_S = np.random.default_rng([self._seed, step, 1]).random(self._count)
        column_S = np.minimum(np.searchsorted(self._up_to_V, u_S, side="right"), self._last)
        log_q_S = np.log(self._q_V[column_S]).astype(np.float32)
        of = len(self._q_V)
        return Negatives(torch.from_numpy(column_S).to(device), torch.from_numpy(log_q_S).to(device), items=of)


def seed_of(seed: int, step: int, rank: int = 0, *piece: int) -> int:
    """Of what the network draws; another in each process, and in the first what it is in a process alone.

    `piece`: numbers of a batch and its piece, for what the objective draws of it.
    """
    entropy = [seed, step, rank, *piece] if rank or piece else [seed, step]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def out_of_memory(error: RuntimeError) -> bool:
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
