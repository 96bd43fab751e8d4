"""Adagrad with one accumulator a row, for embedding tables.

For every row i with a gradient g_i of width D:

    n_i ← n_i + (1/D) Σ_d g_id²
    w_i ← w_i − η g_i / (√n_i + ε)

The state is 1/D of Adagrad's (Duchi et al., JMLR 2011), whose sum it replaces by the row's mean. Source: Mudigere et
al., Software-Hardware Co-design for Fast and Scalable Training of Deep Learning Recommendation Models, ISCA 2022,
section 4.1.4; the mean, not the sum, as in FBGEMM's EXACT_ROWWISE_ADAGRAD.

Shapes: V rows, R touched rows, D width.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Optimizer

from model.optimizers.rows import like_rows, pick, row_mean, touched_rows


class RowwiseAdagrad(Optimizer):
    """Touches only rows with a gradient; dense and sparse gradients give the same bits. State: `row_sum` [V]."""

    def __init__(self, params: Iterable[Any], *, lr: float, eps: float = 1e-10) -> None:
        super().__init__(params, {"lr": lr, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # nothing here re-evaluates the loss
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["row_sum"] = torch.zeros(len(weight), dtype=weight.dtype, device=weight.device)
                rows, gradient = touched_rows(weight.grad)
                sum_R = pick(state["row_sum"], rows) + row_mean(gradient.square())
                state["row_sum"][rows] = sum_R
                divisor = like_rows(sum_R.sqrt().add_(group["eps"]), gradient)
                weight[rows] = pick(weight, rows) - gradient / divisor * group["lr"]
