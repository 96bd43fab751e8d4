"""Offline evaluation: a full ranking of the catalogue, on rows that two models share.

Shapes: R rows, B rows of a batch, P relevant items of all rows, K places of a list, L positions, V items of the
recommender, I items and N events of the holdout, G categories.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from model.features import PLAIN, FeatureSpec
from model.fitted import Fitted
from model.inputs import Inputs
from model.metrics import lists, ranking
from model.metrics.calibration import top_probability
from model.metrics.facts import ItemFacts
from model.metrics.intervals import Interval, difference_interval
from model.metrics.rows import intervals, list_values, spans, whole_metrics
from model.metrics.slices import Slices, means
from model.network.ranker import Ranker, materialised
from model.sequences import Holdout


class Recommender(Protocol):
    @property
    def items(self) -> Sequence[str]: ...

    @property
    def max_history(self) -> int: ...

    def scores(self, inputs: Inputs) -> np.ndarray:
        """Float [B, V] for histories in its own rows; column c is `items[c]`."""


@runtime_checkable
class Attributed(Protocol):
    """A recommender that looks at more than events, by its own feature spec."""

    @property
    def features(self) -> FeatureSpec: ...


def features_of(recommender: Recommender) -> FeatureSpec:
    return recommender.features if isinstance(recommender, Attributed) else PLAIN


class RankerRecommender:
    """A ranker as a recommender of `items`, those of its rows, on the device where it is."""

    def __init__(self, ranker: Ranker, items: Sequence[str], features: FeatureSpec = PLAIN) -> None:
        self._ranker = materialised(ranker)
        self.items = items
        self.features = features
        self.max_history: int = ranker.config.max_history

    @staticmethod
    def of(fitted: Fitted) -> "RankerRecommender":
        return RankerRecommender(fitted.ranker, fitted.vocabulary.items, fitted.features)

    def scores(self, inputs: Inputs) -> np.ndarray:
        with torch.inference_mode():
            arrays = (torch.from_numpy(array).to(self._ranker.device) for array in inputs.arrays())
            return self._ranker(*arrays).float().cpu().numpy()  # type: ignore[no-any-return]


class Relevant(StrEnum):
    """What a row's list ought to hold."""

    NEXT = "next"
    """The item of the row's own event: one relevant item a row."""
    ALL = "all"
    """Every item of the user's rows, asked for once, before the first of them: one row a user."""


@dataclass(frozen=True)
class Evaluation:
    """Means over rows. A name that has no rows, or too few users, is absent from `by_behaviour` and `by_slice`.

    `overall`, of the ranking: ndcg@k, hr@k, recall@k, precision@k, f1@k, map@k, mrr, auc; of the lists of the best k:
    novelty (bits), tail_share, and where items have vectors or categories diversity and miscalibration (nats, lower is
    better); of all lists together: coverage, gini (lower is more equal); of the softmax of the scores: ece (lower is
    better). Formulas and sources: `model.metrics`. A metric of lists that no row defines is absent. `intervals`: 95 %
    over users, for each of these; none for fewer than two users.
    `by_behaviour[b]`: rows whose item got behaviour b from that user in the holdout: of the items that users went on
    to purchase, say. `by_slice`: head_items, tail_items, new_items (by training events: the best fifth, the rest,
    none), old_users, new_users (with and without events before the cutoff), without_history (nothing visible).
    Values carry `rows` beside the means. Where all of a user's items are relevant, a row has no item of its own, and
    there are slices by user only.
    """

    k: int
    overall: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    by_behaviour: Mapping[str, Mapping[str, float]]
    by_slice: Mapping[str, Mapping[str, float]]
    rank_R: np.ndarray  # of the best relevant item, from 1; 0: none is in the recommender's vocabulary
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
    relevant: Relevant = Relevant.NEXT,
    facts: ItemFacts | None = None,
    batch: int = 256,
    min_users: int = 1,
    draws: int = 1000,
) -> Evaluation:
    """Rank the whole catalogue for each row of `holdout`.

    With `exclude_seen`, rows whose item is among the visible events are left out, for every recommender alike, and
    visible items are no candidates. A target that the recommender does not know is a miss (rank 0). Events of
    items that it does not know are invisible to it. Without rows the metrics of the ranking are 0. Slices and
    behaviours of fewer than `min_users` users are left out, and those that would give them away (`relations.cells`).
    `draws` of the bootstrap, 0 for no intervals. Memory: a few times `batch` × V, and R × k. Equal scores at the end of
    a list are broken arbitrarily.
    """
    if exclude_seen:
        holdout = holdout.keep(~_seen(holdout))
    holdout, item_P, row_P = _relevant(holdout, relevant)
    history = Visible(recommender, holdout)
    column_P = history.row_I[item_P] - 1
    begin_R1 = np.searchsorted(row_P, np.arange(len(holdout) + 1))
    rank_P, auc_P = np.zeros(len(row_P), dtype=np.int64), np.zeros(len(row_P))
    best_RK = np.full((len(holdout), min(k, len(recommender.items))), -1, dtype=np.int32)
    confidence_R = np.full(len(holdout), np.nan)
    # rows of similar history together: a batch is as wide as its longest
    order_R = np.argsort(np.minimum(history.known_R, recommender.max_history), kind="stable")
    for at in range(0, len(order_R) if len(recommender.items) else 0, batch):
        rows = order_R[at : at + batch]
        score_BV = recommender.scores(history.padded(rows))
        excluded_BV = np.zeros(score_BV.shape, dtype=bool)
        if exclude_seen:
            excluded_BV[history.seen(rows)] = True
        place, pairs = spans(begin_R1[rows], begin_R1[rows + 1])
        found = ranking.standing(score_BV, column_P[pairs], row_P=place, excluded_RV=excluded_BV)
        rank_P[pairs], auc_P[pairs] = found.rank_P, found.auc_P
        offered_BV = np.where(excluded_BV, -np.inf, score_BV)
        best_RK[rows], confidence_R[rows] = _best(offered_BV, k), top_probability(offered_BV)
    ranked = {
        f"ndcg@{k}": ranking.ndcg(rank_P, k=k, row_P=row_P),
        f"hr@{k}": ranking.hit_rate(rank_P, k=k, row_P=row_P),
        f"recall@{k}": ranking.recall(rank_P, k=k, row_P=row_P),
        f"precision@{k}": ranking.precision(rank_P, k=k, row_P=row_P),
        f"f1@{k}": ranking.f1(rank_P, k=k, row_P=row_P),
        f"map@{k}": ranking.average_precision(rank_P, k=k, row_P=row_P),
        "mrr": ranking.reciprocal_rank(rank_P, row_P=row_P),
        "auc": ranking.mean_auc(auc_P, row_P=row_P),
    }
    rank_R = ranking.best_rank(rank_P, row_P=row_P)
    values = ranked | list_values(recommender.items, holdout, best_RK=best_RK, facts=facts, batch=batch)
    whole = whole_metrics(best_RK, confidence_R, rank_R == 1, items=len(recommender.items))
    every_R = np.ones(len(holdout), dtype=bool)
    slices = Slices(values, holdout, min_users=min_users)
    return Evaluation(
        k=k,
        overall=dict.fromkeys(ranked, 0.0)
        | means(values, every_R)
        | {name: statistic(every_R) for name, statistic in whole.items()},
        intervals=intervals(values, whole, holdout.user_R, draws=draws),
        by_behaviour=slices.by_behaviour() if relevant is Relevant.NEXT else {},
        by_slice=(slices.by_item() if relevant is Relevant.NEXT else {}) | slices.by_user(),
        rank_R=rank_R,
        ndcg_R=ranked[f"ndcg@{k}"],
        user_R=holdout.user_R,
        event_R=holdout.event_R,
        recommended={
            recommender.items[at]: int(count)
            for at, count in enumerate(lists.exposures(best_RK, items=len(recommender.items)))
            if count
        },
    )


def compare(challenger: Evaluation, champion: Evaluation, *, level: float = 0.95, seed: int = 0) -> Interval:
    """NDCG@k of the challenger minus the champion's, with a bootstrap interval over users.

    Raises ValueError when the two were not evaluated on the same rows.
    """
    if not np.array_equal(challenger.event_R, champion.event_R) or challenger.k != champion.k:
        raise ValueError("the two evaluations differ in rows or k; evaluate both on one holdout")
    return difference_interval(challenger.ndcg_R, champion.ndcg_R, user_R=champion.user_R, level=level, seed=seed)


class Visible:
    """Each row's visible events in the recommender's rows, unknown items left out."""

    def __init__(self, recommender: Recommender, holdout: Holdout) -> None:
        histories = holdout.histories
        row = {item: index for index, item in enumerate(recommender.items, start=1)}
        self.row_I = np.array([row.get(item, 0) for item in histories.items], dtype=np.int64)
        row_N = self.row_I[histories.item_N]
        known_N = row_N > 0
        before_N1 = np.concatenate([[0], np.cumsum(known_N)])
        self._row_K, self._behaviour_K = row_N[known_N], histories.behaviour_N[known_N]
        features = features_of(recommender)
        code_NA = features.codes(histories)
        # Of a user without visible events what is of the user is known all the same, at the time of asking.
        self._attribute_KA, self._alone_RA = code_NA[known_N], code_NA[holdout.event_R] * features.lasting_A
        self._time_K, self._asked_R = histories.time_N[known_N], histories.time_N[holdout.event_R]
        self._begin_R = before_N1[histories.offsets_U1[holdout.user_R]]
        self._end_R = before_N1[holdout.visible_R]
        self.known_R = self._end_R - self._begin_R
        self._length = recommender.max_history

    def padded(self, rows: np.ndarray) -> Inputs:
        """The newest events as they stood when the row's own event happened; L is 1 at least."""
        end, begin = self._end_R[rows, None], self._begin_R[rows, None]
        width = max(1, int(min(self._length, self.known_R[rows].max(initial=1))))
        at = end - np.arange(width, 0, -1)
        real = at >= begin
        at = np.where(real, at, 0)
        found = Inputs.nothing(*at.shape, attributes=self._alone_RA.shape[1])
        if len(self._row_K):
            age_BL = (self._asked_R[rows, None] - self._time_K[at]) // 1_000_000
            arrays = (self._row_K[at], self._behaviour_K[at], age_BL, self._attribute_KA[at])
            for whole, array in zip(found.all(), arrays, strict=True):
                whole[real] = array[real]
        alone_B = ~real[:, -1]
        found.attribute_BLA[alone_B, -1] = self._alone_RA[rows][alone_B]
        return found

    def seen(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions (row of the batch, column) of all visible items, however old."""
        place, at = spans(self._begin_R[rows], self._end_R[rows])
        return place, self._row_K[at] - 1


def _seen(holdout: Holdout) -> np.ndarray:
    """True for rows whose item the user has met before."""
    histories = holdout.histories
    pair_N = histories.user_N() * max(1, len(histories.items)) + histories.item_N
    _, first_P, place_N = np.unique(pair_N, return_index=True, return_inverse=True)
    return np.asarray(first_P[place_N[holdout.event_R]] < holdout.event_R)


def _relevant(holdout: Holdout, relevant: Relevant) -> tuple[Holdout, np.ndarray, np.ndarray]:
    """The rows to rank; of each relevant item its code in `holdout.histories` and its row, in the order of the rows."""
    item_R = holdout.histories.item_N[holdout.event_R]
    if relevant is Relevant.NEXT:
        return holdout, item_R, np.arange(len(holdout))
    _, first_U, user_R = np.unique(holdout.user_R, return_index=True, return_inverse=True)
    items = max(1, len(holdout.histories.items))
    row_P, item_P = np.divmod(np.unique(user_R * items + item_R), items)
    return holdout.keep(first_U), item_P, row_P


def _best(score_BV: np.ndarray, k: int) -> np.ndarray:
    """Columns [B, K] of each row's best k, best first; −1 for what is excluded (−inf) or has no number for a score."""
    best = torch.from_numpy(score_BV).topk(min(k, score_BV.shape[1]), dim=1)
    return torch.where(best.values > -torch.inf, best.indices, -1).numpy()
