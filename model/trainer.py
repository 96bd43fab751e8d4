"""The training loop, read top to bottom.

Everything random in a step follows from (seed, epoch, step): a training that was killed and resumed takes the same
steps as one that was not, and on a CPU with the same threads ends in the same bits.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from model.checkpoint import Checkpoint, Progress
from model.gradients import Gradients
from model.machine import choose_device, choose_dtype, keep_freed_memory
from model.network.ranker import Ranker
from model.objectives.objective import Objective
from model.optimizers.building import Optimizers
from model.options import TrainOptions
from model.windows import Epoch

TABLE = "ranker.item_table.weight"


@dataclass(frozen=True)
class Step:
    """What a listener is told after each step."""

    step: int
    """From 1."""
    total: int
    loss: float
    """Nats."""
    parts: Mapping[str, float]
    """The loss's parts by name."""
    targets: int
    """Trained so far."""
    seconds: float
    """Spent so far."""


OnStep = Callable[[Step], None]
OnEpoch = Callable[[int, Ranker], None]
"""Called after each epoch with its number from 1 and the network as it would be kept, in eval mode. What it raises ends
the training."""
Validate = Callable[[Ranker], float]
"""How good the network is on what it does not learn from; higher is better."""


@dataclass(frozen=True)
class Outcome:
    optimizer_state: dict[str, Tensor]
    losses: tuple[tuple[int, float], ...]
    steps: int
    tokens: int
    targets: int
    seconds: float


def train(
    ranker: Ranker,
    objective: Objective,
    *,
    epoch_of: Callable[[int], Epoch],
    options: TrainOptions,
    optimizer_state: Mapping[str, Tensor] | None,
    count_V: np.ndarray,
    fingerprint: str,
    run: Path | None = None,
    validate: Validate | None = None,
    on_step: OnStep | None = None,
    on_epoch: OnEpoch | None = None,
) -> Outcome:
    """Train `ranker` and `objective` in place for `options.epochs` passes. `count_V`: events of each item.

    With `run`, a checkpoint is written there every `checkpoint_every_steps` and after each epoch; one with the same
    `fingerprint` is continued. With `validate`, the training ends after `options.patience` epochs without a better
    answer, and the best epoch's weights are kept. Raises UsageError when the loss stops being finite.
    """
    keep_freed_memory()
    device = choose_device(options.device)
    whole = nn.ModuleDict({"ranker": ranker, "objective": objective})
    state = Checkpoint(Progress(fingerprint), whole.state_dict(), optimizer_state or {})
    if run is not None:
        state = Checkpoint.read(run, fingerprint=fingerprint) or state
    whole.load_state_dict(state.weights)
    whole.to(device).train()
    optimizers = Optimizers(dict(whole.named_parameters()), options=options, tables=(TABLE,))
    optimizers.load_state_tensors(state.optimizer)
    dtype = choose_dtype(options.precision, device)
    gradients = Gradients(ranker, objective, options=options, count_V=count_V, device=device, dtype=dtype)
    at, best, losses = state.progress, state.best, state.losses
    began = time.monotonic() - at.seconds

    def save() -> None:
        if run is not None:
            Checkpoint(at, whole.state_dict(), optimizers.state_tensors(), best, losses).write(run)

    while at.epoch < options.epochs and not (validate and at.epoch - at.best_epoch >= options.patience):
        plan = epoch_of(at.epoch)
        while at.index < len(plan):
            batches = range(at.index, min(at.index + options.accumulate, len(plan)))
            sums = gradients(plan, batches, step=at.steps)
            optimizers.step((at.epoch + at.index / len(plan)) / options.epochs, weight=sums.targets)
            optimizers.zero_grad()
            losses.append(sums.loss)
            at = at.after(
                index=batches.stop, tokens=sums.tokens, targets=sums.targets, seconds=time.monotonic() - began
            )
            if on_step is not None:
                an_epoch = -(-len(plan) // options.accumulate)
                left = -(-(len(plan) - at.index) // options.accumulate) + an_epoch * (options.epochs - at.epoch - 1)
                on_step(Step(at.steps, at.steps + left, sums.loss, sums.parts, at.targets, at.seconds))
            if at.index < len(plan) and at.steps % options.checkpoint_every_steps == 0:
                save()
        at = at.next_epoch()
        with optimizers.averaged(), torch.no_grad():
            whole.eval()
            score = validate(ranker) if validate is not None else 0.0
            if validate is not None and score > at.best_score:
                at = replace(at, best_epoch=at.epoch, best_score=score)
                best = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
            if on_epoch is not None:
                on_epoch(at.epoch, ranker)
            whole.train()
        save()

    if best:
        whole.load_state_dict(best)
    else:
        optimizers.adopt_average()
    whole.to("cpu").eval()
    return Outcome(
        optimizer_state={name: tensor.cpu() for name, tensor in optimizers.state_tensors().items()},
        losses=tuple(enumerate(losses, start=1)),
        steps=at.steps,
        tokens=at.tokens,
        targets=at.targets,
        seconds=time.monotonic() - began,
    )
