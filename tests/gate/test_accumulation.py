"""Different users over days: what was counted, what is expected beyond, and the way back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate.accumulation import Accumulation
from relations.errors import UsageError

COUNTS = ((0, 1, 40), (0, 3, 20), (1, 2, 10), (2, 1, 8))


def test_the_observed_curve_is_what_was_counted() -> None:
    found = Accumulation.from_counts(COUNTS, days=3)
    assert found.cumulative == (60, 70, 78)
    assert (found.once, found.twice) == (48, 10)
    assert found.users(0) == 0
    assert found.users(1.5) == 65
    assert found.days(70) == 2
    assert found.days(30) == 0.5


def test_beyond_it_chaos_estimate() -> None:
    """Q0 = 2/3 · 48²/(2·10) = 76.8; one day on, 78 + 76.8·48/(3·76.8 + 48)"""
    found = Accumulation.from_counts(COUNTS, days=3)
    assert found.unseen == pytest.approx(2 / 3 * 48**2 / 20)
    assert found.users(4) == pytest.approx(78 + 76.8 * 48 / (3 * 76.8 + 48))
    assert found.days(78 + 76.8) is None  # as many as there are, never more


def test_a_town_of_regulars_is_known_after_two_days() -> None:
    found = Accumulation.from_counts([(0, 2, 50)], days=2)
    assert found.users(100) == 50
    assert found.days(51) is None


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5), st.integers(1, 90)), min_size=1, max_size=9),
    st.floats(0.1, 40),
)
def test_the_curve_rises_and_its_inverse_leads_back(counts: list[tuple[int, int, int]], day: float) -> None:
    found = Accumulation.from_counts(counts, days=5)
    users = found.users(day)
    assert found.users(day / 2) <= users + 1e-9
    back = found.days(users * (1 - 1e-9))
    assert back is None or found.users(back) == pytest.approx(users, rel=1e-6)
    assert back is None or back <= day + 1e-6


def test_a_site_with_regulars_and_strangers_is_foreseen_within_a_tenth() -> None:
    """5,000 users of very different habits: ten days foretell the number after thirty."""
    chance = np.random.default_rng(4)
    daily = chance.beta(0.5, 4, size=5_000)
    came = chance.random((30, 5_000)) < daily
    seen = came[:10]
    first = seen.argmax(axis=0)[seen.any(axis=0)]
    visits = seen.sum(axis=0)[seen.any(axis=0)]
    counts = [(int(day), int(times), 1) for day, times in zip(first, visits, strict=True)]
    found = Accumulation.from_counts(counts, days=10)
    assert found.users(30) == pytest.approx(came.any(axis=0).sum(), rel=0.1)
    assert found.users(30) < 3 * found.users(10)


def test_one_day_is_no_curve() -> None:
    with pytest.raises(UsageError, match="5 users in 1 whole days"):
        Accumulation.from_counts([(0, 1, 5)], days=1)
    with pytest.raises(UsageError, match="0 users in 9 whole days"):
        Accumulation.from_counts([], days=9)
