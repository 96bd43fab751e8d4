"""Exponential moving average of the weights.

    a_t ← d_t a_{t−1} + (1 − d_t) w_t,    d_t = min(d, (1 + t) / (10 + t)),    t = 0, 1, …

The average's last weights count most; their mean is closer to the optimum than any one of them. Source: Polyak &
Juditsky, SIAM J. Control and Optimization 30(4), 1992, for averaging; the warm-up of the decay, without which the
random start would weigh on the average for some 1/(1 − d) steps, is that of TensorFlow's `ExponentialMovingAverage`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from relations.errors import UsageError

UPDATES = "/ema_updates"


class Ema:
    """The average of `named`, which starts as their present values. It costs one pass over all weights a step."""

    def __init__(self, named: Mapping[str, nn.Parameter], *, decay: float) -> None:
        self._named = named
        self._decay = decay
        self._updates = 0
        self._average = {name: weight.detach().clone() for name, weight in named.items()}

    @torch.no_grad()
    def update(self) -> None:
        keep = min(self._decay, (1 + self._updates) / (10 + self._updates))
        self._updates += 1
        for name, weight in self._named.items():
            self._average[name].lerp_(weight, 1 - keep)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The averages are the weights, and after it the weights are back, to the bit. No training inside."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def adopt(self) -> None:
        """Make the averages the weights, for good."""
        for name, weight in self._named.items():
            weight.copy_(self._average[name])

    def state_tensors(self) -> dict[str, Tensor]:
        """`<parameter>/ema`, and how many updates there were."""
        averages = {f"{name}/ema": tensor for name, tensor in self._average.items()}
        return averages | {UPDATES: torch.tensor(self._updates)}

    def load(self, name: str, tensor: Tensor) -> None:
        """The average of the parameter `name`; rows that it lacks start as the weights. Raises UsageError otherwise."""
        weight = self._named[name].detach()
        if tensor.shape[1:] != weight.shape[1:] or (tensor.dim() and len(tensor) > len(weight)):
            raise UsageError(f"{name}: a moving average of {tuple(tensor.shape)} for {tuple(weight.shape)}; train anew")
        known = tensor.to(weight)
        self._average[name] = torch.cat([known, weight[len(known) :]]) if known.dim() else known.clone()

    def load_updates(self, tensor: Tensor) -> None:
        self._updates = int(tensor)

    @torch.no_grad()
    def _swap(self) -> None:
        for name, weight in self._named.items():
            held = weight.detach().clone()
            weight.copy_(self._average[name])
            self._average[name].copy_(held)
