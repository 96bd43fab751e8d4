"""The training loop, read top to bottom.

Everything random in a step follows from (seed, epoch, step): a training that was killed and resumed takes the same
steps as one that was not, and on a CPU with the same threads ends in the same bits.

Shapes: B rows, L positions, D width, N trained targets, V items, S negatives.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.checkpoint import Progress, read_checkpoint, write_checkpoint
from model.losses import full_softmax, sampled_softmax
from model.machine import choose_device
from model.options import Loss, TrainOptions
from model.ranker import Ranker
from model.windows import Batch, Epoch
from relations.errors import UsageError

OnStep = Callable[[int, int, float], None]
"""Called after each step with the step from 1, the total as far as it is known, and the step's loss in nats."""

WARM_UP, FLOOR = 0.05, 0.05
BETAS = (0.9, 0.98)
SAMPLING_POWER = 0.75
"""Negatives are drawn by popularity to this power (word2vec's): between uniform and what users see."""


class Schedule(StrEnum):
    DECAY = "decay"
    """Rises over the first 5 % of the training, then falls along a cosine to 5 %."""
    CONSTANT = "constant"
    """For increments: the optimiser is warm, and the next increment goes on where this one ends."""


@dataclass(frozen=True)
class Outcome:
    optimizer_state: dict[str, Tensor]
    losses: tuple[tuple[int, float], ...]
    steps: int
    tokens: int
    seconds: float


def train(
    ranker: Ranker,
    *,
    epoch_of: Callable[[int], Epoch],
    options: TrainOptions,
    schedule: Schedule,
    optimizer_state: Mapping[str, Tensor] | None,
    count_V: np.ndarray,
    fingerprint: str,
    run: Path | None,
    on_step: OnStep | None,
) -> Outcome:
    """Train `ranker` in place for `options.epochs` passes. `count_V`: events of each item, for drawing negatives.

    With `run`, a checkpoint is written there every `checkpoint_every_steps` and at the end; one with the same
    `fingerprint` is continued. Raises UsageError when the loss stops being finite.
    """
    device = choose_device(options.device)
    progress = Progress(fingerprint, epoch=0, index=0, steps=0, tokens=0, seconds=0.0, losses=())
    found = read_checkpoint(run, fingerprint=fingerprint) if run is not None else None
    if found is not None:
        progress, weights, optimizer_state = found
        ranker.load_state_dict(weights)
    ranker.to(device).train()
    optimizer = _optimizer(ranker, options, optimizer_state)
    negatives = _Negatives(count_V, options, device) if options.loss is Loss.SAMPLED else None
    losses, steps, tokens = list(progress.losses), progress.steps, progress.tokens
    began = time.monotonic() - progress.seconds
    first_index = progress.index

    for epoch in range(progress.epoch, options.epochs):
        plan = epoch_of(epoch)
        for index in range(first_index, len(plan)):
            torch.manual_seed(_step_seed(options.seed, steps))
            batch = plan.batch(index)
            done = (epoch + index / len(plan)) / options.epochs
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * _factor(schedule, done)
            loss = _loss(ranker, batch, device, negatives, steps)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            value = loss.item()
            if not math.isfinite(value):
                raise UsageError(
                    f"training: the loss is {value} at step {steps + 1}; lower learning_rate = {options.learning_rate}"
                )
            steps, tokens = steps + 1, tokens + batch.row_BL.size
            losses.append((steps, value))
            if on_step is not None:
                on_step(steps, steps + len(plan) - index - 1 + len(plan) * (options.epochs - epoch - 1), value)
            last = epoch == options.epochs - 1 and index == len(plan) - 1
            if run is not None and (last or steps % options.checkpoint_every_steps == 0):
                at = Progress(fingerprint, epoch, index + 1, steps, tokens, time.monotonic() - began, tuple(losses))
                write_checkpoint(run, progress=at, weights=ranker.state_dict(), optimizer=_tensors(ranker, optimizer))
        first_index = 0

    ranker.to("cpu").eval()
    state = {name: tensor.cpu() for name, tensor in _tensors(ranker, optimizer).items()}
    return Outcome(state, tuple(losses), steps, tokens, time.monotonic() - began)


def _loss(ranker: Ranker, batch: Batch, device: torch.device, negatives: "_Negatives | None", step: int) -> Tensor:
    row_BL, behaviour_BL, target_BL, first_F = (
        torch.from_numpy(array).to(device)
        for array in (batch.row_BL, batch.behaviour_BL, batch.target_BL, batch.first_F)
    )
    states, targets = [], []
    if len(row_BL):
        trained_BL = target_BL > 0
        states.append(ranker.encode(row_BL, behaviour_BL)[trained_BL])
        targets.append(target_BL[trained_BL])
    if len(first_F):
        nothing = torch.zeros((1, 1), dtype=torch.int64, device=device)
        states.append(ranker.encode(nothing, nothing)[0].expand(len(first_F), -1))
        targets.append(first_F)
    state_ND, column_N = torch.cat(states), torch.cat(targets) - 1
    table_VD, bias_V = ranker.item_table.weight[1:], ranker.item_bias[1:]
    if negatives is None:
        return full_softmax(state_ND, table_VD, bias_V, column_N)
    negative_S, log_q_S = negatives.draw(step)
    return sampled_softmax(state_ND, table_VD, bias_V, column_N, negative_S=negative_S, log_q_S=log_q_S)


class _Negatives:
    """Draws one set of negatives for all targets of a step."""

    def __init__(self, count_V: np.ndarray, options: TrainOptions, device: torch.device) -> None:
        weight_V = np.maximum(count_V, 1) ** SAMPLING_POWER  # an item without events must be pushed down as well
        self._q_V = weight_V / weight_V.sum()
        self._up_to_V = np.cumsum(self._q_V)
        self._options = options
        self._device = device

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        u_S = np.random.default_rng([self._options.seed, step, 1]).random(self._options.negatives)
        column_S = np.minimum(np.searchsorted(self._up_to_V, u_S, side="right"), len(self._q_V) - 1)
        log_q_S = np.log(self._q_V[column_S]).astype(np.float32)
        return torch.from_numpy(column_S).to(self._device), torch.from_numpy(log_q_S).to(self._device)


def _factor(schedule: Schedule, done: float) -> float:
    if schedule is Schedule.CONSTANT:
        return 1.0
    rise = min(1.0, (done + 1e-3) / WARM_UP)
    return rise * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done)))


def _step_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _optimizer(ranker: Ranker, options: TrainOptions, state: Mapping[str, Tensor] | None) -> torch.optim.AdamW:
    named = dict(ranker.named_parameters())
    groups = [
        {"params": [p for p in named.values() if p.dim() > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in named.values() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, betas=BETAS, fused=True)
    for name, tensor in (state or {}).items():
        parameter, _, kind = name.rpartition("/")
        owner = named[parameter]
        optimizer.state[owner][kind] = tensor.clone().to(owner.device)
    return optimizer


def _tensors(ranker: Ranker, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """The optimiser's state as `<parameter>/<kind>` → tensor."""
    return {
        f"{name}/{kind}": tensor
        for name, parameter in ranker.named_parameters()
        for kind, tensor in optimizer.state.get(parameter, {}).items()
    }
