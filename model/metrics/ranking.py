"""Ranking metrics of one relevant item a row.

Shapes: R rows, V candidate items.
"""

import numpy as np


def rank(score_RV: np.ndarray, column_R: np.ndarray, *, excluded_RV: np.ndarray | None = None) -> np.ndarray:
    """Rank of the target from 1, among the candidates that are not excluded; 0 where the target is no candidate.

    `column_R` −1 means not a candidate. Ties count against the target, as do scores that are not numbers: a model
    that scores everything alike must not look good. The answer does not depend on the order of the columns.
    """
    known_R = column_R >= 0
    own_R = score_RV[np.arange(len(score_RV)), np.where(known_R, column_R, 0)]
    ahead_RV = ~(score_RV < own_R[:, None])
    if excluded_RV is not None:
        ahead_RV &= ~excluded_RV
        ahead_RV[np.flatnonzero(known_R), column_R[known_R]] = True
    return np.where(known_R, ahead_RV.sum(axis=1), 0)


def ndcg(rank_R: np.ndarray, *, k: int) -> np.ndarray:
    """1 / log2(1 + rank) where 1 ≤ rank ≤ k, else 0. The ideal gain of one relevant item is 1."""
    hit_R = (rank_R > 0) & (rank_R <= k)
    return np.where(hit_R, 1 / np.log2(1 + np.maximum(rank_R, 1)), 0.0)


def hit_rate(rank_R: np.ndarray, *, k: int) -> np.ndarray:
    """1 where 1 ≤ rank ≤ k, else 0."""
    return ((rank_R > 0) & (rank_R <= k)).astype(np.float64)


def reciprocal_rank(rank_R: np.ndarray) -> np.ndarray:
    """1 / rank over the whole list, 0 for a miss."""
    return np.where(rank_R > 0, 1 / np.maximum(rank_R, 1), 0.0)
