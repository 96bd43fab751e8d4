"""Steps over drawn users, whose gradients are clipped and noised (`model.optimizers.private`).

Shapes: U users, W windows, N positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from model.gradients import Sampler, Sums, out_of_memory
from model.network.ranker import Ranker
from model.objectives.objective import Objective
from model.objectives.options import ObjectiveOptions
from model.optimizers.private import Phase, UserGradients, draw_users, epsilon, sampling_rate
from model.options import Loss, TrainOptions
from model.processes import Processes
from model.windows import Corpus, Epoch, Windows, gather
from relations.errors import DependencyFailed, UsageError


@dataclass(frozen=True)
class Privacy:
    """(ε, δ) of the users, for the gradient steps of all trainings so far."""

    phases: tuple[Phase, ...]
    delta: float
    epsilon: float

    @staticmethod
    def of(phases: Sequence[Phase], *, delta: float) -> "Privacy":
        """Equal steps in succession are one phase. Raises DependencyFailed without opacus."""
        held: list[Phase] = []
        for phase in phases:
            if held and (held[-1].noise, held[-1].rate) == (phase.noise, phase.rate):
                phase = Phase(phase.noise, phase.rate, held.pop().steps + phase.steps)
            held.append(phase)
        return Privacy(tuple(held), delta, epsilon(held, delta=delta))


def refuse_unbounded(training: TrainOptions, objective: ObjectiveOptions) -> None:
    """Raises UsageError for what would read the users' events beside the noise."""
    wrong = {
        "[train] patience": (training.patience > 0, "the newest events would decide when to stop; set patience = 0"),
        "[objective] contrastive_weight": (
            bool(objective.self_supervised and objective.contrastive_weight),
            "its negatives are other users of the batch; set contrastive_weight = 0",
        ),
        "[objective] rating_weight": (
            objective.rating_weight > 0,
            "the scale of the ratings is taken from all users; set rating_weight = 0",
        ),
        "[objective] bot_threshold": (
            objective.bot_threshold > 0,
            "a user's weight would depend on the others' events; set bot_threshold = 0",
        ),
    }
    for key, (is_wrong, why) in wrong.items():
        if is_wrong:
            raise UsageError(f"{key} is not private (dp_clip = {training.dp_clip}): {why}")


class PrivateGradients:
    """As `model.gradients.Gradients`, but leaves the noisy mean over drawn users; a step's batch is its users."""

    def __init__(
        self,
        ranker: Ranker,
        objective: Objective,
        *,
        options: TrainOptions,
        items: int,
        users: int,
        secret: int,
        device: torch.device,
        dtype: torch.dtype,
        processes: Processes,
    ) -> None:
        """`users`: all that the training could draw."""
        self._ranker, self._objective, self._options = ranker, objective, options
        self._secret, self._device, self._dtype, self._processes = secret, device, dtype, processes
        self._users, self.rate = users, sampling_rate(options, users=users)
        whole = nn.ModuleDict({"ranker": ranker, "objective": objective})
        self._gradients = UserGradients(dict(whole.named_parameters()), clip=options.dp_clip, noise=options.dp_noise)
        self._draw = Sampler(np.ones(items), options) if options.loss is not Loss.FULL else None

    def drawn(self, epoch: Epoch, *, step: int) -> Epoch:
        """The epoch's windows in steps of Poisson-drawn users, from training step `step` (from 0) on.

        So many steps that a user is drawn once on average. Raises UsageError for weights, which compare users.
        """
        corpus, windows = epoch.corpus, epoch.windows
        if (corpus.weight_N != 1).any():
            raise UsageError("events: weights are not private, since they compare users; train without weights")
        first_N = np.concatenate(epoch.firsts) if epoch.firsts else np.zeros(0, dtype=np.int64)
        user_W = _user_of(corpus, windows)
        plan, firsts = [], []
        for ahead in range(max(1, round(1 / self.rate))):
            users = draw_users(self._users, rate=self.rate, secret=self._secret, step=step + ahead)
            plan.append(np.flatnonzero(np.isin(user_W, users)))
            firsts.append(np.intersect1d(first_N, users))
        return Epoch(corpus, windows, tuple(plan), tuple(firsts))

    def __call__(self, plan: Epoch, batches: Sequence[int], *, step: int) -> Sums:
        (index,) = batches
        negatives = None if self._draw is None else self._draw(step, self._device)
        window_W, first_F = plan.plan[index], plan.firsts[index]
        user_W = _user_of(plan.corpus, plan.windows.keep(window_W))
        users = np.union1d(user_W, first_F)[self._processes.rank :: self._processes.count]
        loss, parts, targets, tokens = 0.0, dict[str, float](), 0, 0
        for user in users:
            torch.manual_seed(self._seed_of(step, int(user)))
            mine = self._fitting(plan.windows, window_W[user_W == user], step)
            batch = gather(plan.corpus, mine, first_F[first_F == user]).to(self._device)
            try:
                found = self._objective(
                    self._ranker,
                    batch,
                    seed=self._seed_of(step, int(user)),
                    negatives=negatives,
                    vector_VE=self._ranker.item_table.first_vectors(),
                    dtype=self._dtype,
                )
                self._gradients.add(found.total)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                raise DependencyFailed(
                    "private training: a user's windows do not fit into memory; lower batch_tokens or width, or take "
                    "a sampled loss"
                ) from error
            loss += found.total.item()
            for name, part in found.parts.items():
                parts[name] = parts.get(name, 0.0) + part.item()
            targets, tokens = targets + batch.targets, tokens + batch.tokens
        self._processes.add_up(self._gradients.total_P)
        self._gradients.write(expected_users=self.rate * self._users, secret=self._secret, step=step)
        return self._mean(Sums(loss, parts, float(len(users)), targets, tokens))

    def _mean(self, mine: Sums) -> Sums:
        """Over the users of all processes. The gradient is a mean already."""
        sums = self._processes.of_all(mine)
        users = max(1.0, sum(one.weight for one in sums))
        names = {name for one in sums for name in one.parts}
        return Sums(
            sum(one.loss for one in sums) / users,
            {name: sum(one.parts.get(name, 0.0) for one in sums) / users for name in sorted(names)},
            1.0,
            sum(one.targets for one in sums),
            sum(one.tokens for one in sums),
        )

    def _seed_of(self, step: int, user: int) -> int:
        """Of the network's own draws: a known seed in the users' order would let one user move another's gradient."""
        state = np.random.SeedSequence([self._secret, step, 3, user]).generate_state(1, np.uint64)[0]
        return int(state >> np.uint64(1))

    def _fitting(self, windows: Windows, window_W: np.ndarray, step: int) -> Windows:
        """Of one user's windows as many as `batch_tokens` allow, at least one, at random."""
        rng = np.random.default_rng([self._secret, step, 2])
        mixed = windows.keep(rng.permutation(window_W))
        fits = np.cumsum(mixed.length_W) <= self._options.batch_tokens
        return mixed.keep(np.arange(min(len(mixed), max(1, int(fits.sum())))))


def _user_of(corpus: Corpus, windows: Windows) -> np.ndarray:
    return np.asarray(np.searchsorted(corpus.offsets_U1, windows.start_W, side="right") - 1)
