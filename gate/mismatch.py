"""Sequential sample-ratio mismatch: were users split as declared? Valid at every look, however many there are.

Source: Lindon & Malek, "Anytime-valid inference for multinomial count data", arXiv 2011.03567 (Dirichlet prior centred
on the declared split). A mismatch means that the arms hold different kinds of users: nothing measured on them counts.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

CONCENTRATION = 1e4
"""c: how closely around the declared split the prior of a mismatch lies. Fixed before any trial."""


def log_bayes_factor(
    counts_A: NDArray[np.float64], *, expected_A: Sequence[float], concentration: float = CONCENTRATION
) -> NDArray[np.float64]:
    """ln of the odds for a mismatch, ln B(c·p₀ + x) − ln B(c·p₀) − Σ x·ln p₀. Last axis: one entry per arm.

    0 for no users. Raises ValueError unless `expected_A` are positive shares that sum to 1.
    """
    p_A = np.asarray(expected_A, dtype=np.float64)
    if np.any(p_A <= 0) or not math.isclose(float(p_A.sum()), 1.0, rel_tol=1e-9):
        raise ValueError(f"expected shares {tuple(expected_A)} must be positive and sum to 1")
    prior_A = concentration * p_A
    posterior_A = prior_A + counts_A
    odds = _log_beta(posterior_A) - _log_beta(prior_A) - (counts_A * np.log(p_A)).sum(axis=-1)
    return np.asarray(odds, dtype=np.float64)


def mismatch_p(history: Iterable[Sequence[int]], *, expected: Sequence[float]) -> float:
    """Anytime-valid p: the minimum over the looks so far of 1/BF, at most 1.

    `history`: the users per arm at each look, cumulative. No looks: 1.
    """
    counts_KA = np.array([tuple(counts) for counts in history], dtype=np.float64).reshape(-1, len(expected))
    if not len(counts_KA):
        return 1.0
    return float(np.exp(-max(0.0, float(log_bayes_factor(counts_KA, expected_A=expected).max()))))


def _log_beta(parameters_A: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(gammaln(parameters_A).sum(axis=-1) - gammaln(parameters_A.sum(axis=-1)), dtype=np.float64)
