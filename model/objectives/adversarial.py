"""The loss under the small change of the embeddings that hurts it most.

Shapes: N embedded positions, D width.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def adversarial(
    loss_of: Callable[[Tensor], Tensor], embedded_ND: Tensor, *, epsilon: float, group_N: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """ℓ(x) and ℓ(x + r) with r = ε·g/‖g‖₂ and g = ∇_x ℓ(x), a constant for the second's gradient.

    `epsilon` is the length of r, in units of the embedding. The norm is taken over each group of rows that `group_N`
    (int64 from 0) makes: a window each as in Miyato et al. (ICLR 2017, equation 5), where g runs over one text; None
    takes all rows as one. A group without gradient is not moved. APR (He et al., SIGIR 2018, equations 7 and 8) adds
    λ·ℓ(x + r) to ℓ(x) for matrix factorisation. The price is a second pass forward and backward.
    """
    if not embedded_ND.requires_grad:
        embedded_ND = embedded_ND.detach().requires_grad_()
    clean = loss_of(embedded_ND)
    (slope_ND,) = torch.autograd.grad(clean, embedded_ND, retain_graph=True)
    squared_N = slope_ND.square().sum(dim=1)
    if group_N is None:
        norm_N = squared_N.sum().sqrt().expand(len(slope_ND))
    else:
        norm_N = torch.zeros_like(squared_N).index_add_(0, group_N, squared_N).sqrt()[group_N]
    scale_N = torch.where(norm_N > 0, epsilon / norm_N, torch.zeros_like(norm_N))
    return clean, loss_of(embedded_ND + scale_N[:, None] * slope_ND)
