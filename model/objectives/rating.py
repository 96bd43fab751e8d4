"""Rating regression: the value that a user's state gives to an item.

Shapes: N pairs of state and item, D width. Values are in the data's own units (stars, seconds); NaN is no value.
"""

from enum import StrEnum

import torch
from torch import Tensor, nn
from torch.nn import functional


class RatingLoss(StrEnum):
    MSE = "mse"
    HUBER = "huber"
    """Squared up to one standard deviation, linear beyond (Huber 1964): an outlier pulls no harder than that."""


class RatingHead(nn.Module):
    """r̂(h, v) = mean + std · (hᵀ W v / √D + a·h + b·v + c), with h the state and v the item's row.

    The biased matrix factorisation of Koren, Bell & Volinsky (IEEE Computer 2009) with W between the factors, because
    both serve the ranking as well, and with the user's and the item's bias read from their vectors: so a new item needs
    no parameter here, and a grown vocabulary none either. W starts at 0 and the biases too: the first answer is the
    mean. `mean` and `std` are buffers, so they are saved, and an increment goes on in the same units.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.interaction = nn.Linear(width, width, bias=False)
        self.state_bias = nn.Linear(width, 1)
        self.item_bias = nn.Linear(width, 1, bias=False)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    @torch.no_grad()
    def scale_to(self, value_N: Tensor) -> None:
        """Take mean and standard deviation of the known values; nothing changes without one, and std is never 0."""
        known = value_N[~value_N.isnan()].double()
        if len(known):
            self.mean.copy_(known.mean())
            spread = known.std(correction=0)
            self.std.copy_(torch.where(spread > 0, spread, torch.ones_like(spread)))

    def forward(self, state_ND: Tensor, item_ND: Tensor) -> Tensor:
        """Standardised ratings [N]: in standard deviations from the mean."""
        crossed_N: Tensor = (state_ND * self.interaction(item_ND)).sum(dim=-1) / item_ND.shape[-1] ** 0.5
        biased_N: Tensor = self.state_bias(state_ND).squeeze(-1) + self.item_bias(item_ND).squeeze(-1)
        return crossed_N + biased_N

    def predict(self, state_ND: Tensor, item_ND: Tensor) -> Tensor:
        """Ratings [N] in the data's units, for RMSE."""
        rating_N: Tensor = self.mean + self.std * self(state_ND, item_ND)
        return rating_N

    def loss(
        self,
        state_ND: Tensor,
        item_ND: Tensor,
        value_N: Tensor,
        *,
        kind: RatingLoss,
        weight_N: Tensor | None = None,
    ) -> Tensor:
        """Weighted mean loss over the pairs that have a value, in squared standard deviations; 0 where none has.

        Huber's is ½e² up to |e| = 1 and |e| − ½ beyond.
        """
        known_N = ~value_N.isnan()
        wanted_N = (torch.where(known_N, value_N, self.mean) - self.mean) / self.std
        predicted_N: Tensor = self(state_ND, item_ND)
        if kind is RatingLoss.MSE:
            loss_N = (predicted_N - wanted_N) ** 2
        else:
            loss_N = functional.huber_loss(predicted_N, wanted_N, reduction="none")
        weight_N = known_N.to(loss_N.dtype) if weight_N is None else weight_N * known_N
        total = weight_N.sum()
        return (weight_N * loss_N).sum() / torch.where(total > 0, total, torch.ones_like(total))
