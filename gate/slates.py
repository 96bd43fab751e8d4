"""What another ranking would have put where a logged list put its items, slot by slot.

Serving fills slots from the top, ε-greedy over the candidates left (`serving/choosing/policy.py`). With r of them,

    P(item | the slots above, the candidates) = (1 − ε)·[item is the best left] + ε/r

and 0 for what is no candidate. Given the slots above *as they were logged*, this is the probability with which the
target would have shown the logged item in that slot. Weights of single slots stay below (1 − ε)·r/ε + 1; a list's own
weight, their product, would be beyond any log. So what is estimated is the value of each slot under the target where
the slots above it are the logging policy's, averaged over slots: exact for the first slot and for metrics on which the
slots above have no influence, an approximation otherwise.

Shapes: _N one entry per logged slot, _C one per candidate that may be left, _I one per item.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gate.off_policy import Array, RewardModel, cross_fitted

Codes = NDArray[np.int64]

PRIOR_ROWS = 20.0
"""An item's mean reward is shrunk towards all items' as if so many rows of it had that."""
NOTHING = -1


@dataclass(frozen=True)
class SlotTargets:
    """For each logged slot: the target's probability of what was logged, its best item left, and all items left.

    Items are codes from 0; NOTHING where no candidate is left, and behind the last one of `left_NC`.
    """

    probability_N: Array
    best_N: Codes
    left_NC: Codes


def slot_targets(
    shown: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]], *, exploration: float
) -> SlotTargets:
    """`shown`: per request the logged items by slot; `candidates`: the target's, best first. Both as codes from 0.

    Rows are the requests' slots in order. Raises ValueError for lists of unequal number, a repeated item, or an
    exploration outside [0, 1].
    """
    if len(shown) != len(candidates):
        raise ValueError(f"{len(shown)} lists shown and {len(candidates)} of candidates; pass one each a request")
    if not 0 <= exploration <= 1:
        raise ValueError(f"exploration {exploration} is outside [0, 1]")
    width = max((len(each) for each in candidates), default=0)
    rows = sum(len(each) for each in shown)
    probability_N, best_N = np.zeros(rows), np.full(rows, NOTHING, dtype=np.int64)
    left_NC = np.full((rows, width), NOTHING, dtype=np.int64)
    row = 0
    for slots, ranked in zip(shown, candidates, strict=True):
        if len(set(slots)) < len(slots) or len(set(ranked)) < len(ranked):
            raise ValueError(f"an item comes twice among {list(slots)} or the candidates {list(ranked)}")
        left = list(ranked)
        for item in slots:
            left_NC[row, : len(left)] = left
            if left:
                best_N[row] = left[0]
            if item in left:
                probability_N[row] = exploration / len(left) + (1 - exploration if item == left[0] else 0.0)
                left.remove(item)
            row += 1
    return SlotTargets(probability_N, best_N, left_NC)


def item_rewards(
    targets: SlotTargets,
    *,
    item_N: Codes,
    position_N: Codes,
    reward_N: Array,
    cluster_N: NDArray[np.generic],
    exploration: float,
    seed: int = 0,
) -> RewardModel:
    """A reward model for DR, cross-fitted over clusters: q̂(item, position) = mean of the item · of the position.

    An item's mean is shrunk towards the mean of all; a position's factor is its mean over the mean of all, shrunk in
    the same way. Crude, and that is enough: DR needs no right model, a fair one only makes it more exact.
    """
    items = int(max(item_N.max(initial=0), targets.left_NC.max(initial=0), targets.best_N.max(initial=0))) + 1
    positions = int(position_N.max(initial=0)) + 1

    def fit(train_N: NDArray[np.bool_]) -> RewardModel:
        overall = float(reward_N[train_N].mean()) if train_N.any() else 0.0
        mean_I = _shrunk(item_N[train_N], reward_N[train_N], size=items, towards=overall)
        factor_P = np.ones(positions)
        if overall > 0:
            factor_P = _shrunk(position_N[train_N], reward_N[train_N], size=positions, towards=overall) / overall
        padded_I = np.append(mean_I, 0.0)  # NOTHING is worth nothing
        left_N = (targets.left_NC != NOTHING).sum(axis=1)
        spread_N = padded_I[targets.left_NC].sum(axis=1) / np.maximum(left_N, 1)
        target_N = (1 - exploration) * padded_I[targets.best_N] + exploration * spread_N
        return RewardModel(factor_P[position_N] * mean_I[item_N], factor_P[position_N] * target_N)

    return cross_fitted(fit, cluster_N=cluster_N, seed=seed)


def _shrunk(code_N: Codes, reward_N: Array, *, size: int, towards: float) -> Array:
    count = np.bincount(code_N, minlength=size)
    total = np.bincount(code_N, weights=reward_N, minlength=size)
    shrunk: Array = (total + PRIOR_ROWS * towards) / (count + PRIOR_ROWS)
    return shrunk
