"""An optimiser's state for rows that a table has gained."""

import torch
from torch import Tensor


def grow_rows(kind: str, tensor: Tensor, *, rows: int) -> Tensor:
    """`tensor` with zeros for the rows that it lacks, as if no gradient had touched them yet.

    Adam's second moment is the exception: its bias correction counts the old rows' steps, so that from 0 the first
    step would be some three times too long; new rows start at the mean of the known ones (row 0 is padding).
    Scalars come back as they are, and so does a moving average: `Optimizers.load_state_tensors` completes it, and
    FTRL's z, from the new rows' weights.
    """
    if not tensor.dim() or kind == "ema" or len(tensor) >= rows:
        return tensor
    fresh = tensor.new_zeros(rows - len(tensor), *tensor.shape[1:])
    if kind == "exp_avg_sq" and len(tensor) > 1:
        fresh += tensor[1:].mean(dim=0, keepdim=True)
    return torch.cat([tensor, fresh])
