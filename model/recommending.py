"""The best items for stated histories: what serving does, for offline questions."""

from collections.abc import Sequence

import numpy as np

from model.evaluation import Recommender
from model.sequences import BEHAVIOUR_NAMES

Past = Sequence[tuple[str, str]]
"""(item id, behaviour) of one user, oldest first."""


def best_items(
    recommender: Recommender, histories: Sequence[Past], *, excluded: Sequence[frozenset[str]], n: int, batch: int = 256
) -> list[list[str]]:
    """The `n` best items for each history, best first, without `excluded`. Unknown items are skipped."""
    row = {item: place for place, item in enumerate(recommender.items, start=1)}
    code = {name: place for place, name in enumerate(BEHAVIOUR_NAMES)}
    found: list[list[str]] = []
    for at in range(0, len(histories), batch):
        part = [
            [(row[item], code[behaviour]) for item, behaviour in past if item in row][-recommender.max_history :]
            for past in histories[at : at + batch]
        ]
        width = max(1, *(len(past) for past in part))
        row_BL, behaviour_BL = (np.zeros((len(part), width), dtype=np.int64) for _ in range(2))
        for place, past in enumerate(part):
            if past:
                row_BL[place, -len(past) :], behaviour_BL[place, -len(past) :] = zip(*past, strict=True)
        score_BV = np.array(recommender.scores(row_BL, behaviour_BL), dtype=np.float32)
        for place, scores_V in enumerate(score_BV):
            scores_V[[row[item] - 1 for item in excluded[at + place] if item in row]] = -np.inf
            best = np.argsort(-scores_V, kind="stable")[:n]
            found.append([recommender.items[column] for column in best if scores_V[column] > -np.inf])
    return found
