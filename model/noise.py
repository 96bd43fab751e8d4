"""Noise on a fitted model's item vectors: a model that is worse by a chosen amount, for proving a gate."""

import copy
from dataclasses import replace

import torch

from model.fitted import Fitted


def blur_items(fitted: Fitted, *, scale: float, seed: int) -> Fitted:
    """`fitted` with Gaussian noise of `scale` standard deviations (of the item matrix) on every item vector.

    Scale 0 scores identically. The noise of one seed is one direction, so that the damage grows with the scale.
    """
    ranker = copy.deepcopy(fitted.ranker)
    matrix = ranker.item_table.weight
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(matrix.shape, generator=generator, dtype=matrix.dtype)
    with torch.no_grad():
        matrix += scale * matrix[1:].std() * noise
    return replace(fitted, ranker=ranker, losses=(), steps=0, seconds=0.0, tokens=0)  # nothing was trained
