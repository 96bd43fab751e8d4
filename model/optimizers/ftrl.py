"""FTRL-proximal for embedding tables, per coordinate or with one accumulator a row.

For every coordinate d of a row with a gradient g, from z and n:

    σ_d ← (√(n_d + g_d²) − √n_d) / α
    z_d ← z_d + g_d − σ_d w_d
    n_d ← n_d + g_d²
    w_d ← 0 if |z_d| ≤ λ1, else −(z_d − sign(z_d) λ1) / ((β + √n_d) / α + λ2)

Source: McMahan et al., Ad Click Prediction: a View from the Trenches, KDD 2013, Algorithm 1. Three things it leaves
open, and the answers here:

- It starts at w = 0, which an embedding cannot: all its gradients would be alike. The proximal term of weight β/α,
  which Algorithm 1 centres at 0, is centred at the initial weight: z starts at −(β/α) w. From w = 0 it is Algorithm 1.
- The weight follows from z, n and α together, so another α would move every weight: α stays, no schedule reaches it.
- A coordinate without a gradient keeps its weight: L1 and L2 reach it with its first gradient.

Row-wise, n is one number a row that takes the mean of g_d² over the row, as in `rowwise_adagrad`; z stays one a
coordinate.

Shapes: V rows, R touched rows, … whatever a row holds.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from model.optimizers.rows import like_rows, pick, row_mean, touched_rows


class Ftrl(Optimizer):
    """Touches only rows with a gradient; dense and sparse gradients give the same bits. `lr` is α.

    State: `z` like the weight, and `n` like the weight or, row-wise, `row_n` [V].
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        beta: float = 1.0,
        l1: float = 0.0,
        l2: float = 0.0,
        rowwise: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "beta": beta, "l1": l1, "l2": l2, "rowwise": rowwise})

    @torch.no_grad()
    def reconcile(self, weight: nn.Parameter) -> None:
        """Let z follow the weight where another hand has set that: a moving average, an earlier epoch, a new row.

        Elsewhere z keeps its bits. At a weight of 0 any |z| ≤ λ1 would do, and the nearest to the old one is taken.
        """
        group, state = self.param_groups[0], self.state[weight]
        z, n = state["z"], like_rows(state["row_n"], weight) if group["rowwise"] else state["n"]
        strength = _strength(n.sqrt(), group)
        implied = torch.where(weight == 0, z.clamp(-group["l1"], group["l1"]), -weight * strength)
        implied = implied - torch.sign(weight) * group["l1"]
        state["z"] = torch.where(
            n == 0, _start(weight, group), torch.where(_weight(z, strength, group) == weight, z, implied)
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # nothing here re-evaluates the loss
        for group in self.param_groups:
            rowwise = group["rowwise"]
            kind = "row_n" if rowwise else "n"
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["z"] = _start(weight, group)
                    state[kind] = weight.new_zeros(len(weight)) if rowwise else torch.zeros_like(weight)
                rows, gradient = touched_rows(weight.grad)
                square = gradient.square()
                if rowwise:
                    square = row_mean(square)
                old_n = pick(state[kind], rows)
                n = old_n + square
                root, old_root = n.sqrt(), old_n.sqrt()
                if rowwise:
                    root, old_root = like_rows(root, gradient), like_rows(old_root, gradient)
                held = pick(weight, rows)
                z = pick(state["z"], rows) + gradient - (root - old_root) / group["lr"] * held
                fresh = _weight(z, _strength(root, group), group)
                state["z"][rows], state[kind][rows] = z, n
                weight[rows] = fresh if rowwise else torch.where(gradient != 0, fresh, held)


def _start(weight: Tensor, group: dict[str, Any]) -> Tensor:
    """z of coordinates that no gradient has touched."""
    return torch.mul(weight.detach(), -group["beta"] / group["lr"])


def _strength(root_n: Tensor, group: dict[str, Any]) -> Tensor:
    return torch.add(root_n, group["beta"]).div_(group["lr"]).add_(group["l2"])


def _weight(z: Tensor, strength: Tensor, group: dict[str, Any]) -> Tensor:
    return -functional.softshrink(z, group["l1"]) / strength
