"""By hand on four users an arm, against numpy's covariance on random ones, and by laws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.estimator import SUMS, ArmSums, estimate, products, total

NOTHING = np.zeros(4)


def arm(outcomes, impressions, before=None, impressions_before=None):
    zero = np.zeros(len(outcomes))
    return ArmSums.from_users(
        np.array(outcomes, float),
        np.array(impressions, float),
        zero if before is None else np.array(before, float),
        zero if impressions_before is None else np.array(impressions_before, float),
    )


def random_users(rng, n, *, rate=0.1):
    taste = rng.beta(2, 2 / rate - 2, n)
    impressions, impressions_before = 1 + rng.poisson(8, n), rng.poisson(8, n)
    return (
        rng.binomial(impressions, taste).astype(float),
        impressions.astype(float),
        rng.binomial(impressions_before, taste).astype(float),
        impressions_before.astype(float),
    )


def test_sums_by_hand():
    found = arm([1, 2], [4, 6], [1, 3], [5, 7])
    expected = {"n": 2, "s": 3, "i": 10, "s0": 4, "i0": 12, "ss": 5, "si": 16, "ii": 52}
    expected |= {"s_s0": 7, "s_i0": 19, "i_s0": 22, "i_i0": 62, "s0s0": 10, "s0i0": 26, "i0i0": 74}
    assert found.as_json() == expected
    assert ArmSums.from_mapping(found.as_json()) == found
    assert tuple(found.as_json()) == SUMS


def test_rates_and_delta_method_by_hand():
    # A: S = 1,0,2,1 of N = 2 each → R = 4/8; ψ = (S − N/2)/2 = 0, −1/2, 1/2, 0; s² = (1/4 + 1/4)/3 = 1/6
    # B: S = 2,1,2,1 of N = 2 each → R = 6/8; ψ = (S − 3/2)/2 = 1/4, −1/4, 1/4, −1/4; s² = (4/16)/3 = 1/12
    found = estimate(arm([1, 0, 2, 1], [2] * 4).array(), arm([2, 1, 2, 1], [2] * 4).array())
    assert float(found.champion_rate) == 4 / 8
    assert float(found.challenger_rate) == 6 / 8
    assert float(found.delta) == pytest.approx(2 / 8)
    assert float(found.champion_variance) == pytest.approx(1 / 6 / 4)
    assert float(found.challenger_variance) == pytest.approx(1 / 12 / 4)
    assert float(found.standard_error) == pytest.approx(np.sqrt(1 / 24 + 1 / 48))
    assert float(found.lift) == pytest.approx((2 / 8) / (4 / 8))


def test_unequal_impressions_by_hand():
    # S = 1,1 of N = 1,3 → R = 2/4, N̄ = 2; ψ = (1 − 1/2)/2, (1 − 3/2)/2 = 1/4, −1/4; s² = 2/16; Var R = 1/16
    found = estimate(arm([1, 1], [1, 3]).array(), arm([1, 1], [1, 3]).array())
    assert float(found.champion_variance) == pytest.approx(1 / 16)
    assert float(found.delta) == 0


def test_cuped_with_one_covariate_by_hand():
    # N = 1 throughout, so ψ = S − R. A: S = 0,1,0,1, S0 = 0,2,0,2: c = 4·(½·1)/3 = 2/3, C = 4/3, s² = 1/3.
    # B: S = 1,1,0,1, S0 = 2,2,0,0: S̄ = 3/4, S̄0 = 1; c = (2+2+0+0 − 4·3/4·1)/3 = 1/3, C = 4/3, s² = (3 − 9/4)/3 = 1/4.
    # θ = (2/3 + 1/3)/(4/3 + 4/3) = 3/8; S̄0 is 1 in both, so Δ_adj = 3/4 − 2/4.
    # Var: A 1/3 − 2·3/8·2/3 + 9/64·4/3 = 1/48; B 1/4 − 2·3/8·1/3 + 9/64·4/3 = 3/16.
    champion = arm([0, 1, 0, 1], [1] * 4, [0, 2, 0, 2], [1] * 4)
    challenger = arm([1, 1, 0, 1], [1] * 4, [2, 2, 0, 0], [1] * 4)
    found = estimate(champion.array(), challenger.array())
    assert float(found.delta) == pytest.approx(1 / 4)
    assert float(found.standard_error) == pytest.approx(np.sqrt((1 / 48 + 3 / 16) / 4))
    assert float(found.raw_standard_error) == pytest.approx(np.sqrt((1 / 3 + 1 / 4) / 4))
    assert float(found.covariance) == pytest.approx(-(1 / 3 - 3 / 8 * 2 / 3) / 4)


def test_cuped_moves_the_estimate_by_the_imbalance():
    champion = arm([0, 1, 0, 1], [1] * 4, [0, 2, 0, 2], [1] * 4)
    lucky = arm([1, 1, 0, 1], [1] * 4, [2, 4, 0, 2], [1] * 4)  # S̄0 = 2 against 1
    found = estimate(champion.array(), lucky.array())
    # c_B = (2 + 4 + 0 + 2 − 4·3/4·2)/3 = 2/3, C_B = (24 − 16)/3 = 8/3 → θ = (2/3 + 2/3)/(4/3 + 8/3) = 1/3
    assert float(found.raw_delta) == pytest.approx(1 / 4)
    assert float(found.delta) == pytest.approx(1 / 4 - 1 / 3)


def test_two_covariates_agree_with_linear_algebra():
    rng = np.random.default_rng(3)
    a, b = random_users(rng, 400), random_users(rng, 300)

    def pieces(users):
        s, i, s0, i0 = users
        rate = s.sum() / i.sum()
        psi, x = (s - rate * i) / i.mean(), np.stack([s0, i0])
        joint = np.cov(np.vstack([psi, x]))
        return rate, x.mean(axis=1), joint[0, 0], joint[0, 1:], joint[1:, 1:], len(s)

    (ra, xa, va, ca, Ca, na), (rb, xb, vb, cb, Cb, nb) = pieces(a), pieces(b)
    theta = np.linalg.solve(Ca + Cb, ca + cb)
    variance = sum((v - 2 * theta @ c + theta @ C @ theta) / n for v, c, C, n in ((va, ca, Ca, na), (vb, cb, Cb, nb)))
    found = estimate(ArmSums.from_users(*a).array(), ArmSums.from_users(*b).array())
    assert float(found.delta) == pytest.approx(rb - ra - theta @ (xb - xa), rel=1e-9)
    assert float(found.standard_error) == pytest.approx(np.sqrt(variance), rel=1e-9)
    assert float(found.standard_error) < 0.95 * float(found.raw_standard_error)


@pytest.mark.parametrize("repeat", ["none", "same", "constant"])
def test_covariates_that_say_nothing_change_nothing(repeat):
    s, i = [1, 0, 2, 1], [2, 3, 2, 4]
    before = {"none": NOTHING, "same": [1, 0, 1, 1], "constant": [5] * 4}[repeat]
    found = estimate(arm(s, i, before, before).array(), arm([2, 1, 2, 1], i, before, before).array())
    alone = estimate(arm(s, i, before, NOTHING).array(), arm([2, 1, 2, 1], i, before, NOTHING).array())
    assert np.isfinite(found.standard_error)
    assert float(found.delta) == pytest.approx(float(alone.delta))
    assert float(found.standard_error) == pytest.approx(float(alone.standard_error))


def test_standard_error_against_the_bootstrap():
    rng = np.random.default_rng(5)
    a, b = random_users(rng, 600), random_users(rng, 600)
    found = estimate(ArmSums.from_users(*a).array(), ArmSums.from_users(*b).array(), adjust=False)
    weights = [rng.multinomial(600, np.full(600, 1 / 600), size=2_000) for _ in range(2)]
    draws = (weights[1] @ b[0]) / (weights[1] @ b[1]) - (weights[0] @ a[0]) / (weights[0] @ a[1])
    assert float(found.standard_error) == pytest.approx(draws.std(), rel=0.06)


def test_fieller_by_hand():
    # N = 1, no covariates: A: R = 1/2, Var = 1/12; B: R = 3/4, Var = 1/16. Ends: (3/4 − (1+r)/2)² = 1/16 + (1+r)²/12
    found = estimate(arm([0, 1, 0, 1], [1] * 4).array(), arm([1, 1, 0, 1], [1] * 4).array())
    lower, upper = (float(end) for end in found.lift_interval(1.0))
    for r in (lower, upper):
        assert (3 / 4 - (1 + r) / 2) ** 2 == pytest.approx(1 / 16 + (1 + r) ** 2 / 12)
    assert all(np.isnan(found.lift_interval(4.0)))  # the champion's rate is 1.7 errors from 0


def test_no_users_and_no_outcomes():
    empty = estimate(ArmSums().array(), ArmSums().array())
    assert np.isnan(empty.delta)
    silent = estimate(arm([0] * 4, [2] * 4).array(), arm([0] * 4, [2] * 4).array())
    assert float(silent.z) == 0.0
    assert np.isnan(silent.lift)
    assert all(np.isnan(silent.lift_interval(2.0)))


def test_leading_axes_are_independent_comparisons():
    rng = np.random.default_rng(11)
    arms = [[ArmSums.from_users(*random_users(rng, 50)).array() for _ in range(3)] for _ in range(2)]
    stacked = estimate(np.stack(arms[0]), np.stack(arms[1]))
    for place in range(3):
        alone = estimate(arms[0][place], arms[1][place])
        assert float(alone.delta) == stacked.delta[place]
        assert float(alone.standard_error) == stacked.standard_error[place]


users = st.lists(
    st.tuples(*(st.integers(0, 20), st.integers(1, 30), st.integers(0, 20), st.integers(0, 30))),
    min_size=3,
    max_size=30,
)


def sums_of(rows):
    return ArmSums.from_users(*(np.array(column, float) for column in zip(*rows, strict=True)))


@given(users=users, seed=st.integers(0, 99))
def test_order_of_users_is_irrelevant_and_parts_add_up(users, seed):
    shuffled = [users[place] for place in np.random.default_rng(seed).permutation(len(users))]
    cut = seed % (len(users) - 1) + 1
    assert sums_of(shuffled) == sums_of(users)
    assert total([sums_of(users[:cut]), sums_of(users[cut:])]) == sums_of(users)


@settings(max_examples=60)
@given(a=users, b=users)
def test_relabelling_the_arms_flips_the_sign(a, b):
    forth = estimate(sums_of(a).array(), sums_of(b).array())
    back = estimate(sums_of(b).array(), sums_of(a).array())
    assert float(back.delta) == pytest.approx(-float(forth.delta), abs=1e-9)
    assert float(back.standard_error) == pytest.approx(float(forth.standard_error), rel=1e-6, abs=1e-9)


@given(a=users, b=users, width=st.floats(0.5, 6))
def test_the_lift_interval_excludes_zero_exactly_when_the_difference_does(a, b, width):
    found = estimate(sums_of(a).array(), sums_of(b).array())
    lower, upper = (float(end) for end in found.lift_interval(width))
    low = float(found.delta) - width * float(found.standard_error)
    high = float(found.delta) + width * float(found.standard_error)
    if np.isnan(lower) or min(abs(low), abs(high)) < 1e-9 * max(1.0, high - low):
        return
    assert (lower > 0) == (low > 0)
    assert (upper < 0) == (high < 0)


def test_products_follow_the_order_of_the_sums():
    row = products(*(np.array(float(value)) for value in (2, 3, 5, 7)))
    assert dict(zip(SUMS, row, strict=True)) == {
        **{"n": 1, "s": 2, "i": 3, "s0": 5, "i0": 7, "ss": 4, "si": 6, "ii": 9, "s_s0": 10, "s_i0": 14},
        **{"i_s0": 15, "i_i0": 21, "s0s0": 25, "s0i0": 35, "i0i0": 49},
    }
