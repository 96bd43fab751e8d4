"""Answers that fail or are slow: an e-value that may be watched, and a percentile that needs enough requests."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from gate.served import Served, ServedLimits, failure_evidence, slowness_unknown, too_many_failures, too_slow
from relations.errors import UsageError

LIMITS = ServedLimits(failures=0.01, latency=2.0)


@pytest.mark.parametrize(
    ("failures", "requests", "allowed"), [(0, 0, 0.1), (0, 20, 0.05), (3, 40, 0.02), (30, 90, 0.3)]
)
def test_the_evidence_is_the_mean_likelihood_ratio(failures: int, requests: int, allowed: float) -> None:
    def ratio(p: float) -> float:
        return (p / allowed) ** failures * ((1 - p) / (1 - allowed)) ** (requests - failures)

    slow = quad(ratio, allowed, 1, limit=200)[0] / (1 - allowed)
    assert failure_evidence(failures, requests, allowed=allowed) == pytest.approx(math.log(slow), abs=1e-6)


@given(
    requests=st.integers(0, 400),
    share=st.floats(0, 1),
    allowed=st.floats(0.001, 0.9),
    true=st.floats(0, 1),
)
def test_one_more_request_within_the_limit_does_not_raise_its_expectation(
    requests: int, share: float, allowed: float, true: float
) -> None:
    """E[e after one more] = e at p = allowed, and ≤ e below it: a supermartingale, so Ville's inequality holds."""
    failures = round(share * requests)
    now = failure_evidence(failures, requests, allowed=allowed)
    failed = math.exp(failure_evidence(failures + 1, requests + 1, allowed=allowed) - now)
    fine = math.exp(failure_evidence(failures, requests + 1, allowed=allowed) - now)
    # far out the incomplete beta function has no more digits
    assert allowed * failed + (1 - allowed) * fine == pytest.approx(1, rel=1e-4)
    below = min(true, allowed)
    assert below * failed + (1 - below) * fine <= 1 + 1e-4


def test_watched_at_every_request_it_seldom_calls_a_fair_arm_broken() -> None:
    rng = np.random.default_rng(5)
    false = 0
    for _ in range(200):
        failures = np.cumsum(rng.random(600) < 0.02)
        looks = range(10, 600, 10)
        evidence = max(failure_evidence(int(failures[n - 1]), n, allowed=0.02) for n in looks)
        false += evidence >= math.log(1 / 0.05)
    assert false <= 19  # 200 · .05 = 10, and 3 · √(200 · .05 · .95) = 9.2 of slack


def test_failures_are_measured_against_the_champions_share() -> None:
    champion = Served(requests=1_000, failures=30)  # 3 %, and 1 % more is allowed
    assert too_many_failures(Served(requests=500, failures=20), champion, limits=LIMITS) == ""
    why = too_many_failures(Served(requests=500, failures=60), champion, limits=LIMITS)
    assert why == "60 of 500 answers failed (12.00%), the champion's share is 3.00% and 1.00% more is allowed"
    assert too_many_failures(Served(), champion, limits=LIMITS) == ""
    assert too_many_failures(Served(requests=5, failures=5), Served(requests=9, failures=9), limits=LIMITS) == ""
    nothing = ServedLimits(failures=0, latency=2)
    assert "1 of 10" in too_many_failures(Served(requests=10, failures=1), Served(requests=10), limits=nothing)


def test_a_percentile_needs_two_hundred_requests() -> None:
    champion, slow = Served(requests=200, p99_ms=10.0), Served(requests=200, p99_ms=20.1)
    assert too_slow(slow, champion, limits=LIMITS) == "p99 20.1 ms, limit 20.0 ms (2 × the champion's 10.0 ms)"
    assert too_slow(Served(requests=200, p99_ms=20.0), champion, limits=LIMITS) == ""
    few = Served(requests=199, p99_ms=900.0)
    assert too_slow(few, champion, limits=LIMITS) == ""
    assert slowness_unknown(few, champion) == "199 of 200 requests that the challenger's p99 needs"
    assert slowness_unknown(slow, Served(requests=900)) == "900 of 200 requests that the champion's p99 needs"


@pytest.mark.parametrize("wrong", [{"failures": 1.0}, {"failures": -0.1}, {"latency": 0.0}, {"alpha": 0.5}])
def test_limits_that_cannot_be_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        ServedLimits(**{"failures": 0.01, "latency": 2.0, **wrong})
    with pytest.raises(ValueError, match="3 failures of 2"):
        failure_evidence(3, 2, allowed=0.1)
    with pytest.raises(ValueError, match="outside"):
        failure_evidence(0, 2, allowed=1.0)


def test_it_survives_json() -> None:
    served = Served(10, 1, 2.5, None, ("a", "b"))
    assert Served.from_json(served.as_json()) == served
