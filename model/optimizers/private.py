"""Differentially private gradients with the user as the unit.

A step draws every user with probability q (Poisson sampling), and with g_u the gradient of user u's own loss:

    ḡ = (Σ_u g_u · min(1, C / ‖g_u‖) + N(0, (σC)² I)) / (q U)

One user more or less moves the sum by at most C, whatever the user's events are, so that each step is a Gaussian
mechanism of noise multiplier σ, subsampled at q. Sources: Abadi et al., Deep Learning with Differential Privacy, CCS
2016, Algorithm 1; McMahan et al., Learning Differentially Private Recurrent Language Models, ICLR 2018, Algorithm 1,
for the user as the unit and the fixed denominator q U. ε comes from Opacus's Rényi accountant (Mironov et al., 2019,
arXiv:1908.10530), an upper bound, for adding or removing one user.

What the bound covers is the gradient steps. It does not cover what else is read off the events without noise: the
vocabulary, biases that start from popularity, the popularity that negatives are drawn by, early stopping, statistics.
The loss of a user must depend on that user's events alone: no in-batch negatives, no weights normalised over a batch.
Who knows the secret can take the noise off again: keep it out of logs, configurations and published checkpoints.

Shapes: U users, P parameters.
"""

import secrets
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from model.optimizers.options import OptimizerOptions
from relations.errors import DependencyFailed, UsageError

ORDERS = (*(1 + tenth / 10 for tenth in range(1, 100)), *range(11, 64), 72, 96, 128, 256, 512, 1024)
"""Rényi orders among which the accountant takes the best; beyond these the bound is loose and still holds."""
ROUNDING = 1e-6
"""Users are clipped to C · (1 − 1e-6), so that float32 sums do not end above C."""


@dataclass(frozen=True)
class Phase:
    """Steps of one kind. A training has one; a model that increments go on from has one for each training so far."""

    noise: float
    """σ: the noise's standard deviation over the clipping norm."""
    rate: float
    """q: the probability that a step draws a given user."""
    steps: int


def epsilon(phases: Sequence[Phase], *, delta: float) -> float:
    """ε of (ε, δ)-differential privacy at the user level after all `phases`; ∞ when any has no noise.

    Raises DependencyFailed without the package opacus.
    """
    spent = [phase for phase in phases if phase.steps and phase.rate]
    if any(phase.noise == 0 for phase in spent):
        return float("inf")
    try:
        from opacus.accountants import RDPAccountant
    except ImportError as error:
        raise DependencyFailed("dp_clip needs the package opacus; install ratchet-rec[train]") from error
    if not spent:
        return 0.0
    accountant = RDPAccountant()
    accountant.history = [(phase.noise, phase.rate, phase.steps) for phase in spent]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order")  # at the first or last order the bound still holds
        return max(0.0, float(accountant.get_epsilon(delta=delta, alphas=list(ORDERS))))


def sampling_rate(options: OptimizerOptions, *, users: int) -> float:
    """q, by which a step draws `dp_users` of `users` users on average; 1 when there are no more than those.

    Raises UsageError for a δ of 1 / users or more, which would allow publishing somebody's events as they are.
    """
    if options.dp_delta * users >= 1:
        raise UsageError(f"[train] dp_delta = {options.dp_delta} must be below 1 / users = {1 / users:.3g}")
    return min(1.0, options.dp_users / users)


def new_secret() -> int:
    """128 bits that decide draws and noise. Checkpoints of a running training hold it, nothing that outlives it may."""
    return secrets.randbits(128)


def draw_users(users: int, *, rate: float, secret: int, step: int) -> np.ndarray:
    """The users of a step, ascending: each of 0 … users − 1 by itself with probability `rate`. May be empty."""
    return np.flatnonzero(np.random.default_rng([secret, step, 0]).random(users) < rate)


class UserGradients:
    """Adds up clipped gradients, a user at a time, and writes their noisy mean where the optimiser looks for it.

    For each user that the step drew, `add` the loss of all of the user's windows in it, summed or averaged over them;
    then `write` once, also for a step that drew nobody. It costs a backward pass a user, and one tensor like every
    parameter. Several processes: add up `total_P` over them before `write` with the same secret.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], *, clip: float, noise: float) -> None:
        self._parameters = [weight for weight in parameters.values() if weight.requires_grad]
        self._clip = clip
        self._noise = noise
        self.total_P = [torch.zeros_like(weight) for weight in self._parameters]

    def add(self, loss: Tensor) -> float:
        """The L2 norm of this user's gradient before clipping. Raises UsageError when it is not finite."""
        found_P = torch.autograd.grad(loss, self._parameters, allow_unused=True)
        # equal rows of a sparse gradient are added up first: the norm of their parts is not the norm of their sum
        gradient_P = [None if g is None else g.coalesce() if g.is_sparse else g for g in found_P]
        values = [g.values() if g.is_sparse else g for g in gradient_P if g is not None]
        norm = float(torch.nn.utils.get_total_norm(values)) if values else 0.0
        if not np.isfinite(norm):
            raise UsageError(f"private training: a user's gradient has the norm {norm}; lower learning_rate")
        scale = min(1.0, self._clip * (1 - ROUNDING) / norm) if norm else 0.0
        for total, gradient in zip(self.total_P, gradient_P, strict=True):
            if gradient is not None:
                total.add_(gradient, alpha=scale)
        return norm

    @torch.no_grad()
    def write(self, *, expected_users: float, secret: int, step: int) -> None:
        """Set every parameter's gradient to the noisy mean over `expected_users` = q U, and begin the next step."""
        seed = int(np.random.SeedSequence([secret, step, 1]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        generators: dict[torch.device, torch.Generator] = {}
        for weight, total in zip(self._parameters, self.total_P, strict=True):
            if weight.device not in generators:
                generators[weight.device] = torch.Generator(weight.device).manual_seed(seed)
            noise = torch.empty_like(total).normal_(generator=generators[weight.device])
            weight.grad = total.add(noise, alpha=self._noise * self._clip).div_(expected_users)
            total.zero_()
