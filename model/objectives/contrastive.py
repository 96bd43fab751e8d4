"""Two augmented views of each history must look alike, and unlike those of other users.

Shapes: N positions of a packed batch, B windows (of at least one position), D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from model.objectives.packed import keep, reorder, uniform, windows_of
from model.windows import Batch


@dataclass(frozen=True)
class View:
    """A batch to encode with `masked_N`; it has no targets."""

    batch: Batch
    masked_N: Tensor


@dataclass(frozen=True)
class Augmentation:
    """Shares of a window's length L: ⌊share·L⌋ positions, in a crop at least one."""

    crop: float = 0.6
    """What a crop keeps: a run of positions."""
    mask: float = 0.3
    """What a mask hides: any positions."""
    reorder: float = 0.6
    """What a reordering shuffles: the items and behaviours of a run of positions, which keep their ages."""


def augment(batch: Batch, augmentation: Augmentation, *, seed: int) -> View:
    """Each window cropped, masked or reordered, with probability ⅓ each. Source: CL4SRec (Xie et al., ICDE 2022)."""
    count, windows = len(batch.row_N), len(batch.offsets_B1) - 1
    window_N = windows_of(batch.offsets_B1, positions=count)
    begin_N, place_N = batch.offsets_B1[window_N], batch.place_N
    length_B = batch.offsets_B1.diff()
    device = batch.row_N.device
    kind_B = (3 * uniform(windows, seed=seed, stream=3, device=device)).long()
    from_B = uniform(windows, seed=seed, stream=4, device=device)
    draw_N = uniform(count, seed=seed, stream=5, device=device)

    def run(share: float, *, least: int) -> tuple[Tensor, Tensor, Tensor]:
        """A random run of ⌊share·L⌋ positions in each window: whether a position is in it, its start and length."""
        size_B = (share * length_B).floor().long().clamp(min=least)
        start_B = (from_B * (length_B - size_B + 1)).long()
        start_N, size_N = start_B[window_N], size_B[window_N]
        return (place_N >= start_N) & (place_N < start_N + size_N), start_N, size_N

    inside_N, _, _ = run(augmentation.crop, least=1)
    kept_N = (kind_B[window_N] != 0) | inside_N

    order_N = torch.argsort(begin_N + draw_N, stable=True)  # by window, then at random
    rank_N = torch.empty_like(order_N).scatter_(0, order_N, torch.arange(count, device=device)) - begin_N
    hidden_N = (kind_B[window_N] == 1) & (rank_N < (augmentation.mask * length_B).floor()[window_N])
    hidden_N &= batch.row_N > 0

    inside_N, start_N, size_N = run(augmentation.reorder, least=0)
    key_N = torch.where((kind_B[window_N] == 2) & inside_N, start_N + draw_N * size_N, place_N.double())
    from_N = torch.argsort(begin_N + key_N, stable=True)  # keys of a window lie between its offsets
    return View(keep(reorder(batch, from_N), kept_N), hidden_N[kept_N])


def nt_xent(first_BD: Tensor, second_BD: Tensor, *, temperature: float, user_B: Tensor | None = None) -> Tensor:
    """Mean over the 2B views of −log(e^(cos(z, z⁺)/τ) / Σ e^(cos(z, z')/τ)), in nats; the sum has z⁺ and all negatives.

    Negatives are the views of all other windows; those of the same user, where `user_B` tells, are left out, since they
    are no strangers. One window alone has no negative, and the loss is 0. Sources: SimCLR (Chen et al., ICML 2020);
    as a loss for histories CL4SRec.
    """
    count = len(first_BD)
    view_CD = functional.normalize(torch.cat([first_BD, second_BD]), dim=1)
    place_C = torch.arange(2 * count, device=view_CD.device)
    partner_C = place_C.roll(count)
    owner_C = (place_C % count) if user_B is None else user_B.repeat(2)
    stranger_CC = owner_C[:, None] != owner_C[None, :]
    stranger_CC[place_C, partner_C] = True
    logits_CC = (view_CD @ view_CD.T / temperature).masked_fill(~stranger_CC, float("-inf"))
    if not count:
        return logits_CC.sum()  # the mean of nothing would be NaN
    return functional.cross_entropy(logits_CC, partner_C)
