"""What is worth knowing of recommended lists, whether they hit or not.

A list is a row of `column_RK`: columns of the catalogue, −1 where nothing was recommended. A row for which a metric is
not defined has NaN.

Shapes: R rows, K places of a list, V items of the catalogue, G categories, D dimensions.
"""

import numpy as np
from scipy import sparse

STECK_ALPHA = 0.01
"""Share of the history's distribution in the list's, so that the divergence stays finite (Steck, RecSys 2018, §3.1)."""


def exposures(column_RK: np.ndarray, *, items: int) -> np.ndarray:
    """Int [V]: lists that each item stands in."""
    return np.bincount(column_RK[column_RK >= 0], minlength=items)


def coverage(count_V: np.ndarray) -> float:
    """Share of the catalogue that stands in some list, 0 for an empty catalogue.

    Source: Herlocker et al., ACM TOIS 2004, §4.1.1, catalogue coverage. It grows with the number of lists: compare
    models on the same rows.
    """
    return float((count_V > 0).mean()) if len(count_V) else 0.0


def gini(count_V: np.ndarray) -> float:
    """Inequality of exposure: 0 where every item is shown equally often, 1 where one takes everything.

    Σ_j (2j − V − 1) p_j / (V − 1), with p_j the j-th smallest share of the exposures. Source: Castells, Hurley &
    Vargas, Recommender Systems Handbook 2022, ch. 16, after Fleder & Hosanagar, Management Science 2009. 0 for fewer
    than two items or no exposure.
    """
    shown = np.sort(count_V[count_V > 0])  # those without exposure are the smallest, and add nothing
    items = len(count_V)
    if items < 2 or not len(shown):
        return 0.0
    j = np.arange(items - len(shown) + 1, items + 1)
    return float(((2 * j - items - 1) * shown).sum() / ((items - 1) * shown.sum()))


def novelty(column_RK: np.ndarray, *, events_V: np.ndarray, total: int, items: int) -> np.ndarray:
    """Mean self-information −log2 p(i) of each list's items, in bits. NaN for an empty list.

    p(i) = (events of i + 1) / (`total` events + `items`): add-one smoothed, as an item that nobody has met would be
    infinitely novel. Source: Zhou et al., PNAS 2010 (self-information); Vargas & Castells, RecSys 2011, §4.
    """
    information_V = np.log2(total + items) - np.log2(events_V + 1.0)
    return _list_means(column_RK, information_V)


def tail_share(column_RK: np.ndarray, *, head_V: np.ndarray) -> np.ndarray:
    """Share of each list that is not head. NaN for an empty list.

    Source: Abdollahpouri, Burke & Mobasher, FLAIRS 2019, average percentage of long-tail items.
    """
    return _list_means(column_RK, (~head_V).astype(np.float64))


def diversity(column_RK: np.ndarray, *, direction_VD: sparse.csr_array | np.ndarray) -> np.ndarray:
    """1 − mean cosine of each list's pairs of items. NaN for lists of fewer than two items with a direction.

    For unit vectors u the mean over ordered pairs is (‖Σ u‖² − n) / (n (n − 1)), which needs no pairs. Source: Smyth &
    McClave, ICCBR 2001; Ziegler et al., WWW 2005, §3.2.
    """
    has_V = np.asarray((direction_VD * direction_VD).sum(axis=1)).ravel() > 0
    places_RV = _places(column_RK, items=len(has_V))
    sum_RD = places_RV @ direction_VD
    square_R = np.asarray((sum_RD * sum_RD).sum(axis=1), dtype=np.float64).ravel()
    n_R = places_RV @ has_V.astype(np.float64)
    return np.where(n_R > 1, 1 - (square_R - n_R) / np.maximum(n_R * (n_R - 1), 1), np.nan)


def category_sums(column_RK: np.ndarray, share_VG: sparse.csr_array) -> np.ndarray:
    """Float [R, G]: the category shares (`ItemFacts.category_shares`) of each list's items, summed."""
    return np.asarray((_places(column_RK, items=share_VG.shape[0]) @ share_VG).toarray())


def miscalibration(history_RG: np.ndarray, list_RG: np.ndarray) -> np.ndarray:
    """KL(p ‖ q̃) in nats between the categories of a history and of a list: 0 where the list keeps the proportions.

    p(g) ∝ `history_RG`, the summed category shares of the history's items; q(g) ∝ `list_RG`, the same of the list;
    q̃ = (1 − α) q + α p with α = 0.01, so at most log 100. NaN where history or list has no category.
    Source: Steck, "Calibrated Recommendations", RecSys 2018, §3.1.
    """
    history_R, list_R = history_RG.sum(axis=1), list_RG.sum(axis=1)
    p_RG = history_RG / np.where(history_R > 0, history_R, 1)[:, None]
    q_RG = list_RG / np.where(list_R > 0, list_R, 1)[:, None]
    met_RG = p_RG > 0
    ratio_RG = np.divide(p_RG, (1 - STECK_ALPHA) * q_RG + STECK_ALPHA * p_RG, out=np.ones_like(p_RG), where=met_RG)
    return np.where((history_R > 0) & (list_R > 0), (p_RG * np.log(ratio_RG)).sum(axis=1), np.nan)


def _list_means(column_RK: np.ndarray, value_V: np.ndarray) -> np.ndarray:
    real_RK = column_RK >= 0
    count_R = real_RK.sum(axis=1)
    if not len(value_V):
        return np.full(len(column_RK), np.nan)
    sum_R = np.where(real_RK, value_V[np.where(real_RK, column_RK, 0)], 0.0).sum(axis=1)
    return np.where(count_R > 0, sum_R / np.maximum(count_R, 1), np.nan)


def _places(column_RK: np.ndarray, *, items: int) -> sparse.csr_array:
    """Float [R, V]: 1 where an item stands in a list."""
    row, place = np.nonzero(column_RK >= 0)
    return sparse.csr_array((np.ones(len(row)), (row, column_RK[row, place])), shape=(len(column_RK), items))
