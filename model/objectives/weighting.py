"""Weights of targets that are known before training: what the logging policy made likely, and who looks like a bot.

Shapes: N events, U users. Arrays, because they are computed once from the flat histories, not for each batch.
"""

from dataclasses import dataclass

import numpy as np

from relations.errors import DataRejected

MIN_EVENTS = 20
"""Nobody is called a bot by fewer events."""
HOUR_US = 3_600_000_000


def ips_weight(propensity_N: np.ndarray, *, clip: float, self_normalised: bool = True) -> np.ndarray:
    """min(1/propensity, clip) for each logged exposure, float32 [N]; NaN (not an exposure of ours) weighs 1.

    Unclipped, Σ wℓ/N is an unbiased estimate of the loss under uniform exposure; `clip` ≥ 1 bounds the variance for a
    bias towards what was shown often. Self-normalised, the weights of the exposures are divided by their mean, which
    keeps the estimate in the loss's own range and the exposures as weighty as other events. Sources: Swaminathan &
    Joachims, JMLR 2015 (clipping) and NeurIPS 2015 (self-normalised). A trainer that divides by Σ w of each batch
    normalises once more, batch by batch.
    Raises DataRejected for a propensity outside (0, 1]: an epsilon would hide a logging bug.
    """
    logged_N = ~np.isnan(propensity_N)
    bad = np.flatnonzero(logged_N & ~((propensity_N > 0) & (propensity_N <= 1)))
    if len(bad):
        raise DataRejected(
            f"exposures: propensity {propensity_N[bad[0]]} of row {bad[0]} is not in (0, 1]; repair the log, or mark "
            f"the exposure unusable ({len(bad)} such rows)"
        )
    weight_N = np.ones(len(propensity_N))
    weight_N[logged_N] = np.minimum(1 / propensity_N[logged_N], clip)
    if self_normalised and logged_N.any():
        weight_N[logged_N] /= weight_N[logged_N].mean()
    return weight_N.astype(np.float32)


@dataclass(frozen=True)
class Activity:
    """How each user behaves: events an hour (between the first and the last, over at least one hour), and the entropy
    of the items over its maximum log n, in [0, 1]; 0 is one item again and again."""

    events_U: np.ndarray
    rate_U: np.ndarray
    entropy_U: np.ndarray


def measure_activity(item_N: np.ndarray, time_N: np.ndarray, offsets_U1: np.ndarray) -> Activity:
    """`time_N` in microseconds, ascending within a user; each user has at least one event."""
    events_U = np.diff(offsets_U1)
    hours_U = np.maximum(1.0, (time_N[offsets_U1[1:] - 1] - time_N[offsets_U1[:-1]]) / HOUR_US)
    user_N = np.repeat(np.arange(len(events_U)), events_U)
    pair_N = user_N * (int(item_N.max(initial=0)) + 1) + item_N
    _, first_P, count_P = np.unique(pair_N, return_index=True, return_counts=True)
    user_P = user_N[first_P]
    share_P = count_P / events_U[user_P]
    entropy_U = np.bincount(user_P, weights=-share_P * np.log(share_P), minlength=len(events_U))
    entropy_U = np.where(events_U > 1, entropy_U / np.log(np.maximum(events_U, 2)), 1.0)
    return Activity(events_U, events_U / hours_U, np.clip(entropy_U, 0.0, 1.0))


def bot_weight(activity: Activity, *, threshold: float) -> np.ndarray:
    """Weights in (0, 1] of users, float32 [U]: min(1, c/z) for too fast times min(1, c/z) for too repetitive.

    z are robust standard scores among the users of at least `MIN_EVENTS` events: of the log rate upwards, of the
    entropy downwards. min(1, c/|z|) is Huber's weight function (Huber, Annals of Mathematical Statistics 1964):
    nobody is dropped, and c = `threshold` scores from the median nobody is touched. Users with fewer events weigh 1.
    """
    judged_U = activity.events_U >= MIN_EVENTS
    weight_U = np.ones(len(judged_U), dtype=np.float32)
    for score_U in (np.log(activity.rate_U), -activity.entropy_U):
        z = _robust_score(score_U[judged_U])
        weight_U[judged_U] *= threshold / np.maximum(z, threshold)
    return weight_U


def _robust_score(x: np.ndarray) -> np.ndarray:
    """(x − median)/(1.4826·MAD); where half the values are equal 1.2533·mean deviation, where all are, 0.

    Both factors make the scale a standard deviation for normal values. Source: Iglewicz & Hoaglin 1993.
    """
    if not len(x):
        return x
    deviation = np.abs(x - np.median(x))
    scale = 1.4826 * np.median(deviation) or 1.2533 * deviation.mean() or 1.0
    return np.asarray((x - np.median(x)) / scale)
