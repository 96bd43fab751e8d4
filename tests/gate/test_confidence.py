import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate.confidence import holm, one_sided_p, one_sided_width, tuned_rho, two_sided_width


def test_reference_values():
    rho = tuned_rho(alpha=0.05, users=1e4)
    assert round(rho, 8) == 0.02817118  # to the printed digits, as the next two
    assert round(two_sided_width(1e4, rho=rho, alpha=0.05), 6) == 3.035209
    assert round(one_sided_width(1e4, rho=rho, alpha=0.025), 6) == 3.041357


def test_arrays_and_numbers_agree():
    rho = tuned_rho(alpha=0.05, users=1e4)
    users = np.array([100.0, 1e4])
    assert two_sided_width(users, rho=rho, alpha=0.05)[1] == two_sided_width(1e4, rho=rho, alpha=0.05)
    assert one_sided_width(users, rho=rho, alpha=0.025)[0] == one_sided_width(100.0, rho=rho, alpha=0.025)


def test_rho_makes_the_sequence_tightest_where_it_is_tuned():
    rho = tuned_rho(alpha=0.05, users=5_000)
    best = two_sided_width(5_000.0, rho=rho, alpha=0.05)
    assert best < two_sided_width(5_000.0, rho=rho * 1.3, alpha=0.05)
    assert best < two_sided_width(5_000.0, rho=rho / 1.3, alpha=0.05)


@given(alpha=st.floats(1e-6, 0.3), users=st.integers(2, 10**6), n_max=st.integers(10, 10**6))
def test_p_inverts_the_one_sided_bound(alpha, users, n_max):
    rho = tuned_rho(alpha=0.02, users=n_max)
    width = one_sided_width(float(users), rho=rho, alpha=alpha)
    assert one_sided_p(-width, users=users, rho=rho) == pytest.approx(alpha, rel=1e-6)
    assert one_sided_p(width, users=users, rho=rho) == 1.0


def test_p_of_an_absurd_effect_is_zero_not_an_overflow():
    assert one_sided_p(-1e3, users=1e4, rho=0.03) == 0.0


def test_holm_steps_down():
    # 0.002 ≤ 0.01/3, then 0.004 ≤ 0.01/2, then 0.02 > 0.01/1: stop.
    assert holm({"a": 0.004, "b": 0.02, "c": 0.002}, alpha=0.01) == ("c", "a")
    # The smallest misses 0.01/2, so nothing is rejected though 0.006 alone would pass 0.01.
    assert holm({"a": 0.006, "b": 0.006}, alpha=0.01) == ()
    assert holm({}, alpha=0.01) == ()


def test_refusals_name_the_value():
    with pytest.raises(ValueError, match=r"1\.5"):
        tuned_rho(alpha=1.5, users=10)
    with pytest.raises(ValueError, match="n_max"):
        tuned_rho(alpha=0.05, users=0)
