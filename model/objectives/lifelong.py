"""Learning from the histories themselves beside learning from outcomes."""

from torch import Tensor


def lifelong(supervised: Tensor, self_supervised: Tensor, *, alpha: float) -> Tensor:
    """α·L_self-supervised + (1 − α)·L_supervised, α in [0, 1].

    A convex sum, so that the learning rate keeps its meaning as α changes; α = 1 is pre-training without targets.
    Source: S3-Rec (Zhou et al., CIKM 2020) learns the two in turn, multi-task variants (CL4SRec) in such a sum.
    """
    return alpha * self_supervised + (1 - alpha) * supervised
