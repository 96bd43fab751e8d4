"""Staying near the parent's weights, each as stiffly as the past depends on it.

Shapes: T targets, S negatives; a weight and its Fisher information have one shape.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.network.ranker import Ranker
from model.objectives.next_item import ItemObjective, Negatives
from model.windows import Batch

Fisher = dict[str, Tensor]
"""By the parameter's name: the mean over targets of its squared gradients, nats² per squared unit of the weight."""


@dataclass(frozen=True)
class Anchor:
    """Pulls towards θ* with the gradient of λ/2 · Σ_i F_i (θ_i − θ*_i)²: elastic weight consolidation.

    Source: Kirkpatrick et al., PNAS 2017, eq. 3. Without `fisher` every F_i is 1, which is L2-SP (Li, Grandvalet &
    Davoine, ICML 2018, eq. 3). The loss is a mean over targets, and so is F: λ = N / n is then what Bayes' rule gives
    for N past targets summed up by F and n new ones, were the posterior a Gaussian with a diagonal precision. It is
    not, and the best λ is smaller.
    """

    start: Mapping[str, Tensor]
    """θ*, by name."""
    fisher: Mapping[str, Tensor] | None
    strength: float
    """λ"""

    @staticmethod
    def of(named: Mapping[str, nn.Parameter], *, strength: float, fisher: Fisher | None = None) -> "Anchor":
        """At the weights as they are now; with `fisher` those alone that it knows, and of tables the rows it knows."""
        if fisher is None:
            return Anchor({name: weight.detach().clone() for name, weight in named.items()}, None, strength)
        start = {name: named[name].detach()[_rows(known)].clone() for name, known in fisher.items()}
        return Anchor(start, fisher, strength)

    def to(self, device: torch.device) -> "Anchor":
        start = {name: tensor.to(device) for name, tensor in self.start.items()}
        fisher = None if self.fisher is None else {name: tensor.to(device) for name, tensor in self.fisher.items()}
        return Anchor(start, fisher, self.strength)

    @torch.no_grad()
    def pull(self, named: Mapping[str, nn.Parameter], *, weight: float) -> None:
        """Add weight · λ · F · (θ − θ*) to the gradients that are there, between backward and step.

        `weight` is what the gradients will be divided by. A parameter without a gradient is not pulled, since no step
        moves it; of a sparse gradient the rows that it holds are. Rows that a table has gained since are free. Raises
        ValueError for a parameter that does not fit its anchor.
        """
        for name, start in self.start.items():
            parameter = named[name]
            if parameter.shape[1:] != start.shape[1:] or len(_flat(parameter)) < len(_flat(start)):
                raise ValueError(f"{name}: {tuple(parameter.shape)} for an anchor of {tuple(start.shape)}")
            if parameter.grad is None:
                continue
            if parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()
                row_R, values = parameter.grad.indices()[0], parameter.grad.values()
                known_R = row_R < len(start)
                row_R = row_R[known_R]
                values[known_R] += self._force(name, parameter[row_R] - start[row_R], row_R).mul_(weight)
            else:
                rows = _rows(start)
                parameter.grad[rows] += self._force(name, parameter[rows] - start, ...).mul_(weight)

    def _force(self, name: str, moved: Tensor, rows: object) -> Tensor:
        if self.fisher is not None:
            moved.mul_(self.fisher[name][rows])  # type: ignore[index]
        return moved.mul_(self.strength)


def empirical_fisher(
    ranker: Ranker,
    item: ItemObjective,
    *,
    batches: Iterable[Batch],
    negatives_of: Callable[[int], Negatives | None] = lambda step: None,
    seed: int,
    dtype: torch.dtype = torch.float32,
    prefix: str = "ranker.",
) -> Fisher:
    """The diagonal of the empirical Fisher information of the next item, from a sample of batches.

    Mean over targets of the squared gradient of each target's own loss, without dropout. It is estimated a batch at a
    time: with independent ε_t of mean 0 and variance 1, E[(Σ_t ε_t g_t)²] = Σ_t g_t², while the squared gradient of a
    batch's plain sum, the usual short cut, also holds the products of different targets' gradients. With B batches an
    entry's standard error is √(2/B) of it. "Empirical" as in Kunstner, Balles & Hennig, NeurIPS 2019: at the targets
    that happened, not at ones drawn from the model. Weights of targets do not count. Names get the `prefix`, under
    which a training knows them. Raises ValueError without a target.
    """
    named = {name: weight for name, weight in ranker.named_parameters() if weight.requires_grad}
    total = {name: torch.zeros_like(weight) for name, weight in named.items()}
    training, targets = ranker.training, 0
    ranker.eval()
    draw = torch.Generator().manual_seed(seed)
    for step, batch in enumerate(batches):
        if not batch.targets:
            continue
        factor_T = torch.randn(batch.targets, generator=draw).to(batch.weight_T)
        state_ND = ranker.encode(
            batch.row_N,
            batch.behaviour_N,
            batch.age_N,
            batch.place_N,
            groups=batch.groups,
            dtype=dtype,
            attribute_NA=batch.attribute_NA,
        )
        loss = item(
            state_ND[batch.at_T],
            ranker.catalogue(),
            batch.target_T - 1,
            weight_T=factor_T,
            negatives=negatives_of(step),
            dtype=dtype,
        )
        found = torch.autograd.grad(loss * factor_T.sum(), list(named.values()), allow_unused=True)
        for sum_, gradient in zip(total.values(), found, strict=True):
            if gradient is not None:
                sum_.addcmul_(gradient, gradient)
        targets += batch.targets
    ranker.train(training)
    if not targets:
        raise ValueError("the Fisher information of no target")
    return {prefix + name: sum_.div_(targets) for name, sum_ in total.items()}


def _rows(known: Tensor) -> slice | tuple[()]:
    return slice(len(known)) if known.dim() else ()


def _flat(x: Tensor) -> Tensor:
    return x if x.dim() else x[None]
