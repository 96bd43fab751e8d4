"""Measures of drift: their formulas, and that chance alone does not look like drift."""

from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from model.continual.drift import ks, measure_drift, more_of, psi, turned
from model.sequences import Histories

WEEK_US = 7 * 86_400_000_000
COUNTS = st.lists(st.integers(0, 50), min_size=3, max_size=3).map(lambda counts: np.array(counts, dtype=np.float64))


def people(
    rng: np.random.Generator,
    users: int,
    *,
    week: int,
    name: str,
    items: int = 60,
    shift: int = 0,
    behaviours: tuple[float, float] = (0.8, 0.2),
    pause: float = 1.0,
) -> Histories:
    """Users with tastes of their own: each walks around a favourite, so that one user's events hang together."""
    lengths = rng.integers(3, 15, size=users)
    favourite = (rng.zipf(1.6, size=users) + shift) % items
    item_N = (np.repeat(favourite, lengths) + rng.integers(0, 4, size=lengths.sum())) % items
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    times = week * WEEK_US + np.repeat(rng.integers(0, WEEK_US // 2, size=users), lengths)
    names = np.array([f"i{number:03d}" for number in range(items)], dtype=object)
    return Histories(
        np.array([f"{name}{number:05d}" for number in range(users)], dtype=object),
        names,
        item_N.astype(np.int64),
        rng.choice([1, 3], p=behaviours, size=lengths.sum()),
        (times + within * 60_000_000 * pause).astype(np.int64),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )


def test_formulas_by_hand() -> None:
    reference, recent = np.array([9.5, 29.5]), np.array([29.5, 9.5])  # with half a count: 10, 30 of 40
    assert psi(reference, recent) == pytest.approx(2 * 0.5 * log(3))  # (3/4 − 1/4) ln 3, twice
    assert ks(np.array([1.0, 1, 2]), np.array([2.0, 1, 1])) == pytest.approx(1 / 4)
    assert turned(np.array([1.0, 0]), np.array([0, 2.0])) == 1
    assert turned(np.array([1.0, 0]), np.zeros(2)) == 0
    assert more_of(np.array([3.0, 1]), np.array([1.0, 3])) == pytest.approx(1 / 2)


@given(COUNTS, COUNTS)
def test_psi_is_a_symmetric_distance(one: np.ndarray, other: np.ndarray) -> None:
    assert psi(one, other) >= 0
    assert psi(one, other) == pytest.approx(psi(other, one))
    assert psi(one, one) == 0


@given(st.integers(0, 1000))
def test_ks_is_that_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = [rng.integers(0, 8, size=size) for size in (20, 33)]
    counts = [np.bincount(value, minlength=8).astype(np.float64) for value in values]
    assert ks(*counts) == pytest.approx(ks_2samp(*values).statistic)


def reference_of(rng: np.random.Generator, users: int) -> Histories:
    from model.sequences import merge

    whole = people(rng, users, week=0, name="a")
    for week in range(1, 4):
        whole, _ = merge(whole, people(rng, users, week=week, name="abcd"[week]))
    return whole


def test_chance_seldom_looks_like_drift() -> None:
    """Users with tastes, few enough that PSI alone passes .25 in a fifth of these worlds, by chance."""
    naive, significant, beyond = 0, 0, 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        shifts = measure_drift(
            reference_of(rng, 30), people(rng, 40, week=4, name="n"), span_us=WEEK_US, draws=200, seed=seed
        )
        popularity = next(shift for shift in shifts if shift.measure == "popularity")
        naive += popularity.value > 0.25
        significant += sum(shift.value > shift.critical for shift in shifts)
        beyond += sum(shift.beyond(0.25) for shift in shifts)
    assert naive >= 3
    assert significant <= 6  # of 100 at 1 %; 6 and more have a chance of .0005
    assert beyond == 0


@pytest.mark.parametrize(
    ("measure", "change", "threshold"),
    [
        ("popularity", {"shift": 30}, 0.25),
        ("behaviours", {"behaviours": (0.4, 0.6)}, 0.25),
        ("new items", {"items": 90, "shift": 62}, 0.2),
        ("gaps", {"pause": 9.0}, 0.15),
        ("session lengths", {"pause": 40.0}, 0.15),
        ("item vectors", {"shift": 30}, 0.1),
    ],
)
def test_drift_is_seen(measure: str, change: dict[str, float], threshold: float) -> None:
    rng = np.random.default_rng(1)
    vectors = {f"i{number:03d}": vector for number, vector in enumerate(rng.normal(size=(90, 5)))}
    known, recent = reference_of(rng, 150), people(rng, 150, week=4, name="n", **change)  # type: ignore[arg-type]
    found = {
        shift.measure: shift for shift in measure_drift(known, recent, span_us=WEEK_US, draws=200, vectors=vectors)
    }
    assert found[measure].beyond(threshold)
    same = measure_drift(known, recent, span_us=WEEK_US, draws=200, vectors=vectors)
    assert [each.value for each in same] == [each.value for each in found.values()]


def test_too_little_says_nothing() -> None:
    rng = np.random.default_rng(0)
    known = reference_of(rng, 100)
    assert measure_drift(known, people(rng, 5, week=4, name="n"), span_us=WEEK_US) == ()
    assert measure_drift(known, known.keep(np.zeros(len(known), dtype=bool)), span_us=WEEK_US) == ()
    one = people(rng, 1, week=0, name="ü")
    assert measure_drift(one, known, span_us=WEEK_US) == ()
