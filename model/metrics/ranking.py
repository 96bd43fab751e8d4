"""Where the relevant items of a row stand among all candidates, and what that is worth.

A row has one relevant item or a set of them. Its items come flat: `row_P` names the row of each (every row from 0 has
one at least), and may be left out where each row has exactly one. A rank is from 1; 0 is an item that was no candidate.

Shapes: R rows, V candidate items, P relevant items of all rows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Standing:
    """`rank_P`: see above. `auc_P`: the share of its row's candidates that are not relevant and stand behind it."""

    rank_P: np.ndarray
    auc_P: np.ndarray


def standing(
    score_RV: np.ndarray,
    column_P: np.ndarray,
    *,
    row_P: np.ndarray | None = None,
    excluded_RV: np.ndarray | None = None,
) -> Standing:
    """Rank each relevant item among all candidates that are not excluded; it is one itself even if excluded.

    `column_P` −1 means not a candidate: rank 0 and AUC 0. For the rank, ties count against the relevant item, as do
    scores that are not numbers: a model that scores everything alike must not look good. Relevant items that tie with
    each other stand one behind the other. For the AUC ties count half (Hanley & McNeil, Radiology 1982), and a row
    without irrelevant candidates has 1/2. The answer does not depend on the order of the columns.
    """
    row_P = _rows(column_P, row_P)
    free_RV = np.ones(score_RV.shape, dtype=bool) if excluded_RV is None else ~excluded_RV
    at_K = np.flatnonzero(column_P >= 0)
    free_RV[row_P[at_K], column_P[at_K]] = False
    irrelevant_K = free_RV.sum(axis=1)[row_P[at_K]]
    own_K = score_RV[row_P[at_K], column_P[at_K]]
    behind_K, tied_K = np.zeros(len(at_K), dtype=np.int64), np.zeros(len(at_K), dtype=np.int64)
    block = max(1, len(score_RV))  # never more pairs at once than there are rows
    for begin in range(0, len(at_K), block):
        part = slice(begin, begin + block)
        score_BV, free_BV = score_RV[row_P[at_K[part]]], free_RV[row_P[at_K[part]]]
        behind_K[part] = ((score_BV < own_K[part, None]) & free_BV).sum(axis=1)
        tied_K[part] = ((score_BV == own_K[part, None]) & free_BV).sum(axis=1)
    rank_P, auc_P = np.zeros(len(column_P), dtype=np.int64), np.zeros(len(column_P))
    rank_P[at_K] = irrelevant_K - behind_K + _order(own_K, row_P[at_K])
    auc_P[at_K] = np.where(irrelevant_K > 0, (behind_K + tied_K / 2) / np.maximum(irrelevant_K, 1), 0.5)
    return Standing(rank_P, auc_P)


def ndcg(rank_P: np.ndarray, *, k: int, row_P: np.ndarray | None = None) -> np.ndarray:
    """DCG@k / ideal DCG@k of each row, with DCG = Σ 1 / log2(1 + rank) over the relevant items of rank ≤ k.

    The ideal has min(k, relevant items) of them at the top; 1 for one relevant item. Source: Järvelin & Kekäläinen,
    ACM TOIS 2002, with binary gains.
    """
    row_P = _rows(rank_P, row_P)
    hit_P = _hits(rank_P, k)
    gain_P = np.where(hit_P, 1 / np.log2(1 + np.maximum(rank_P, 1)), 0.0)
    ideal_K1 = np.concatenate([[0.0], np.cumsum(1 / np.log2(2 + np.arange(k)))])
    relevant_R = np.bincount(row_P)
    ideal_R: NDArray[np.float64] = ideal_K1[np.minimum(relevant_R, k)]
    return _sums(gain_P, row_P) / ideal_R


def hit_rate(rank_P: np.ndarray, *, k: int, row_P: np.ndarray | None = None) -> np.ndarray:
    """1 where some relevant item is among the best k, else 0."""
    return np.minimum(_sums(_hits(rank_P, k), _rows(rank_P, row_P)), 1.0)


def recall(rank_P: np.ndarray, *, k: int, row_P: np.ndarray | None = None) -> np.ndarray:
    """Relevant items among the best k / relevant items. With one of these the hit rate."""
    row_P = _rows(rank_P, row_P)
    return _sums(_hits(rank_P, k), row_P) / _sums(np.ones(len(row_P)), row_P)


def precision(rank_P: np.ndarray, *, k: int, row_P: np.ndarray | None = None) -> np.ndarray:
    """Relevant items among the best k / k. The divisor is k for shorter lists too, so that they are not favoured."""
    return _sums(_hits(rank_P, k), _rows(rank_P, row_P)) / k


def f1(rank_P: np.ndarray, *, k: int, row_P: np.ndarray | None = None) -> np.ndarray:
    """2PR / (P + R) = 2 · hits / (k + relevant items), for precision P and recall R of each row.

    Source: van Rijsbergen, Information Retrieval 1979, ch. 7, with β = 1.
    """
    row_P = _rows(rank_P, row_P)
    return 2 * _sums(_hits(rank_P, k), row_P) / (k + _sums(np.ones(len(row_P)), row_P))


def best_rank(rank_P: np.ndarray, *, row_P: np.ndarray | None = None) -> np.ndarray:
    """Rank of the row's best relevant item, 0 where none was a candidate."""
    row_P = _rows(rank_P, row_P)
    none = np.iinfo(np.int64).max
    best_R = np.full(_count(row_P), none)
    np.minimum.at(best_R, row_P, np.where(rank_P > 0, rank_P, none))
    return np.where(best_R < none, best_R, 0)


def reciprocal_rank(rank_P: np.ndarray, *, row_P: np.ndarray | None = None) -> np.ndarray:
    """1 / rank of the row's best relevant item over the whole ranking, 0 where all are missed.

    Source: Voorhees, TREC-8 1999.
    """
    best_R = best_rank(rank_P, row_P=row_P)
    return np.where(best_R > 0, 1 / np.maximum(best_R, 1), 0.0)


def average_precision(rank_P: np.ndarray, *, k: int, row_P: np.ndarray | None = None) -> np.ndarray:
    """Σ precision@rank over the relevant items of rank ≤ k, / min(k, relevant items); its mean over rows is MAP@k.

    With one relevant item 1 / rank within the best k. Source: Manning, Raghavan & Schütze, Introduction to Information
    Retrieval 2008, §8.4, cut at k.
    """
    row_P = _rows(rank_P, row_P)
    hit_H = np.flatnonzero(_hits(rank_P, k))
    # the j-th hit of its row at rank r has precision j / r
    precision_H = _order(-rank_P[hit_H].astype(float), row_P[hit_H]) / rank_P[hit_H]
    found_R = np.bincount(row_P[hit_H], weights=precision_H, minlength=_count(row_P))
    return found_R / np.minimum(_sums(np.ones(len(row_P)), row_P), k)


def mean_auc(auc_P: np.ndarray, *, row_P: np.ndarray | None = None) -> np.ndarray:
    """Mean over the row's relevant items of the share of irrelevant candidates behind them.

    The chance that a relevant item stands before an irrelevant one, over the whole catalogue. Source: Hanley & McNeil,
    Radiology 1982; per user as in Rendle et al., UAI 2009, §4.1.
    """
    row_P = _rows(auc_P, row_P)
    return _sums(auc_P, row_P) / _sums(np.ones(len(row_P)), row_P)


def _hits(rank_P: np.ndarray, k: int) -> NDArray[np.bool_]:
    return (rank_P > 0) & (rank_P <= k)


def _rows(of_P: np.ndarray, row_P: np.ndarray | None) -> np.ndarray:
    return np.arange(len(of_P)) if row_P is None else row_P


def _count(row_P: np.ndarray) -> int:
    return int(row_P.max(initial=-1)) + 1


def _sums(value_P: np.ndarray, row_P: np.ndarray) -> NDArray[np.float64]:
    return np.bincount(row_P, weights=value_P, minlength=_count(row_P)).astype(np.float64)


def _order(own_P: np.ndarray, row_P: np.ndarray) -> np.ndarray:
    """Place from 1 of each item among those of its row, best score first, what is no number last."""
    none_P = np.isnan(own_P)
    order_P = np.lexsort([np.where(none_P, 0.0, -own_P), none_P, row_P])
    sorted_P = row_P[order_P]
    place_P = np.empty(len(own_P), dtype=np.int64)
    place_P[order_P] = np.arange(len(own_P)) - np.searchsorted(sorted_P, sorted_P) + 1
    return place_P
