import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.metrics.ratings import mae, rating_errors, rmse


def test_errors_by_hand() -> None:
    predicted, true = np.array([4.0, 3.0, 1.0]), np.array([5.0, 3.0, 3.0])
    assert rmse(predicted, true) == pytest.approx(math.sqrt((1 + 0 + 4) / 3))
    assert mae(predicted, true) == pytest.approx((1 + 0 + 2) / 3)
    assert rmse(true, true) == mae(true, true) == 0


def test_only_what_was_rated_counts() -> None:
    """Users 0 and 1 with errors 1 and 2, and an unrated row: draws have mean squares 1, 5/2 or 4."""
    found = rating_errors(np.array([4.0, 3.0, math.nan]), np.array([5.0, 1.0, math.nan]), user_N=np.array([0, 1, 1]))
    assert found.overall == {"rmse": pytest.approx(math.sqrt(5 / 2)), "mae": 3 / 2, "rows": 2}
    assert found.intervals == {"rmse": (1, 2), "mae": (1, 2)}
    alone = rating_errors(np.array([4.0]), np.array([5.0]), user_N=np.array([0]))
    assert (alone.overall["rmse"], alone.intervals) == (1, {})
    assert rating_errors(np.array([4.0]), np.array([math.nan]), user_N=np.array([0])).overall == {"rows": 0}


def test_a_prediction_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rating 1 is 2\.0 and predicted as nan"):
        rmse(np.array([1.0, math.nan]), np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="equally many ratings"):
        mae(np.zeros(0), np.zeros(0))
    with pytest.raises(ValueError, match="equally many ratings"):
        rating_errors(np.zeros(1), np.zeros(2), user_N=np.zeros(2))


@given(errors=st.lists(st.floats(-10, 10), min_size=1, max_size=20))
def test_the_mean_error_is_at_most_the_root_of_the_squares(errors: list[float]) -> None:
    error = np.array(errors)
    assert mae(error, np.zeros(len(error))) <= rmse(error, np.zeros(len(error))) + 1e-12
