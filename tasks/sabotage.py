"""Models made worse on purpose, so that a simulation can show that the gate keeps them out.

Only simulation homes may train one; it is registered with its sabotage in its note, and never becomes candidate.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import numpy as np

from model.fit import fit_full
from model.fitted import Fitted
from model.noise import blur_items
from model.options import NetworkOptions, TrainOptions
from model.sequences import Histories
from relations.errors import UsageError


class SabotageKind(StrEnum):
    SHUFFLED_ITEMS = "shuffled_items"
    """Trained on events whose items were shuffled: it has learnt popularity's shape and nothing else."""
    BLURRED_ITEMS = "blurred_items"
    """The parent with noise on its item vectors."""


@dataclass(frozen=True)
class Sabotage:
    kind: SabotageKind
    scale: float = 0.0
    """For blurred items: standard deviation of the noise, in standard deviations of the item vectors."""
    seed: int = 0


def sabotage_fit(
    sabotage: Sabotage,
    histories: Histories,
    *,
    parent: Fitted | None,
    network: NetworkOptions,
    training: TrainOptions,
    run: Path,
) -> Fitted:
    """A model that is worse in the stated way. Raises UsageError for a blur without a parent."""
    if SabotageKind(sabotage.kind) is SabotageKind.SHUFFLED_ITEMS:
        rng = np.random.default_rng(sabotage.seed)
        permuted = rng.permutation(len(histories.items))
        shuffled = replace(histories, item_N=permuted[rng.permutation(histories.item_N)])
        return fit_full(shuffled, network=network, training=replace(training, epochs=1), run=run)
    if parent is None:
        raise UsageError("blurred items: there is no parent to blur; train a champion first")
    return blur_items(parent, scale=sabotage.scale, seed=sabotage.seed)
