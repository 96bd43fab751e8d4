"""Masked text in a whole training: the hidden item's vector is predicted, and asked for by name where there is none."""

from dataclasses import replace

import numpy as np
import pytest

from model.fit import fit_full
from model.modalities.material import NamedVectors
from model.objectives.options import ObjectiveOptions
from model.options import NetworkOptions, TrainOptions
from model.sequences import Histories
from model.trainer import Step
from relations.errors import UsageError

TELL = ObjectiveOptions(self_supervised=0.5, masked_weight=0.0, contrastive_weight=0.0, masked_text_weight=1.0)


def test_the_text_of_hidden_items_is_learnt(cycle: Histories, tiny: NetworkOptions, brief: TrainOptions) -> None:
    """Twelve items with random vectors; who stands between two neighbours of the walk is certain."""
    vectors = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    text = NamedVectors(tuple(cycle.items), vectors, dims=0)
    told: list[Step] = []
    fit_full(
        cycle,
        network=tiny,
        training=replace(brief, epochs=8),
        objective=TELL,
        modalities={"text": text},
        on_step=told.append,
    )
    first, last = (np.mean([step.parts["masked_text"] for step in part]) for part in (told[:5], told[-5:]))
    assert last < 0.8 * first


def test_without_vectors_there_is_nothing_to_predict(
    cycle: Histories, tiny: NetworkOptions, brief: TrainOptions
) -> None:
    with pytest.raises(UsageError, match=r"masked_text_weight = 1\.0 needs vectors"):
        fit_full(cycle, network=tiny, training=brief, objective=TELL)
