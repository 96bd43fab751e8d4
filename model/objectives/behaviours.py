"""Next item for each behaviour: what will be clicked, and what bought, from one state.

Shapes: N states, D width; behaviour codes are those of `model.sequences`, 0 for none told.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.objectives.packed import uniform


class BehaviourQueries(nn.Module):
    """h_b = h + q_b: a state asked for a behaviour, whose scores are then that behaviour's.

    q starts at 0 and code 0 stays there, so the state as it is remains the answer to "any behaviour". The plainest way
    to condition one network on the behaviour that is asked for, and of our own choosing: an item's scores for two
    behaviours differ by (q_b − q_b')·v.
    """

    def __init__(self, *, behaviours: int, width: int) -> None:
        super().__init__()
        self.query = nn.Embedding(behaviours + 1, width, padding_idx=0)
        nn.init.zeros_(self.query.weight)

    def forward(self, state_ND: Tensor, behaviour_N: Tensor, *, keep_length: bool) -> Tensor:
        """`keep_length`: scaled to the length that the state has, which with cosine logits is the same for all."""
        asked_ND: Tensor = state_ND + self.query(behaviour_N)
        if not keep_length:
            return asked_ND
        length_N1: Tensor = torch.linalg.vector_norm(state_ND, dim=-1, keepdim=True)
        return functional.normalize(asked_ND, dim=-1) * length_N1


def leave_untold(behaviour_N: Tensor, *, share: float, seed: int) -> Tensor:
    """The behaviours, each replaced by 0 with probability `share`: those train the state that is asked for nothing."""
    hidden_N = uniform(len(behaviour_N), seed=seed, stream=6, device=behaviour_N.device) < share
    return torch.where(hidden_N, 0, behaviour_N)
