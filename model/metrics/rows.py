"""The metrics of a holdout's recommended lists, row by row and of all rows together.

Shapes: R rows, B rows of a batch, K places of a list, V items of the recommender, I items and N events of the holdout,
G categories.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import sparse

from model.metrics import lists
from model.metrics.calibration import calibration_error
from model.metrics.facts import ItemFacts
from model.metrics.intervals import mean_intervals, share_interval
from model.metrics.slices import head_threshold
from model.sequences import Holdout, is_target


def list_values(
    items: Sequence[str], holdout: Holdout, *, best_RK: np.ndarray, facts: ItemFacts | None, batch: int
) -> dict[str, np.ndarray]:
    """Novelty, tail share and, with `facts`, diversity and miscalibration of each row's list; NaN where undefined.

    A history's categories are those of all its visible events but dislikes, known to the recommender or not.
    """
    trained = dict(zip(holdout.histories.items, holdout.trained_I, strict=True))
    events_V = np.array([trained.get(item, 0) for item in items], dtype=np.int64)
    total = int(holdout.trained_I.sum())
    values = {
        "novelty": lists.novelty(best_RK, events_V=events_V, total=total, items=len(trained)),
        "tail_share": lists.tail_share(best_RK, head_V=events_V >= head_threshold(holdout.trained_I)),
    }
    if facts is None:
        return values
    direction_VD, share_VG = facts.directions(items), facts.category_shares(items)
    share_IG = facts.category_shares(holdout.histories.items)
    diversity_R, miscalibration_R = np.full(len(holdout), np.nan), np.full(len(holdout), np.nan)
    for at in range(0, len(holdout), batch):
        rows = slice(at, at + batch)
        diversity_R[rows] = lists.diversity(best_RK[rows], direction_VD=direction_VD)
        history_BG, list_BG = (_met(holdout, rows) @ share_IG).toarray(), lists.category_sums(best_RK[rows], share_VG)
        miscalibration_R[rows] = lists.miscalibration(history_BG, list_BG)
    return values | {"diversity": diversity_R, "miscalibration": miscalibration_R}


def whole_metrics(
    best_RK: np.ndarray, confidence_R: np.ndarray, right_R: np.ndarray, *, items: int
) -> dict[str, Callable[[np.ndarray], float]]:
    """The metrics that are no means over rows, as functions of the rows (bool) that are in.

    Without a single recommendation there is coverage alone: a Gini index or an error of 0 would look perfect.
    """
    sure_R = ~np.isnan(confidence_R)

    def error(in_R: np.ndarray) -> float:
        return calibration_error(confidence_R[in_R & sure_R], right_R[in_R & sure_R])

    found: dict[str, Callable[[np.ndarray], float]] = {
        "coverage": lambda in_R: lists.coverage(lists.exposures(best_RK[in_R], items=items))
    }
    if (best_RK >= 0).any():
        found["gini"] = lambda in_R: lists.gini(lists.exposures(best_RK[in_R], items=items))
    return found | ({"ece": error} if sure_R.any() else {})


def intervals(
    values: Mapping[str, np.ndarray],
    whole: Mapping[str, Callable[[np.ndarray], float]],
    user_R: np.ndarray,
    *,
    draws: int,
) -> dict[str, tuple[float, float]]:
    """95 % over users: bootstrap for means, jackknife for the rest. None for fewer than two users or without draws."""
    if not draws or len(np.unique(user_R)) < 2:
        return {}
    found = mean_intervals(values, user_R=user_R, draws=draws)
    return found | {name: share_interval(statistic, user_R=user_R) for name, statistic in whole.items()}


def spans(begin_B: np.ndarray, end_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The span of each position, and the positions, of all spans [begin, end)."""
    count_B = end_B - begin_B
    place = np.repeat(np.arange(len(count_B)), count_B)
    return place, np.arange(len(place)) + np.repeat(begin_B - np.cumsum(count_B) + count_B, count_B)


def _met(holdout: Holdout, rows: slice) -> sparse.csr_array:
    """Float [B, I]: visible events of each item, without dislikes."""
    histories, visible_B = holdout.histories, holdout.visible_R[rows]
    place, at = spans(histories.offsets_U1[holdout.user_R[rows]], visible_B)
    liked = is_target(histories.behaviour_N[at]).astype(np.float64)
    return sparse.csr_array((liked, (place, histories.item_N[at])), shape=(len(visible_B), len(histories.items)))
