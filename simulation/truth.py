"""The true lift of any recommender, from the tastes that only the simulation knows.

The value of a request is the expected number of clicks on what the policy would show: the sum over slots and items of
P(item at slot) · P(slot looked at) · P(click | looked at). Exploration is summed exactly, not sampled.

Legend: `_M` requests, `_C` candidates of a request, best first, `_K` slots.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from simulation.appeal import examination
from simulation.contexts import Context
from simulation.marketplace import Marketplace

Recommender = Callable[[Sequence[Context]], Sequence[Sequence[str]]]
"""For each context its candidates after exclusions, best first: as many as the serving policy would draw from."""


@dataclass(frozen=True)
class TrueLift:
    """Expected clicks per impression of both, and the challenger's relative to the champion's minus one."""

    lift: float
    champion_rate: float
    challenger_rate: float
    standard_error: float
    """Of `lift`, from the choice of contexts alone: with all of the traffic's requests it would be zero."""
    contexts: int


def true_lift(
    champion: Recommender,
    challenger: Recommender,
    contexts: Sequence[Context],
    *,
    marketplace: Marketplace,
    slots: int = 10,
    exploration: float = 0.0,
) -> TrueLift:
    """Compare two recommenders on the same contexts, under the serving policy's `exploration`.

    Raises ValueError without contexts, for an unknown item, and for a champion that is never clicked.
    """
    if not contexts:
        raise ValueError("no contexts: record some with Traffic.trial_day before asking for the true lift")
    arms = [
        expected_clicks(arm(contexts), contexts, marketplace=marketplace, slots=slots, exploration=exploration)
        for arm in (champion, challenger)
    ]
    (clicks_A, shown_A), (clicks_B, shown_B) = arms
    rate_A, rate_B = clicks_A.sum() / max(shown_A.sum(), 1), clicks_B.sum() / max(shown_B.sum(), 1)
    if rate_A == 0:
        raise ValueError("the champion is never clicked, so a relative lift has no meaning; does it show anything?")
    # Delta method for a ratio of ratios on paired requests: relative deviations, so that equal arms cancel exactly.
    error_A = (clicks_A - rate_A * shown_A) / (shown_A.mean() * rate_A)
    error_B = (clicks_B - rate_B * shown_B) / max(shown_B.mean() * rate_B, 1e-12)
    influence_M = rate_B / rate_A * (error_B - error_A)
    spread = float(influence_M.std(ddof=1)) if len(contexts) > 1 else float("nan")
    return TrueLift(
        lift=float(rate_B / rate_A - 1),
        champion_rate=float(rate_A),
        challenger_rate=float(rate_B),
        standard_error=spread / len(contexts) ** 0.5,
        contexts=len(contexts),
    )


def expected_clicks(
    candidates: Sequence[Sequence[str]],
    contexts: Sequence[Context],
    *,
    marketplace: Marketplace,
    slots: int = 10,
    exploration: float = 0.0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Expected clicks and number of impressions of each context, `_M` both."""
    if len(candidates) != len(contexts):
        raise ValueError(f"{len(candidates)} candidate lists for {len(contexts)} contexts; return one each, in order")
    clicks_M, shown_M = np.zeros(len(contexts)), np.zeros(len(contexts))
    groups: dict[tuple[int, int], list[int]] = {}
    for row, context in enumerate(contexts):
        groups.setdefault((context.day, len(candidates[row])), []).append(row)
    for (day, width), rows in groups.items():
        if width == 0:
            continue
        chosen = [contexts[row] for row in rows]
        click_MC = marketplace.appeal(day).click(
            np.array([context.user for context in chosen]),
            _numbers(marketplace, [candidates[row] for row in rows]),
            last_subtopic_M=np.array([context.last_subtopic for context in chosen]),
            context_weight_M=np.array([context.context_weight for context in chosen]),
        )
        shown = min(slots, width)
        slot_KC = slot_probabilities(width, shown, exploration)
        looked_C = examination(marketplace.parameters, shown) @ slot_KC
        bot_M = np.array([context.user < marketplace.people.bots for context in chosen])
        clicks_M[rows] = np.where(bot_M, click_MC @ slot_KC.sum(axis=0), click_MC @ looked_C)
        shown_M[rows] = shown
    return clicks_M, shown_M


@lru_cache(maxsize=256)
def slot_probabilities(candidates: int, slots: int, exploration: float) -> NDArray[np.float64]:
    """P(candidate of rank c at slot k), `_KC`, of ε-greedy without replacement; each row sums to 1.

    At each slot the best remaining candidate is shown with probability 1 − ε, else a uniform draw from all that remain.
    State: the rank b of the best that remains and the number m of shown candidates behind it. Those behind b are
    exchangeable, so given (b, m) the m shown ones are a uniform subset of them, and the recursion is exact.
    """
    probability_KC = np.zeros((slots, candidates))
    states: dict[tuple[int, int], float] = {(0, 0): 1.0}
    for slot in range(slots):
        remaining = candidates - slot
        drawn = exploration / remaining
        following: dict[tuple[int, int], float] = {}
        for (best, taken), mass in states.items():
            behind = candidates - best - 1
            probability_KC[slot, best] += mass * (1 - exploration + drawn)
            if behind:
                probability_KC[slot, best + 1 :] += mass * drawn * (1 - taken / behind)
                explored = mass * drawn * (behind - taken)
                following[best, taken + 1] = following.get((best, taken + 1), 0.0) + explored
            _advance(following, best, taken, behind, mass * (1 - exploration + drawn))
        states = following
    probability_KC.setflags(write=False)
    return probability_KC


def _advance(following: dict[tuple[int, int], float], best: int, taken: int, behind: int, mass: float) -> None:
    """The best is shown: the next best is the first behind it that is not among the `taken`."""
    skipped = 0
    while behind > taken:
        free = (behind - taken) / behind
        state = (best + 1 + skipped, taken)
        following[state] = following.get(state, 0.0) + mass * free
        if taken == 0:
            return
        mass *= 1 - free
        skipped, taken, behind = skipped + 1, taken - 1, behind - 1


def _numbers(marketplace: Marketplace, lists: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    number = marketplace.catalogue.number
    try:
        return np.array([[number[item] for item in items] for items in lists], dtype=np.int64)
    except KeyError as error:
        raise ValueError(
            f"{error} is not an item of this marketplace; was the model trained on another seed?"
        ) from error
