from collections import Counter
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.choosing.policy import epsilon_greedy


def test_propensities_by_hand() -> None:
    slots = epsilon_greedy(candidates=4, k=2, exploration=0.0, request_id="any")
    assert [(slot.candidate, slot.propensity, slot.explored) for slot in slots] == [(0, 1.0, False), (1, 1.0, False)]
    first = epsilon_greedy(candidates=4, k=1, exploration=0.2, request_id="a")[0]
    assert first.propensity == pytest.approx(0.8 + 0.2 / 4 if first.candidate == 0 else 0.2 / 4)


@settings(max_examples=300)
@given(
    candidates=st.integers(0, 60),
    k=st.integers(1, 100),
    exploration=st.floats(0, 0.999),
    request_id=st.text(max_size=9),
)
def test_laws(candidates: int, k: int, exploration: float, request_id: str) -> None:
    slots = epsilon_greedy(candidates=candidates, k=k, exploration=exploration, request_id=request_id)
    assert slots == epsilon_greedy(candidates=candidates, k=k, exploration=exploration, request_id=request_id)
    assert len(slots) == min(k, candidates)
    assert len({slot.candidate for slot in slots}) == len(slots)
    left = list(range(candidates))
    for slot in slots:
        best, r = left[0], len(left)
        of_best, of_other = (1 - exploration) + exploration / r, exploration / r
        assert of_best + (r - 1) * of_other == pytest.approx(1.0)  # a slot's propensities sum to 1
        assert slot.propensity == pytest.approx(of_best if slot.candidate == best else of_other)
        assert 0 < slot.propensity <= 1 + 1e-12
        assert slot.explored or slot.candidate == best
        left.remove(slot.candidate)


def test_slates_come_as_often_as_their_propensities_say() -> None:
    n, shown, claimed = 60_000, Counter[tuple[int, ...]](), {}
    for number in range(n):
        slots = epsilon_greedy(candidates=3, k=2, exploration=0.3, request_id=f"r{number}")
        slate = tuple(slot.candidate for slot in slots)
        shown[slate] += 1
        claimed[slate] = prod(slot.propensity for slot in slots)
    # (0,1): (.7 + .1)(.7 + .15); (0,2): (.7 + .1)(.15); (1,0): (.1)(.7 + .15); …
    assert claimed[0, 1] == pytest.approx(0.8 * 0.85)
    assert claimed[1, 2] == pytest.approx(0.1 * 0.15)
    assert len(claimed) == 6
    assert sum(claimed.values()) == pytest.approx(1.0)
    for slate, share in claimed.items():
        assert abs(shown[slate] - share * n) < 4 * (share * (1 - share) * n) ** 0.5


def test_inverse_propensity_weights_average_to_one() -> None:
    """Weights of the uniform policy on our log: E[1/(r·p)] = 1 in each slot."""
    weights = [0.0, 0.0]
    n = 40_000
    for number in range(n):
        for position, slot in enumerate(
            epsilon_greedy(candidates=3, k=2, exploration=0.5, request_id=f"w{number}"), start=0
        ):
            weights[position] += 1 / ((3 - position) * slot.propensity)
    assert [weight / n for weight in weights] == pytest.approx([1.0, 1.0], abs=0.02)
