"""Errors of predicted ratings, in units of the rating.

Shapes: N ratings.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from model.metrics.intervals import mean_intervals


@dataclass(frozen=True)
class RatingErrors:
    """`overall`: rmse, mae and rows; without ratings the errors are absent, as 0 would look perfect.

    `intervals`: 95 % over users, none for fewer than two.
    """

    overall: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]


def rating_errors(
    predicted_N: np.ndarray, true_N: np.ndarray, *, user_N: np.ndarray, draws: int = 1000
) -> RatingErrors:
    """Errors where `true_N` is a number, with bootstrap intervals over users; the RMSE's is that of its square.

    Raises ValueError for unequal lengths and for a prediction that is no number where there is a rating.
    """
    if not len(predicted_N) == len(true_N) == len(user_N):
        raise ValueError(f"need equally many ratings: {len(predicted_N)}, {len(true_N)}, {len(user_N)}")
    rated_N = ~np.isnan(true_N)
    if not rated_N.any():
        return RatingErrors({"rows": 0}, {})
    predicted_N, true_N, user_N = predicted_N[rated_N], true_N[rated_N], user_N[rated_N]
    overall = {"rmse": rmse(predicted_N, true_N), "mae": mae(predicted_N, true_N), "rows": len(true_N)}
    if len(np.unique(user_N)) < 2:
        return RatingErrors(overall, {})
    error_N = _errors(predicted_N, true_N)
    found = mean_intervals({"square": np.square(error_N), "mae": np.abs(error_N)}, user_R=user_N, draws=draws)
    low, high = found["square"]
    return RatingErrors(overall, {"rmse": (float(np.sqrt(low)), float(np.sqrt(high))), "mae": found["mae"]})


def rmse(predicted_N: np.ndarray, true_N: np.ndarray) -> float:
    """√(mean (predicted − true)²). Raises ValueError without ratings, for unequal lengths, and for what is no number.

    Source: Herlocker et al., ACM TOIS 2004, §4.1.1.
    """
    return float(np.sqrt(np.square(_errors(predicted_N, true_N)).mean()))


def mae(predicted_N: np.ndarray, true_N: np.ndarray) -> float:
    """mean |predicted − true|; raises and source as `rmse`. At most the RMSE."""
    return float(np.abs(_errors(predicted_N, true_N)).mean())


def _errors(predicted_N: np.ndarray, true_N: np.ndarray) -> np.ndarray:
    if not len(predicted_N) or len(predicted_N) != len(true_N):
        raise ValueError(f"need equally many ratings, at least one: {len(predicted_N)}, {len(true_N)}")
    error_N = np.asarray(predicted_N, dtype=np.float64) - np.asarray(true_N, dtype=np.float64)
    broken = np.flatnonzero(~np.isfinite(error_N))
    if len(broken):
        at = broken[0]
        raise ValueError(
            f"rating {at} is {true_N[at]} and predicted as {predicted_N[at]}; leave out what has no rating"
        )
    return error_N
