"""Whether a recommender's probabilities come true.

Shapes: R rows, V items, N bins.
"""

import numpy as np

BINS = 15
"""Equal-width bins of the confidence, as in Guo et al., ICML 2017, §4.1."""


def top_probability(score_RV: np.ndarray) -> np.ndarray:
    """Probability of the best candidate under the softmax of the scores, which count as logits; −inf is no candidate.

    1 / Σ exp(s − max s). 1 where a candidate's score is no number or +inf: full confidence in a top item that cannot
    be trusted, which never helps. NaN without candidates.
    """
    best_R = score_RV.max(axis=1, initial=-np.inf)
    with np.errstate(invalid="ignore", divide="ignore"):
        confidence_R = 1 / np.exp(score_RV - best_R[:, None]).sum(axis=1)
    confidence_R = np.where(np.isnan(confidence_R), 1.0, confidence_R)
    return np.where(best_R == -np.inf, np.nan, confidence_R)


def gaps(confidence_R: np.ndarray, correct_R: np.ndarray, *, bins: int = BINS) -> np.ndarray:
    """Float [R, N]: correct − confidence in the row's bin ((n − 1)/N, n/N] of the confidence, 0 elsewhere."""
    found_RN = np.zeros((len(confidence_R), bins))
    bin_R = np.clip(np.ceil(confidence_R * bins).astype(np.int64) - 1, 0, bins - 1)
    found_RN[np.arange(len(bin_R)), bin_R] = correct_R - confidence_R
    return found_RN


def calibration_error(confidence_R: np.ndarray, correct_R: np.ndarray, *, bins: int = BINS) -> float:
    """Expected calibration error Σ_n (rows of bin n / R) |accuracy − mean confidence| of the top item; 0 without rows.

    0 where the top item is right as often as its probability says, 1 for one that is always sure and always wrong.
    Source: Naeini et al., AAAI 2015; Guo et al., ICML 2017, eq. 5.
    """
    return float(np.abs(gaps(confidence_R, correct_R, bins=bins).sum(axis=0)).sum() / max(1, len(confidence_R)))
