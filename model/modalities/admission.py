"""Items that nobody has met get rows of a trained network: they start from what they say of themselves."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from model.fitted import Fitted
from model.growth import grow
from model.modalities.material import NamedVectors


def admit(fitted: Fitted, modalities: Mapping[str, NamedVectors], *, items: Iterable[str]) -> Fitted:
    """`fitted` with rows for those of `items` that it lacks and that have a vector in one of `modalities`.

    Their id embeddings are 0 and their biases the mean one, so that only vectors rank them. Known items keep their rows
    and vectors. `fitted` itself stays as it is, and is returned when there is nothing to admit. Raises DataRejected
    when another encoder than the network's made the vectors.
    """
    described = {item for named in modalities.values() for item in named.items}
    vocabulary = fitted.vocabulary.grown(item for item in items if item in described)
    if vocabulary is fitted.vocabulary:
        return fitted
    none = np.zeros(0, dtype=np.int64)
    ranker = grow(
        fitted.ranker,
        items=len(vocabulary),
        row_N=none,
        user_N=none,
        modalities={name: named.beside(vocabulary.items) for name, named in modalities.items()},
    )
    return replace(fitted, ranker=ranker, vocabulary=vocabulary)
