"""Masked modelling: some items of a history are hidden, and the network says which they were.

Shapes: N positions of a packed batch, B windows, M masked positions, D width, E width of a text vector.
The batch itself stays as it is: the network puts its mask vector where `masked_N` is true.
"""

import torch
from torch import Tensor
from torch.nn import functional

from model.objectives.packed import uniform, windows_of


def choose_masked(row_N: Tensor, offsets_B1: Tensor, *, share: float, seed: int) -> Tensor:
    """Which positions are hidden, bool [N]: each with probability `share`, at least one of each window.

    Events on one item directly after one another are hidden together, or the neighbour would give the answer away.
    Padding (row 0) is never hidden. One draw a run of equal items; hidden are the draws below `share` and the window's
    smallest. Source: BERT4Rec (Sun et al., CIKM 2019), where runs do not occur.
    """
    window_N = windows_of(offsets_B1, positions=len(row_N))
    fresh_N = torch.ones_like(row_N, dtype=torch.bool)
    fresh_N[1:] = (row_N[1:] != row_N[:-1]) | (window_N[1:] != window_N[:-1])
    draw_N = uniform(len(row_N), seed=seed, stream=2, device=row_N.device)[fresh_N.cumsum(0) - 1]
    draw_N = torch.where(row_N > 0, draw_N, torch.inf)
    least_B = draw_N.new_full((len(offsets_B1) - 1,), torch.inf)
    least_B.scatter_reduce_(0, window_N, draw_N, reduce="amin")
    return (row_N > 0) & ((draw_N < share) | (draw_N == least_B[window_N]))


def masked_vector_loss(predicted_ME: Tensor, item_M: Tensor, vector_VE: Tensor, *, temperature: float | None) -> Tensor:
    """Mean loss of predicting the text vectors of the hidden items `item_M` (rows of `vector_VE`), in nats.

    InfoNCE, −log(e^(cos(p, t⁺)/τ) / Σ_t e^(cos(p, t)/τ)), over the distinct items that are hidden in this batch (van
    den Oord et al. 2018); with `temperature` None, 1 − cos(p, t⁺) instead. A hidden item without a vector (a row of
    zeros or NaN) is left out; 0 where none has one. The vectors get no gradient: they are targets, and would collapse.
    """
    distinct_U, own_M = torch.unique(item_M, return_inverse=True)
    vector_UE = vector_VE[distinct_U].detach().to(predicted_ME.dtype)
    has_U = vector_UE.isfinite().all(dim=1) & (vector_UE != 0).any(dim=1)
    unit_UE = functional.normalize(torch.where(has_U[:, None], vector_UE, 0.0), dim=1)
    cosine_MU = functional.normalize(predicted_ME, dim=1) @ unit_UE.T
    own_cosine_M = cosine_MU.gather(1, own_M[:, None]).squeeze(1)
    if temperature is None:
        loss_M = 1 - own_cosine_M
    else:
        logits_MU = (cosine_MU / temperature).masked_fill(~has_U, float("-inf"))
        loss_M = torch.where(has_U[own_M], logits_MU.logsumexp(dim=1), 0.0) - own_cosine_M / temperature
    kept_M = has_U[own_M]
    return torch.where(kept_M, loss_M, 0.0).sum() / kept_M.sum().clamp(min=1)
