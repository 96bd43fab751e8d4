"""The best items for stated histories: what serving does, for offline questions."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from model.evaluation import Recommender, features_of
from model.inputs import Inputs
from model.sequences import BEHAVIOUR_NAMES

_SECOND = 1_000_000


class Past(NamedTuple):
    """One event of a history."""

    item_id: str
    behaviour: str
    time_us: int
    """UTC microseconds."""
    context: Mapping[str, str] = {}


class Question(NamedTuple):
    """What a user did, oldest first, when the answer is asked for, and what it may not hold."""

    history: Sequence[Past]
    now_us: int
    excluded: frozenset[str] = frozenset()
    attributes: Mapping[str, str] = {}
    """Of the user, as the asking side states them."""


def best_items(recommender: Recommender, questions: Sequence[Question], *, n: int, batch: int = 256) -> list[list[str]]:
    """The `n` best items for each question, best first. Unknown items are skipped; what is later than now is of now."""
    row = {item: place for place, item in enumerate(recommender.items, start=1)}
    code = {name: place for place, name in enumerate(BEHAVIOUR_NAMES) if place > 0}
    features = features_of(recommender)
    found: list[list[str]] = []
    for at in range(0, len(questions), batch):
        asked = questions[at : at + batch]
        known = [
            [
                (
                    row[past.item_id],
                    code[past.behaviour],
                    max(0, question.now_us - past.time_us) // _SECOND,
                    features.row(user=question.attributes, context=past.context),
                )
                for past in question.history
                if past.item_id in row and past.behaviour in code
            ][-recommender.max_history :]
            or [(0, 0, 0, features.row(user=question.attributes, context={}))]
            for question in asked
        ]
        width, attributes = max(len(events) for events in known), len(features.attributes)
        inputs = Inputs.nothing(len(asked), width, attributes=attributes)
        for place, events in enumerate(known):
            for array_BL, codes in zip(inputs.all(), zip(*events, strict=True), strict=True):
                array_BL[place, -len(events) :] = codes
        score_BV = np.array(recommender.scores(inputs), dtype=np.float32)
        for scores_V, question in zip(score_BV, asked, strict=True):
            scores_V[[row[item] - 1 for item in question.excluded if item in row]] = -np.inf
            best = np.argsort(-scores_V, kind="stable")[:n]
            found.append([recommender.items[column] for column in best if scores_V[column] > -np.inf])
    return found
