import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from serving.assignment import BUCKETS, assign, bucket

UNITS = [f"p1_{n:032x}" for n in range(100_000)]


def test_a_bucket_by_hand() -> None:
    assert hashlib.sha256(b"salt:ranker:u").hexdigest()[:8] == "96fe1e14"
    assert 0x96FE1E14 == 2_533_236_244
    assert bucket("u", salt="salt") == 6244


@pytest.mark.parametrize("salt", ["t1", "t2"])
def test_buckets_are_uniform(salt: str) -> None:
    counts = np.bincount([bucket(unit, salt=salt) // 100 for unit in UNITS], minlength=100)
    # 100 cells of 1,000 expected; the draw is fixed, so this either holds for good or never.
    assert stats.chisquare(counts).pvalue > 0.001


def test_salts_and_layers_are_independent() -> None:
    first = np.array([bucket(unit, salt="t1") for unit in UNITS])
    for second in (
        np.array([bucket(unit, salt="t2") for unit in UNITS]),
        np.array([bucket(unit, salt="t1", layer="pages") for unit in UNITS]),
    ):
        table = np.histogram2d(first, second, bins=10, range=[[0, BUCKETS], [0, BUCKETS]])[0]
        assert stats.chi2_contingency(table).pvalue > 0.001


def test_shares_are_as_allocated() -> None:
    for allocation in (0.01, 0.05, 0.5):
        treated = sum(
            assign(unit, trial="t", salt="s", allocation=allocation).variant == "challenger" for unit in UNITS
        )
        se = (allocation * (1 - allocation) * len(UNITS)) ** 0.5
        assert abs(treated - allocation * len(UNITS)) < 4 * se


@settings(max_examples=300)
@given(unit=st.text(min_size=1), salt=st.text(), low=st.floats(0.001, 0.999), high=st.floats(0.001, 0.999))
def test_a_ramp_up_flips_nobody_back(unit: str, salt: str, low: float, high: float) -> None:
    low, high = sorted((low, high))
    before = assign(unit, trial="t", salt=salt, allocation=low)
    after = assign(unit, trial="t", salt=salt, allocation=high)
    assert (before.variant, after.variant) != ("challenger", "champion")
    assert before == assign(unit, trial="t", salt=salt, allocation=low)


def test_every_process_assigns_alike() -> None:
    code = (
        "from serving.assignment import assign\n"
        "print(''.join(assign(f'ü{n}', trial='t', salt='s', allocation=0.5).variant[3] for n in range(500)))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("0", "1", "random")
    }
    here = "".join(assign(f"ü{n}", trial="t", salt="s", allocation=0.5).variant[3] for n in range(500))
    assert told == {here}
    assert set(here) == {"m", "l"}  # champion, challenger
