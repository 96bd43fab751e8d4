import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate.mismatch import log_bayes_factor, mismatch_p

HALF = (0.5, 0.5)


@pytest.mark.parametrize(
    ("counts", "odds", "p"), [((50_500, 49_500), 3.3466, "0.0352"), ((101_000, 99_000), 8.0017, "0.000335")]
)
def test_reference_values(counts, odds, p):
    assert round(float(log_bayes_factor(np.array(counts, float), expected_A=HALF)), 4) == odds  # to the printed digits
    assert f"{mismatch_p([counts], expected=HALF):.3g}" == p


def test_one_bad_look_is_never_forgotten():
    bad, good = (101_000, 99_000), (1_000_000, 1_000_000)
    assert mismatch_p([bad, good], expected=HALF) == mismatch_p([bad], expected=HALF)


def test_nothing_seen_is_no_evidence():
    assert mismatch_p([], expected=HALF) == 1.0
    assert mismatch_p([(0, 0)], expected=HALF) == 1.0


def test_an_uneven_split_is_judged_against_what_was_declared():
    assert mismatch_p([(95_000, 5_000)], expected=(0.95, 0.05)) == 1.0
    assert mismatch_p([(95_000, 5_000)], expected=HALF) < 1e-6


@given(a=st.integers(0, 10**6), b=st.integers(0, 10**6))
def test_the_arms_are_alike(a, b):
    assert mismatch_p([(a, b)], expected=HALF) == pytest.approx(mismatch_p([(b, a)], expected=HALF), rel=1e-6)


def test_shares_must_be_shares():
    with pytest.raises(ValueError, match="sum to 1"):
        mismatch_p([(1, 1)], expected=(0.5, 0.6))
