"""The training loop, read top to bottom.

Everything random in a step follows from (seed, epoch, step): a training that was killed and resumed takes the same
steps as one that was not, and on a CPU with the same threads ends in the same bits.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from model.checkpoint import Checkpoint, Progress
from model.continual.anchoring import Anchor
from model.gradients import Gradients
from model.machine import choose_device, choose_dtype, keep_few_products, keep_freed_memory
from model.network.ranker import Ranker
from model.objectives.objective import Objective
from model.optimizers.building import Optimizers
from model.optimizers.private import Phase, new_secret
from model.optimizers.tables import sparse_pays
from model.options import Loss, TrainOptions
from model.private_steps import Privacy, PrivateGradients
from model.processes import joined
from model.windows import Epoch
from relations.errors import DataRejected

TABLE, BIAS = "ranker.item_table.weight", "ranker.item_bias"


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
    privacy: Privacy | None = None
    """None without."""


def train(
    ranker: Ranker,
    objective: Objective,
    *,
    epoch_of: Callable[[int], Epoch],
    options: TrainOptions,
    optimizer_state: Mapping[str, Tensor] | None,
    count_V: np.ndarray,
    fingerprint: str,
    users: int = 0,
    anchor: Anchor | None = None,
    spent: Sequence[Phase] = (),
    tables: Sequence[str] = (TABLE,),
    run: Path | None = None,
    validate: Validate | None = None,
    on_step: OnStep | None = None,
    on_epoch: OnEpoch | None = None,
) -> Outcome:
    """Train `ranker` and `objective` in place for `options.epochs` passes. `count_V`: events of each item; one below 0
    is never drawn as a negative. `tables`: what `options.embedding_optimizer` trains.

    With `run`, a checkpoint is written there every `checkpoint_every_steps` and after each epoch; one with the same
    `fingerprint` is continued. `anchor` pulls at the weights in every step. With `validate`, the training ends after
    `options.patience` epochs without a better answer, and weights and optimiser state are those of the best epoch. With
    `options.dp_clip` the steps draw among `users`, and ε is that of `spent`, the steps of earlier trainings, and of
    these. Where `torchrun` started several processes they train together; the first alone writes, tells and judges, and
    all end with the same weights. Raises UsageError when the loss stops being finite, DataRejected when no target has a
    weight.
    """
    keep_few_products()
    keep_freed_memory()
    with joined() as processes:
        device = choose_device(options.device)
        whole = nn.ModuleDict({"ranker": ranker, "objective": objective})
        state = Checkpoint(Progress(fingerprint), whole.state_dict(), optimizer_state or {})
        if run is not None and processes.first:
            state = Checkpoint.read(run, fingerprint=fingerprint) or state
        if options.dp_clip and not state.progress.secret and processes.first:
            state.progress = replace(state.progress, secret=new_secret())
        state = processes.of_first(state)
        whole.load_state_dict(state.weights)
        whole.to(device).train()
        ranker.item_table.sparse = _sparse(options, items=len(count_V)) and processes.count == 1
        named = dict(whole.named_parameters())
        anchor = None if anchor is None else anchor.to(device)
        optimizers = Optimizers(named, options=options, tables=tables)
        optimizers.load_state_tensors(state.optimizer)
        dtype = choose_dtype(options.precision, device)
        at, best, best_optimizer, losses = state.progress, state.best, state.best_optimizer, state.losses
        gradients: Gradients | PrivateGradients
        if options.dp_clip:
            gradients = PrivateGradients(
                ranker,
                objective,
                options=options,
                items=len(count_V),
                users=users,
                secret=at.secret,
                device=device,
                dtype=dtype,
                processes=processes,
            )
        else:
            gradients = Gradients(
                ranker, objective, options=options, count_V=count_V, device=device, dtype=dtype, processes=processes
            )
        began = time.monotonic() - at.seconds

        def save() -> None:
            if run is not None and processes.first:
                held = Checkpoint(
                    at, whole.state_dict(), optimizers.state_tensors(), best, best_optimizer, losses=losses
                )
                held.write(run)

        while at.epoch < options.epochs and not (validate and at.epoch - at.best_epoch >= options.patience):
            plan = epoch_of(at.epoch)
            if isinstance(gradients, PrivateGradients):
                plan = gradients.drawn(plan, step=at.steps - at.index)
            while at.index < len(plan):
                batches = range(at.index, min(at.index + options.accumulate, len(plan)))
                sums = gradients(plan, batches, step=at.steps)
                if not sums.weight:
                    at = at.past(batches.stop)
                    continue
                if anchor is not None:
                    anchor.pull(named, weight=sums.weight)
                optimizers.step((at.epoch + at.index / len(plan)) / options.epochs, weight=sums.weight)
                optimizers.zero_grad()
                losses.append(sums.loss)
                at = at.after(
                    index=batches.stop, tokens=sums.tokens, targets=sums.targets, seconds=time.monotonic() - began
                )
                if on_step is not None and processes.first:
                    an_epoch = -(-len(plan) // options.accumulate)
                    left = -(-(len(plan) - at.index) // options.accumulate) + an_epoch * (options.epochs - at.epoch - 1)
                    on_step(Step(at.steps, at.steps + left, sums.loss, sums.parts, at.targets, at.seconds))
                if at.index < len(plan) and at.steps % options.checkpoint_every_steps == 0:
                    save()
            at = at.next_epoch()
            with optimizers.averaged(), torch.no_grad():
                whole.eval()
                score = processes.of_first(validate(ranker) if validate is not None and processes.first else 0.0)
                is_best = validate is not None and score > at.best_score
                if is_best:
                    at = replace(at, best_epoch=at.epoch, best_score=score)
                    best = _copy(whole.state_dict())
                if on_epoch is not None and processes.first:
                    on_epoch(at.epoch, ranker)
                whole.train()
            if is_best:
                best_optimizer = _copy(optimizers.state_tensors())
            if at.epoch == options.epochs:
                at = replace(at, secret=0)
            save()

        if not at.steps:
            raise DataRejected("events: every target weighs 0, and nothing can be learnt; give some events a weight")
        if best:
            whole.load_state_dict(best)
        else:
            optimizers.adopt_average()
        ranker.item_table.sparse = False
        whole.to("cpu").eval()
        kept = best_optimizer if best else optimizers.state_tensors()
    phases = tuple(spent)
    if isinstance(gradients, PrivateGradients):
        phases += (Phase(options.dp_noise, gradients.rate, at.steps),)
    elif phases:
        phases += (Phase(0.0, 1.0, at.steps),)  # what a plain step tells has no bound
    return Outcome(
        optimizer_state={name: tensor.cpu() for name, tensor in kept.items()},
        losses=tuple(enumerate(losses, start=1)),
        steps=at.steps,
        tokens=at.tokens,
        targets=at.targets,
        seconds=time.monotonic() - began,
        privacy=Privacy.of(phases, delta=options.dp_delta) if phases else None,
    )


def _sparse(options: TrainOptions, *, items: int) -> bool:
    """Whether the item table's gradient should hold only the rows that a step looks up."""
    touched = options.accumulate * options.batch_tokens + options.negatives
    return options.loss is not Loss.FULL and sparse_pays(options, rows=items, touched=touched)


def _copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}
