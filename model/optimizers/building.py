"""The optimisers of a training as one object: who trains which parameter, at what rate, from which state.

Shapes: V rows of a table, G gradients.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from model.optimizers.ema import UPDATES, Ema
from model.optimizers.ftrl import Ftrl
from model.optimizers.growing import grow_rows
from model.optimizers.options import OptimizerOptions, TableAlgorithm
from model.optimizers.rows import as_sparse
from model.optimizers.rowwise_adagrad import RowwiseAdagrad
from model.optimizers.schedules import factor
from relations.errors import UsageError

KINDS = {
    TableAlgorithm.ADAMW: {"step", "exp_avg", "exp_avg_sq"},
    TableAlgorithm.SGD: {"momentum_buffer"},
    TableAlgorithm.ADAGRAD: {"step", "sum"},
    TableAlgorithm.SPARSE_ADAM: {"step", "exp_avg", "exp_avg_sq"},
    TableAlgorithm.ROWWISE_ADAGRAD: {"row_sum"},
    TableAlgorithm.FTRL: {"z", "n"},
    TableAlgorithm.ROWWISE_FTRL: {"z", "row_n"},
}
"""The tensors that each algorithm keeps of a parameter."""
UNSCHEDULED = (TableAlgorithm.FTRL, TableAlgorithm.ROWWISE_FTRL)
NORM_EPSILON = 1e-6
"""As in torch's own clipping."""


class Optimizers:
    """Steps, clips, schedules, averages and remembers for all of `named`.

    `tables` names the embedding tables among them; the others are the body. Parameters that need no gradient are left
    out. `state_tensors` and `load_state_tensors` carry everything over, so that a training that was stopped between
    two steps goes on to the same bits.
    """

    def __init__(
        self, named: Mapping[str, nn.Parameter], *, options: OptimizerOptions, tables: Collection[str] = ()
    ) -> None:
        missing = sorted(set(tables) - set(named))
        if missing:
            raise UsageError(f"optimiser: no parameter is called {missing[0]!r}; there are: {', '.join(sorted(named))}")
        self._options = options
        self._named = {name: weight for name, weight in named.items() if weight.requires_grad}
        self._algorithm = {
            name: options.table_algorithm if name in tables else TableAlgorithm(options.optimizer.value)
            for name in self._named
        }
        self._optimizers: dict[TableAlgorithm, torch.optim.Optimizer] = {}
        for algorithm in sorted(set(self._algorithm.values())):
            groups = [group for group in self._groups(algorithm, tables) if group["params"]]
            self._optimizers[algorithm] = _build(algorithm, groups, options)
        self._ema = Ema(self._named, decay=options.ema) if options.ema else None

    def step(self, done: float, *, weight: float = 1.0) -> Tensor | None:
        """One step at the rate of `done`, the share of the training that is done, in [0, 1].

        The gradients are divided by `weight` first: add up Σ w·ℓ over micro-batches of any size and pass Σ w, and the
        step is that of the whole batch. Then they are clipped: g ← g · min(1, c / ‖g‖), with the norm over all
        parameters (Pascanu et al., ICML 2013, section 3.2). Answers the norm before clipping, None without clipping.
        """
        self._schedule(done)
        norm = None
        with torch.no_grad(), torch.sparse.check_sparse_tensor_invariants(enable=False):  # type: ignore[no-untyped-call]
            values_G = list(self._values())
            if weight != 1.0:
                for values in values_G:
                    values.div_(weight)
            if self._options.clip_norm and values_G:
                norm = get_total_norm(values_G)
                scale = (self._options.clip_norm / (norm + NORM_EPSILON)).clamp(max=1.0)
                for values in values_G:
                    values.mul_(scale)
            for optimizer in self._optimizers.values():
                optimizer.step()
        if self._ema is not None:
            self._ema.update()
        return norm

    def zero_grad(self) -> None:
        for weight in self._named.values():
            weight.grad = None

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the weights are their moving average, for evaluation; as they are without one."""
        with self._ema.swapped() if self._ema is not None else nullcontext():
            yield

    def adopt_average(self) -> None:
        """At the end of a training: the moving average becomes the weights. Nothing without one."""
        if self._ema is not None:
            self._ema.adopt()

    def state_tensors(self) -> dict[str, Tensor]:
        """`<parameter>/<kind>` → tensor, on the parameter's device; copy what must not change with the next step."""
        tensors = {
            f"{name}/{kind}": value if isinstance(value, Tensor) else torch.tensor(value)
            for name, weight in self._named.items()
            for kind, value in self._state(name, weight).items()
            if value is not None  # SGD before its first step
        }
        return tensors | (self._ema.state_tensors() if self._ema is not None else {})

    def load_state_tensors(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state_tensors` of the same algorithms; a parameter without any starts afresh.

        A table that has gained rows since goes on with them (`grow_rows`). Load the weights first: FTRL's z follows
        them, and the moving average of a new row starts from them. Raises UsageError for tensors of another algorithm,
        of a parameter that is not trained here, or of a shape that does not fit.
        """
        found: dict[str, dict[str, Tensor]] = {}
        for key, tensor in state.items():
            name, _, kind = key.rpartition("/")
            if key == UPDATES or kind == "ema":
                if self._ema is not None:
                    self._ema.load_updates(tensor) if key == UPDATES else self._ema.load(name, tensor)
                continue
            if name not in self._named:
                raise UsageError(f"optimiser state: {key} belongs to no trained parameter; train in full")
            found.setdefault(name, {})[kind] = tensor
        for name, tensors in found.items():
            algorithm = self._algorithm[name]
            if set(tensors) != KINDS[algorithm]:
                kinds = ", ".join(sorted(tensors))
                raise UsageError(
                    f"optimiser state: {name} has {kinds}, which is not the state of {algorithm}; "
                    "set optimizer and embedding_optimizer as in the training that wrote it, or train in full"
                )
            for kind, tensor in tensors.items():
                self._load(name, kind, tensor)
            optimizer = self._optimizers[algorithm]
            if isinstance(optimizer, Ftrl):
                optimizer.reconcile(self._named[name])

    def _load(self, name: str, kind: str, tensor: Tensor) -> None:
        weight, algorithm = self._named[name], self._algorithm[name]
        state = self._optimizers[algorithm].state[weight]
        grown = grow_rows(kind, tensor, rows=len(weight)) if tensor.dim() else tensor
        whole = weight.shape[:1] if kind in ("row_sum", "row_n") else weight.shape
        if kind != "step" and grown.shape != whole:
            raise UsageError(f"optimiser state: {name}/{kind} is {tuple(tensor.shape)}, not {tuple(whole)}; train anew")
        if algorithm is TableAlgorithm.SPARSE_ADAM and kind == "step":
            state[kind] = int(grown)  # torch keeps a number here, and a float32 in its place would round otherwise
            return
        held = state.get(kind)
        grown = grown.float() if kind == "step" else grown
        state[kind] = grown.clone().to(held.device if isinstance(held, Tensor) else weight.device)

    def _state(self, name: str, weight: nn.Parameter) -> dict[str, Any]:
        state: dict[str, Any] = self._optimizers[self._algorithm[name]].state.get(weight, {})
        return state

    def _groups(self, algorithm: TableAlgorithm, tables: Collection[str]) -> Iterator[dict[str, Any]]:
        options = self._options
        mine = {name: weight for name, weight in self._named.items() if self._algorithm[name] is algorithm}
        for is_table, rate in ((False, options.learning_rate), (True, options.table_learning_rate)):
            part = {name: weight for name, weight in mine.items() if (name in tables) is is_table}
            decays = options.weight_decay and (not is_table or algorithm is TableAlgorithm.ADAMW)
            for matrices, decay in ((True, options.weight_decay if decays else 0.0), (False, 0.0)):
                yield {
                    "params": [weight for weight in part.values() if (weight.dim() > 1) is matrices],
                    "lr": rate,
                    "peak": rate,
                    "weight_decay": decay,
                }

    def _schedule(self, done: float) -> None:
        options = self._options
        share = factor(options.schedule, done, warm_up=options.warm_up, floor=options.floor)
        for algorithm, optimizer in self._optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * (1.0 if algorithm in UNSCHEDULED else share)

    def _values(self) -> Iterator[Tensor]:
        """Each gradient's storage: of a sparse one the values, after equal rows are added up."""
        for name, weight in self._named.items():
            if weight.grad is None:
                continue
            if self._algorithm[name] is TableAlgorithm.SPARSE_ADAM:
                weight.grad = as_sparse(weight.grad)  # also without rows of zeros, which Adam's moments would move
            elif weight.grad.is_sparse:
                weight.grad = weight.grad.coalesce()
            yield weight.grad.values() if weight.grad.is_sparse else weight.grad


def _build(algorithm: TableAlgorithm, groups: list[dict[str, Any]], options: OptimizerOptions) -> torch.optim.Optimizer:
    rate = groups[0]["lr"]
    match algorithm:
        case TableAlgorithm.ADAMW:
            return torch.optim.AdamW(groups, lr=rate, betas=options.betas, fused=True)
        case TableAlgorithm.SGD:
            return torch.optim.SGD(groups, lr=rate, momentum=options.momentum)
        case TableAlgorithm.ADAGRAD:
            return torch.optim.Adagrad(groups, lr=rate)
        case TableAlgorithm.SPARSE_ADAM:
            return torch.optim.SparseAdam(groups, lr=rate, betas=options.betas)
        case TableAlgorithm.ROWWISE_ADAGRAD:
            return RowwiseAdagrad(groups, lr=rate)
        case _:
            rowwise = algorithm is TableAlgorithm.ROWWISE_FTRL
            ftrl = {"beta": options.ftrl_beta, "l1": options.ftrl_l1, "l2": options.ftrl_l2}
            return Ftrl(groups, lr=rate, rowwise=rowwise, **ftrl)
