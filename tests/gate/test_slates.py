"""Slots of a logged list under another ranking: by hand, against serving's own policy, and against the truth."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate.off_policy import Estimator, OffPolicy, evaluate_policy
from gate.slates import NOTHING, item_rewards, slot_targets
from serving.choosing.policy import epsilon_greedy


def test_slots_by_hand() -> None:
    """ε = .2; shown 7, 5, 9. Candidates 5, 7, 8: 7 is not the best of three, 5 the best of two, 9 no candidate."""
    found = slot_targets([[7, 5, 9]], [[5, 7, 8]], exploration=0.2)
    assert found.probability_N == pytest.approx([0.2 / 3, 0.8 + 0.2 / 2, 0.0])
    assert found.best_N.tolist() == [5, 5, 8]
    assert found.left_NC.tolist() == [[5, 7, 8], [5, 8, NOTHING], [8, NOTHING, NOTHING]]


def test_more_slots_than_candidates_leave_nothing() -> None:
    found = slot_targets([[1, 2], []], [[1], [3]], exploration=0.5)
    assert found.probability_N.tolist() == [1.0, 0.0]
    assert found.best_N.tolist() == [1, NOTHING]


@given(
    candidates=st.permutations(range(8)),
    k=st.integers(1, 8),
    exploration=st.floats(0, 0.99),
    request=st.text(max_size=9),
)
def test_servings_own_lists_have_servings_own_propensities(
    candidates: list[int], k: int, exploration: float, request: str
) -> None:
    """The champion on its own log weighs 1 everywhere: the policy's formula is stated twice, and the same."""
    slots = epsilon_greedy(candidates=8, k=k, exploration=exploration, request_id=request)
    shown = [candidates[slot.candidate] for slot in slots]
    found = slot_targets([shown], [candidates], exploration=exploration)
    assert found.probability_N == pytest.approx([slot.propensity for slot in slots], rel=1e-12)


@given(st.permutations(range(6)), st.permutations(range(6)), st.floats(0, 1))
def test_a_slots_probabilities_sum_to_one(shown: list[int], ranked: list[int], exploration: float) -> None:
    """Whatever the slots above were, over all items that the slot could have held."""
    for slot in range(6):
        lists = [[*shown[:slot], item] for item in shown[slot:]]
        found = slot_targets(lists, [ranked] * len(lists), exploration=exploration)
        ends = np.cumsum([len(each) for each in lists]) - 1
        assert found.probability_N[ends].sum() == pytest.approx(1)


def _log(seed: int, *, requests: int = 1_500) -> tuple[OffPolicy, float]:
    """Users of one taste, six items of known rates, two slots; the target ranks them another way."""
    chance = np.random.default_rng(seed)
    rate_I = np.array([0.5, 0.4, 0.3, 0.2, 0.1, 0.05])
    decay_P, exploration = np.array([1.0, 0.6]), 0.5
    logged, target = [2, 0, 1, 3, 4, 5], [0, 1, 2, 3, 4, 5]
    shown, propensity = [], []
    for number in range(requests):
        slots = epsilon_greedy(candidates=6, k=2, exploration=exploration, request_id=f"{seed}-{number}")
        shown.append([logged[slot.candidate] for slot in slots])
        propensity += [slot.propensity for slot in slots]
    item = np.array(shown).ravel()
    position = np.tile([0, 1], requests)
    reward = (chance.random(len(item)) < rate_I[item] * decay_P[position]).astype(float)
    user = np.repeat(np.arange(requests) // 3, 2)
    targets = slot_targets(shown, [target] * requests, exploration=exploration)
    model = item_rewards(
        targets, item_N=item, position_N=position, reward_N=reward, cluster_N=user, exploration=exploration
    )
    found = evaluate_policy(
        reward_N=reward, target_N=targets.probability_N, propensity_N=propensity, cluster_N=user, model=model
    )
    # The truth of the estimand: each slot's value under the target, given the logged slots above
    truth = []
    for first, _ in shown:
        left = [each for each in target if each != first]
        truth.append(0.5 * rate_I[0] + 0.5 * rate_I.mean())
        truth.append(0.6 * (0.5 * rate_I[left[0]] + 0.5 * rate_I[left].mean()))
    return found, float(np.mean(truth))


def test_the_truth_of_each_slot_lies_in_the_interval() -> None:
    """60 logs: jointly covered in at least 95 % − 3 SE; DR is the most exact of the three."""
    runs = [_log(seed) for seed in range(60)]
    held = [all(each.lower <= truth <= each.upper for each in found.values) for found, truth in runs]
    assert not any(found.refused for found, _ in runs)
    assert np.mean(held) >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / len(runs))
    errors = {kind: np.mean([found.value(kind).standard_error for found, _ in runs]) for kind in Estimator}
    assert errors[Estimator.DR] < errors[Estimator.IPS]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([[1]], [], 0.1), "1 lists shown and 0"),
        (([[1, 1]], [[1]], 0.1), "comes twice"),
        (([[1]], [[2, 2]], 0.1), "comes twice"),
        (([[1]], [[1]], 1.5), "exploration 1.5"),
    ],
)
def test_lists_that_cannot_be_are_refused(arguments: Any, said: str) -> None:
    shown, candidates, exploration = arguments
    with pytest.raises(ValueError, match=said):
        slot_targets(shown, candidates, exploration=exploration)
