"""The truth about clicks: how likely a person clicks an item that they look at, and how likely they look.

P(click at position j) = examination(j) · σ(base + inclination + interest + trend + quality + novelty + context).
This is the only place that states it: traffic draws clicks from it and `simulation/truth.py` sums it.

Legend: `_U` users, `_S` sub-topics, `_N` items, `_M` requests, `_C` items of one request.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulation.catalogue import Catalogue
from simulation.parameters import Parameters
from simulation.tastes import People, Tastes

NOTHING = -1
"""`last_subtopic` of a person without history."""


def examination(parameters: Parameters, slots: int) -> NDArray[np.float64]:
    """P(a person looks at position 1 … slots): falls with the position, 1 at the first."""
    position_K = np.arange(1, slots + 1, dtype=np.float64)
    return np.asarray(position_K**-parameters.examination_decay, dtype=np.float64)


def item_logits(catalogue: Catalogue, tastes: Tastes, day: int) -> NDArray[np.float64]:
    """What an item has for everybody on `day`: quality, novelty and its sub-topic's trend, in log-odds."""
    trend_N: NDArray[np.float64] = tastes.trend_DS[day, catalogue.subtopic_N]
    return merit_logits(catalogue, day) + trend_N


def merit_logits(catalogue: Catalogue, day: int) -> NDArray[np.float64]:
    """Quality and novelty alone: what tells the items of one sub-topic apart."""
    p = catalogue.parameters
    age_N = np.maximum(day - catalogue.release_N, 0)
    return catalogue.quality_N + p.novelty * np.exp(-age_N / p.novelty_days)


@dataclass(frozen=True)
class Appeal:
    """Click probabilities of one day."""

    parameters: Parameters
    day: int
    subtopic_N: NDArray[np.int64]
    interest_US: NDArray[np.float32]
    item_N: NDArray[np.float64]
    inclination_U: NDArray[np.float64]
    context_SS: NDArray[np.float64]
    """Log-odds by (last sub-topic, sub-topic shown); the last row, reached by NOTHING, is zero."""
    bots: int

    def click(
        self,
        user_M: NDArray[np.int64],
        item_MC: NDArray[np.int64],
        *,
        last_subtopic_M: NDArray[np.int64],
        context_weight_M: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """P(click | looked at) of each shown item, `_MC`. A crawler's is `bot_click`, whatever it is shown."""
        shown_MC = self.subtopic_N[item_MC]
        logit_MC = self.context_SS[last_subtopic_M[:, None], shown_MC]
        logit_MC *= context_weight_M[:, None]
        logit_MC += self.item_N[item_MC]
        logit_MC += self.interest_US[user_M[:, None], shown_MC]
        logit_MC += self.inclination_U[user_M][:, None]
        probability_MC = 1 / (1 + np.exp(-logit_MC))
        probability_MC[user_M < self.bots] = self.parameters.bot_click
        return probability_MC


def build_appeal(catalogue: Catalogue, people: People, tastes: Tastes, day: int) -> Appeal:
    p = catalogue.parameters
    context_SS = np.zeros((p.subtopics + 1, p.subtopics))
    rows = np.arange(p.subtopics)
    context_SS[rows, rows] = p.context_click
    context_SS[rows, tastes.complement_S] = p.context_click
    return Appeal(
        parameters=p,
        day=day,
        subtopic_N=catalogue.subtopic_N,
        interest_US=tastes.interest_logits(day),
        item_N=p.click_base + item_logits(catalogue, tastes, day),
        inclination_U=people.inclination_U,
        context_SS=context_SS,
        bots=people.bots,
    )
