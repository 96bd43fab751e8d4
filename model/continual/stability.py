"""How much a challenger changes what people see: its lists and scores against the champion's, on frozen users.

Shapes: R rows, one a user; B rows of a batch, K places of a list, S items that both know.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from model.evaluation import Recommender, Visible
from model.sequences import Holdout


@dataclass(frozen=True)
class Stability:
    """`overlap`: share of a user's best k that stands in both lists, mean over users; 1 means the same lists.
    `shift`: mean |change| of the scores of the items that both know, each row's scores less their mean, in standard
    deviations of the champion's. `surge`: the largest rise of one item, in the share of users whose best k hold it;
    `surged`: that item. An item that suddenly stands before everybody is what a popularity bomb looks like."""

    users: int
    overlap: float
    shift: float
    surge: float
    surged: str

    def breaches(self, bounds: "StabilityBounds", *, k: int) -> tuple[str, ...]:
        """What is out of bounds, in words that name the setting; nothing is, of fewer users than the bounds ask for."""
        if self.users < bounds.min_users:
            return ()
        part, over = f"[forgetting] {bounds.prefix}", f"over {self.users} users"
        found = []
        if self.overlap < bounds.overlap:
            found.append(
                f"stability: top-{k} overlap {self.overlap:.3f} {over}, below {part}overlap = {bounds.overlap:g}"
            )
        if self.shift > bounds.shift:
            found.append(
                f"stability: scores moved {self.shift:.3f} deviations {over}, above {part}shift = {bounds.shift:g}"
            )
        if self.surge > bounds.surge:
            found.append(
                f"stability: {self.surged!r} came into the top-{k} of {self.surge:.1%} more {over}, above "
                f"{part}surge = {bounds.surge:g}"
            )
        return tuple(found)


@dataclass(frozen=True)
class StabilityBounds:
    overlap: float
    shift: float
    surge: float
    min_users: int
    prefix: str = ""
    """Of the settings' names, for what a breach says."""


def measure_stability(
    *, champion: Recommender, challenger: Recommender, holdout: Holdout, k: int = 10, batch: int = 256
) -> Stability:
    """Of the users of `holdout`, each asked for once, at their newest row; visible items are no candidates.

    Raises ValueError without rows.
    """
    if not len(holdout):
        raise ValueError("no rows to compare two models on")
    last_R = np.append(holdout.user_R[1:] != holdout.user_R[:-1], True)
    holdout = holdout.keep(last_R)
    models = (champion, challenger)
    visible = [Visible(model, holdout) for model in models]
    place = {item: at for at, item in enumerate(challenger.items)}
    shared = [(at, place[item]) for at, item in enumerate(champion.items) if item in place]
    column_2S = np.array(shared, dtype=np.int64).reshape(-1, 2).T
    overlap, shift = np.zeros(len(holdout)), np.zeros(len(holdout))
    shown: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for at in range(0, len(holdout), batch):
        rows = np.arange(at, min(at + batch, len(holdout)))
        score_BV = [model.scores(seen.padded(rows)) for model, seen in zip(models, visible, strict=True)]
        before_BS, after_BS = (_centred(score[:, column]) for score, column in zip(score_BV, column_2S, strict=True))
        deviation_B = (
            np.maximum(before_BS.std(axis=1), np.finfo(np.float32).tiny) if len(shared) else np.ones(len(rows))
        )
        shift[rows] = np.abs(after_BS - before_BS).sum(axis=1) / max(1, len(shared)) / deviation_B
        lists = [
            _best(model.items, score, seen.seen(rows), k)
            for model, score, seen in zip(models, score_BV, visible, strict=True)
        ]
        for row, before, after in zip(rows, *lists, strict=True):
            longer = max(len(before), len(after))
            overlap[row] = len(before & after) / longer if longer else 1.0  # nothing was, and is, left to show
            shown[0].update(before)
            shown[1].update(after)
    surge, surged = max(((shown[1][item] - shown[0][item]) / len(holdout), item) for item in ["", *shown[1]])
    return Stability(len(holdout), float(overlap.mean()), float(shift.mean()), surge, surged)


def _centred(score_BS: np.ndarray) -> np.ndarray:
    return score_BS - score_BS.mean(axis=1, keepdims=True) if score_BS.shape[1] else score_BS


def _best(items: object, score_BV: np.ndarray, seen: tuple[np.ndarray, np.ndarray], k: int) -> list[set[str]]:
    """The items of each row's best k, without those seen."""
    score_BV = score_BV.copy()
    score_BV[seen] = -np.inf
    k = min(k, score_BV.shape[1])
    if not k:
        return [set() for _ in score_BV]
    best_BK = np.argpartition(-score_BV, k - 1, axis=1)[:, :k]
    names: list[str] = list(items)  # type: ignore[call-overload]
    return [
        {names[column] for column in columns[np.isfinite(scores[columns])]}
        for columns, scores in zip(best_BK, score_BV, strict=True)
    ]
