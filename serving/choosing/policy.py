"""The logging policy: ε-greedy, slot by slot, with exact propensities.

At each slot, with r candidates left: with probability 1 − ε the best of them, else one drawn uniformly from all r.

    P(item | the slots above, the candidates) = (1 − ε)·[item is the best left] + ε/r

which sums to 1 over the r items of a slot. The draws come from the request id alone, so that an answer can be repeated.
"""

import hashlib
import struct
from dataclasses import dataclass

_UNIT = 1.0 / (1 << 53)


@dataclass(frozen=True, slots=True)
class Slot:
    candidate: int
    """Index into the candidates, best first."""
    propensity: float
    explored: bool
    """Drawn uniformly; the draw may have hit the best."""


def epsilon_greedy(*, candidates: int, k: int, exploration: float, request_id: str) -> list[Slot]:
    """Fill min(k, candidates) slots from the candidates 0 … candidates − 1, which are in order, best first."""
    left = list(range(candidates))
    draws = _uniform(request_id, min(k, candidates))
    slots = []
    for u in draws:
        r = len(left)
        explored = u < exploration
        # Given u < ε, u/ε is uniform on [0, 1): one draw decides both. `min` guards the rounding of u/ε up to 1.
        at = min(int(u / exploration * r), r - 1) if explored else 0
        propensity = exploration / r + (1.0 - exploration if at == 0 else 0.0)
        slots.append(Slot(left.pop(at), propensity, explored))
    return slots


def _uniform(seed: str, n: int) -> list[float]:
    """`n` numbers in [0, 1), multiples of 2⁻⁵³, from SHAKE-128 of `seed`: the same on every Python."""
    words = struct.unpack(f"<{n}Q", hashlib.shake_128(seed.encode()).digest(8 * n))
    return [(word >> 11) * _UNIT for word in words]
