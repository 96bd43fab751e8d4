"""Several losses as one: Σ λ_i ℓ_i with fixed weights, or with weights that are learned."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class FixedSum(nn.Module):
    """Σ λ_i ℓ_i over the losses that are given."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = dict(weights)

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """A name without a weight is a KeyError: a loss that silently counts for nothing would look trained."""
        return torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()


class UncertaintySum(nn.Module):
    """Σ e^(−s_i)·c_i·ℓ_i + ½·s_i, with s_i = log σ_i² learned and c_i = ½ for squared errors, else 1.

    The negative log likelihood of independent tasks with noise σ_i: a task that stays hard gets less weight, and ½·s_i
    keeps all from weighing nothing. s_i starts where the weights are the given λ_i. Where a task has no target in a
    batch its loss is exactly 0; then s_i is left alone, or it would run to −∞. Source: Kendall, Gal & Cipolla, CVPR
    2018, section 3.2.
    """

    def __init__(self, weights: Mapping[str, float], *, squared: frozenset[str] = frozenset()) -> None:
        """`weights` > 0 by name; `squared` names the losses that are squared errors."""
        super().__init__()
        self.factor = {name: 0.5 if name in squared else 1.0 for name in weights}
        self.log_variance = nn.ParameterDict(
            {
                _key(name): nn.Parameter(torch.tensor(-math.log(weight / self.factor[name])))
                for name, weight in weights.items()
            }
        )

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        terms = []
        for name, loss in losses.items():
            s = self.log_variance[_key(name)]
            term = torch.exp(-s) * self.factor[name] * loss + 0.5 * s
            terms.append(torch.where(loss.detach() != 0, term, loss))
        return torch.stack(terms).sum()

    def weights(self) -> dict[str, float]:
        """What each loss is multiplied by, at present."""
        return {name: c * math.exp(-self.log_variance[_key(name)].item()) for name, c in self.factor.items()}


def _key(name: str) -> str:
    """A parameter's name holds no dot."""
    return name.replace(".", "-")
