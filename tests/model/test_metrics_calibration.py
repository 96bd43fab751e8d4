import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.metrics.calibration import calibration_error, top_probability


def test_probability_of_the_best_by_hand() -> None:
    scores = np.log(np.array([[3.0, 1.0, 4.0], [1.0, 1.0, 2.0]]))
    assert top_probability(scores).tolist() == pytest.approx([4 / 8, 2 / 4])
    assert top_probability(scores + 500).tolist() == pytest.approx([4 / 8, 2 / 4])  # no overflow
    left_out = np.where([[False, False, True], [True, True, True]], -math.inf, scores)
    assert top_probability(left_out)[0] == pytest.approx(3 / 4)
    assert math.isnan(top_probability(left_out)[1])  # no candidates
    assert math.isnan(top_probability(np.zeros((1, 0)))[0])


def test_what_is_no_number_is_full_confidence() -> None:
    assert top_probability(np.array([[math.nan, 1.0], [math.inf, 1.0], [math.inf, math.inf]])).tolist() == [1, 1, 1]


def test_error_by_hand() -> None:
    """Two bins. (0, ½]: sure of .2 and .4, one of two right; (½, 1]: sure of .9, wrong.

    2/3 · |1/2 − .3| + 1/3 · |0 − .9|
    """
    found = calibration_error(np.array([0.2, 0.4, 0.9]), np.array([True, False, False]), bins=2)
    assert found == pytest.approx(2 / 3 * 0.2 + 1 / 3 * 0.9)
    assert calibration_error(np.array([0.5]), np.array([False]), bins=2) == 0.5  # the edge belongs to the lower bin
    assert calibration_error(np.zeros(0), np.zeros(0, dtype=bool)) == 0


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30))
def test_laws_of_the_error(rows: list[tuple[float, bool]]) -> None:
    confidence, correct = (np.array(each) for each in zip(*rows, strict=True))
    found = calibration_error(confidence, correct)
    assert 0 <= found <= 1
    # no less than the difference of the means, which one bin has
    assert found >= calibration_error(confidence, correct, bins=1) - 1e-12
    assert calibration_error(confidence, correct, bins=1) == pytest.approx(abs(confidence.mean() - correct.mean()))
    assert calibration_error(correct.astype(float), correct) == 0
