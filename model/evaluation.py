"""Offline evaluation: a full ranking of the catalogue, on rows that two models share.

Shapes: R rows, B rows of a batch, L positions, V items of the recommender, I items and N events of the holdout.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from model.fit import Fitted
from model.metrics.intervals import Interval, difference_interval
from model.metrics.ranking import hit_rate, ndcg, rank, reciprocal_rank
from model.sequences import BEHAVIOUR_NAMES, Holdout
from relations.cells import shown

HEAD_SHARE = 0.2
"""The share of the items with training events that counts as head, by number of events."""


class Recommender(Protocol):
    @property
    def items(self) -> Sequence[str]: ...

    @property
    def max_history(self) -> int: ...

    def scores(self, row_BL: np.ndarray, behaviour_BL: np.ndarray) -> np.ndarray:
        """Float [B, V] for histories in its own rows (from 1; 0 is padding, on the left); column c is `items[c]`."""


class RankerRecommender:
    """A fitted ranker as a recommender, on the CPU."""

    def __init__(self, fitted: Fitted) -> None:
        self._ranker = fitted.ranker.eval()
        self.items: Sequence[str] = fitted.vocabulary.items
        self.max_history: int = fitted.ranker.config.max_history

    def scores(self, row_BL: np.ndarray, behaviour_BL: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return self._ranker(torch.from_numpy(row_BL), torch.from_numpy(behaviour_BL)).numpy()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Evaluation:
    """Means over rows. A name that has no rows, or too few users, is absent from `by_behaviour` and `by_slice`.

    `overall`: ndcg@k, hr@k, mrr, coverage (share of the recommender's items that are among some row's best k).
    `by_behaviour[b]`: rows whose item got behaviour b from that user in the holdout: of the items that users went on
    to purchase, say. `by_slice`: head_items, tail_items, new_items (by training events: the best fifth, the rest,
    none), old_users, new_users (with and without events before the cutoff), without_history (nothing visible).
    Values carry `rows` beside the metrics.
    """

    k: int
    overall: Mapping[str, float]
    by_behaviour: Mapping[str, Mapping[str, float]]
    by_slice: Mapping[str, Mapping[str, float]]
    rank_R: np.ndarray  # from 1; 0: the target is not in the recommender's vocabulary
    ndcg_R: np.ndarray
    user_R: np.ndarray
    event_R: np.ndarray
    recommended: Mapping[str, int]  # item → rows in whose best k it stands

    def __len__(self) -> int:
        return len(self.rank_R)


def evaluate(
    recommender: Recommender,
    holdout: Holdout,
    *,
    k: int = 10,
    exclude_seen: bool = True,
    batch: int = 256,
    min_users: int = 1,
) -> Evaluation:
    """Rank the whole catalogue for each row of `holdout`.

    With `exclude_seen`, rows whose item is among the visible events are left out, for every recommender alike, and
    visible items are no candidates. A target that the recommender does not know is a miss (rank 0). Events of
    items that it does not know are invisible to it. Without rows the metrics are 0. Slices and behaviours of fewer than
    `min_users` users are left out, and those that would give them away (`relations.cells`).
    """
    if exclude_seen:
        holdout = holdout.keep(~_seen(holdout))
    history = _Visible(recommender, holdout)
    rank_R = np.zeros(len(holdout), dtype=np.int64)
    recommended_V = np.zeros(len(recommender.items), dtype=np.int64)
    target_R = history.row_I[holdout.histories.item_N[holdout.event_R]]
    # rows of similar history together: a batch is as wide as its longest
    order_R = np.argsort(np.minimum(history.known_R, recommender.max_history), kind="stable")
    for at in range(0, len(order_R) if len(recommender.items) else 0, batch):
        rows = order_R[at : at + batch]
        score_BV = recommender.scores(*history.padded(rows))
        excluded_BV = np.zeros(score_BV.shape, dtype=bool)
        if exclude_seen:
            excluded_BV[history.seen(rows)] = True
        rank_R[rows] = rank(score_BV, target_R[rows] - 1, excluded_RV=excluded_BV)
        recommended_V += _best(np.where(excluded_BV, -np.inf, score_BV), k)
    return _summary(recommender, holdout, k=k, rank_R=rank_R, recommended_V=recommended_V, min_users=min_users)


def compare(challenger: Evaluation, champion: Evaluation, *, level: float = 0.95, seed: int = 0) -> Interval:
    """NDCG@k of the challenger minus the champion's, with a bootstrap interval over users.

    Raises ValueError when the two were not evaluated on the same rows.
    """
    if not np.array_equal(challenger.event_R, champion.event_R) or challenger.k != champion.k:
        raise ValueError("the two evaluations differ in rows or k; evaluate both on one holdout")
    return difference_interval(challenger.ndcg_R, champion.ndcg_R, user_R=champion.user_R, level=level, seed=seed)


class _Visible:
    """Each row's visible events in the recommender's rows, unknown items left out."""

    def __init__(self, recommender: Recommender, holdout: Holdout) -> None:
        histories = holdout.histories
        row = {item: index for index, item in enumerate(recommender.items, start=1)}
        self.row_I = np.array([row.get(item, 0) for item in histories.items], dtype=np.int64)
        row_N = self.row_I[histories.item_N]
        known_N = row_N > 0
        before_N1 = np.concatenate([[0], np.cumsum(known_N)])
        self._row_K, self._behaviour_K = row_N[known_N], histories.behaviour_N[known_N]
        self._begin_R = before_N1[histories.offsets_U1[holdout.user_R]]
        self._end_R = before_N1[holdout.visible_R]
        self.known_R = self._end_R - self._begin_R
        self._length = recommender.max_history

    def padded(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and behaviours [B, L] of the newest events, left-padded; L is 1 at least."""
        end, begin = self._end_R[rows, None], self._begin_R[rows, None]
        width = max(1, int(min(self._length, self.known_R[rows].max(initial=1))))
        at = end - np.arange(width, 0, -1)
        real = at >= begin
        at = np.where(real, at, 0)
        if not len(self._row_K):
            return np.zeros_like(at), np.zeros_like(at)
        return np.where(real, self._row_K[at], 0), np.where(real, self._behaviour_K[at], 0)

    def seen(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions (row of the batch, column) of all visible items, however old."""
        count = self.known_R[rows]
        place = np.repeat(np.arange(len(rows)), count)
        inside = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        return place, self._row_K[self._begin_R[rows][place] + inside] - 1


def _seen(holdout: Holdout) -> np.ndarray:
    """True for rows whose item the user has met before."""
    histories = holdout.histories
    pair_N = histories.user_N() * max(1, len(histories.items)) + histories.item_N
    _, first_P, place_N = np.unique(pair_N, return_index=True, return_inverse=True)
    return np.asarray(first_P[place_N[holdout.event_R]] < holdout.event_R)


def _best(score_BV: np.ndarray, k: int) -> np.ndarray:
    """For each item, in how many rows it is among the best k. Excluded items (−inf) never are."""
    best = torch.from_numpy(score_BV).topk(min(k, score_BV.shape[1]), dim=1)
    shown = best.indices[best.values > -torch.inf].numpy()
    return np.bincount(shown, minlength=score_BV.shape[1])


def _summary(
    recommender: Recommender, holdout: Holdout, *, k: int, rank_R: np.ndarray, recommended_V: np.ndarray, min_users: int
) -> Evaluation:
    values = {f"ndcg@{k}": ndcg(rank_R, k=k), f"hr@{k}": hit_rate(rank_R, k=k), "mrr": reciprocal_rank(rank_R)}

    def means(chosen_R: np.ndarray) -> dict[str, float]:
        rows = int(chosen_R.sum())
        return {name: float(value[chosen_R].mean()) if rows else 0.0 for name, value in values.items()} | {"rows": rows}

    def parts(of_R: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
        """Of the parts of one whole, those that may be shown."""
        users = {name: len(np.unique(holdout.user_R[chosen_R])) for name, chosen_R in of_R.items()}
        seen = shown(users, k=min_users)
        return {name: means(chosen_R) for name, chosen_R in of_R.items() if users[name] and name in seen}

    trained_R = holdout.trained_I[holdout.histories.item_N[holdout.event_R]]
    head_R = trained_R >= _head_threshold(holdout.trained_I)
    old_R = holdout.trained_U[holdout.user_R] > 0
    by_item = {
        "head_items": head_R & (trained_R > 0),
        "tail_items": ~head_R & (trained_R > 0),
        "new_items": trained_R == 0,
    }
    by_user = {"old_users": old_R, "new_users": ~old_R}
    without_history_R = holdout.visible_R == holdout.histories.offsets_U1[holdout.user_R]
    # A user may do several things, so that no behaviour is the rest of the others.
    behaviours = [parts({name: holdout.reached_RB[:, code]}) for code, name in enumerate(BEHAVIOUR_NAMES) if code]
    overall = means(np.ones(len(holdout), dtype=bool))
    overall["coverage"] = float((recommended_V > 0).mean()) if len(recommended_V) else 0.0
    return Evaluation(
        k=k,
        overall=overall,
        by_behaviour={name: found for each in behaviours for name, found in each.items()},
        by_slice=parts(by_item) | parts(by_user) | parts({"without_history": without_history_R}),
        rank_R=rank_R,
        ndcg_R=values[f"ndcg@{k}"],
        user_R=holdout.user_R,
        event_R=holdout.event_R,
        recommended={recommender.items[at]: int(recommended_V[at]) for at in map(int, np.flatnonzero(recommended_V))},
    )


def _head_threshold(trained_I: np.ndarray) -> int:
    """Events that an item needs to be among the best fifth of the trained items; ties at the edge are all head."""
    counts = np.sort(trained_I[trained_I > 0])[::-1]
    return int(counts[max(0, int(np.ceil(HEAD_SHARE * len(counts))) - 1)]) if len(counts) else 1
