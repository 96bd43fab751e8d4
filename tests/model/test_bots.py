"""Users who look like bots weigh less in the loss of a whole training."""

from dataclasses import replace

import numpy as np
import torch

from model.fit import fit_full
from model.fitted import Fitted
from model.objectives.options import ObjectiveOptions
from model.options import NetworkOptions, TrainOptions
from model.sequences import Histories, merge


def share_of_the_walk(fitted: Fitted) -> float:
    """Mean probability of i(n + 2) after i(n), i(n + 1)."""
    items = torch.tensor([[n % 12 + 1, (n + 1) % 12 + 1] for n in range(12)])
    with torch.inference_mode():
        found = fitted.ranker(items, torch.ones_like(items), torch.zeros_like(items)).softmax(dim=1)
    return float(found[torch.arange(12), (torch.arange(12) + 2) % 12].mean())


def test_a_machine_among_people_weighs_less(cycle: Histories, tiny: NetworkOptions, brief: TrainOptions) -> None:
    """Forty users walk in order for minutes; one takes 2,000 items at random in two milliseconds."""
    many = 2_000
    robot = Histories(
        np.array(["robot"], dtype=object),
        cycle.items,
        np.random.default_rng(0).integers(0, len(cycle.items), many),
        np.ones(many, dtype=np.int64),
        int(cycle.time_N.max()) + np.arange(many),
        np.array([0, many]),
    )
    whole, training = merge(cycle, robot)[0], replace(brief, epochs=4)
    plain = fit_full(whole, network=tiny, training=training)
    wary = fit_full(whole, network=tiny, training=training, objective=ObjectiveOptions(bot_threshold=3.0))
    assert share_of_the_walk(wary) > 1.2 * share_of_the_walk(plain)
