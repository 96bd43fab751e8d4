"""What caps touch, counted by hand."""

import math
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from bench.gate_decisions import START, config_of
from gate.decision import decide
from gate.estimator import ArmSums
from gate.looks import LookSums, MetricSums
from gate.metrics import Metric, Value
from gate.tails import Tail, suggested_caps, told_cap, told_largest

TAIL = Tail(np.array([0.0, 10.0, 40.0, 200.0]), np.array([950.0, 30.0, 15.0, 5.0]))
"""1,000 users, 300 + 600 + 1,000 = 1,900 in all."""


def test_a_tail_by_hand() -> None:
    assert (TAIL.users, TAIL.value) == (1_000, 1_900)
    assert TAIL.largest == 200 / 1_900
    assert [TAIL.quantile(share) for share in (0.95, 0.951, 0.98, 0.981, 0.995, 1.0)] == [0, 10, 10, 40, 40, 200]
    assert [TAIL.above(cap) for cap in (5, 10, 39.9, 40, 200)] == [50, 20, 20, 5, 0]
    assert TAIL.taken(40) == 5 * 160 / 1_900
    assert TAIL.taken(10) == pytest.approx((15 * 30 + 5 * 190) / 1_900)
    assert told_cap(TAIL, cap=40) == "cap = 40 is exceeded by 0.50% of users and takes 42.1% of the value away"


def test_caps_are_suggested_where_enough_users_exceed_them() -> None:
    """The .99 quantile is 40, which 5 exceed; the .999 quantile is 200, which nobody does."""
    assert suggested_caps(TAIL, least=5) == (40.0,)
    assert suggested_caps(TAIL, least=6) == ()
    rare = Tail(np.array([0.0, 1.0, 1234.5]), np.array([99_500.0, 450.0, 50.0]))
    assert suggested_caps(rare, least=5) == (1.0,)  # less than one in a hundred has anything: its quantile is 0
    odd = Tail(np.array([0.0, 1.0, 1234.5, 1235.5]), np.array([99_000.0, 800.0, 150.0, 50.0]))
    assert suggested_caps(odd, least=5) == (1230.0,)  # three digits: nobody's own total


def test_nothing_earned_and_nobody_there() -> None:
    nothing = Tail(np.zeros(1), np.array([7.0]))
    assert (nothing.largest, nothing.taken(1.0), suggested_caps(nothing, least=1)) == (0.0, 0.0, ())
    nobody = Tail(np.array([]), np.array([]))
    assert math.isnan(nobody.quantile(0.5))
    assert suggested_caps(nobody, least=0) == ()
    assert (nobody.largest, told_cap(nobody, cap=3.0)) == (0.0, "cap = 3")


def test_who_dominates_is_kept_with_the_look_and_decides_nothing() -> None:
    config = replace(
        config_of(), primary=Metric("revenue", "purchase", per="user", value=Value.SUM, cap=50.0), guardrails=()
    )
    rng, one = np.random.default_rng(1), np.ones(1_000)
    day = START.date()
    rows = [
        {"day": day, "arm": arm, **ArmSums.from_users(rng.gamma(0.1, 50, 1_000), one, 0 * one, 0 * one).as_json()}
        for arm in config.arms
    ]
    look = LookSums(
        watermark=START + timedelta(days=2),
        since=START,
        exposed=dict.fromkeys(config.arms, 1_000),
        metrics={"revenue": MetricSums.from_rows(rows)},
    )
    heavy = replace(look, dominance={"champion": 0.4, "challenger": 0.01})
    stated = decide(config, [look]).as_json()
    assert "dominance" not in stated["sums"]  # a look from before it was told is replayed as it was
    told = decide(config, [LookSums.from_json(heavy.as_json())]).as_json()
    assert told.pop("sums") == {**stated.pop("sums"), "dominance": {"champion": 0.4, "challenger": 0.01}}
    assert told == stated


def test_one_users_share_is_told_in_steps() -> None:
    told = {share: told_largest(share) for share in (0.0099, 0.01, 0.049, 0.05, 0.3, 1.0)}
    assert list(told.values()) == [
        "no user has 1%",
        *("one user has 1% or more", "one user has 2% or more", "one user has 5% or more"),
        *("one user has 25% or more", "one user has 50% or more"),
    ]
