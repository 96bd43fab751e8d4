"""An optimiser's state for rows that a table has gained."""

import torch
from torch import Tensor

FROM_WEIGHTS = ("z", "ema")
"""What an old state cannot tell of a new row, because it follows from the row's starting weight."""


def grow_rows(kind: str, tensor: Tensor, *, rows: int) -> Tensor:
    """`tensor` with zeros for the rows that it lacks, as if no gradient had touched them yet.

    Adam's second moment is the exception: its bias correction counts the old rows' steps, so that from 0 the first
    step would be some three times too long; new rows start at the mean of the known ones (row 0 is padding).
    `FROM_WEIGHTS` and scalars come back as they are; `Optimizers.load_state_tensors` completes the former.
    """
    if not tensor.dim() or kind in FROM_WEIGHTS or len(tensor) >= rows:
        return tensor
    fresh = tensor.new_zeros(rows - len(tensor), *tensor.shape[1:])
    if kind == "exp_avg_sq" and len(tensor) > 1:
        fresh += tensor[1:].mean(dim=0, keepdim=True)
    return torch.cat([tensor, fresh])
