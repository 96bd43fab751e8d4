"""The gate's promises on a few hundred simulated trials; `python -m bench.gate` gives the full count.

Bars on error rates carry their three standard errors already; the others get them here, for the small count. Seeds are
fixed, so these figures change only with the code.
"""

import json
import math

import pytest

from bench import gate as bench_gate

REPETITIONS = 200


@pytest.fixture(scope="module")
def rows():
    return {row["name"]: row for row in bench_gate.run(REPETITIONS)}


def standard_errors(percent, count=3):
    rate = percent / 100
    return count * 100 * math.sqrt(rate * (1 - rate) / REPETITIONS)


@pytest.mark.parametrize(
    "name",
    [
        "A/A, 28 looks: false promotions",
        "A/A, 28 looks, with CUPED: false promotions",
        "same conversions, sooner in B: false promotions",
        "a guardrail exactly at its margin: promoted",
        "A/A, later users 9× as active: false promotions",
    ],
)
def test_false_promotions_stay_within_alpha(rows, name):
    assert rows[name]["measured"] <= 2.5 + standard_errors(2.5)
    assert rows[name]["holds"]


@pytest.mark.parametrize(
    "name", ["a fixed-horizon test at every look", "impressions taken for independent", "immature outcomes counted"]
)
def test_broken_methods_are_caught(rows, name):
    assert rows[f"broken on purpose: {name}"]["measured"] > 2.5 + standard_errors(2.5, count=2)


def test_the_sequence_covers_at_every_look(rows):
    assert rows["95 % confidence sequence: covers at every look"]["measured"] >= 95 - standard_errors(95)


def test_power(rows):
    assert rows["power lost to one fixed-horizon look"]["measured"] <= 4 + standard_errors(4)
    assert rows["power over the always-valid default"]["measured"] >= 1.5 - 0.2
    assert rows["mean users at 80 % power, share of fixed n"]["measured"] <= 0.85
    assert rows["mean users at twice that effect, share of fixed n"]["measured"] <= 0.5


def test_mismatch(rows):
    assert rows["no mismatch, 400 looks: flagged"]["measured"] <= 0.3 + standard_errors(0.3)
    # The median of 200 stopping times that spread over some 65,000 users: standard error about 1.25·65,000/√200 = 5,700
    assert rows["50.5/49.5: median users until flagged"]["measured"] <= 175_000 + 3 * 5_700


def test_the_delta_method_agrees_with_the_bootstrap(rows):
    assert rows["delta-method SE against 2,000 bootstraps: mean difference"]["holds"]
    assert rows["delta-method SE against 2,000 bootstraps: largest"]["holds"]


def test_harm_is_aborted_and_harmlessness_is_not(rows):
    assert rows["harm of 0 final standard errors: aborted"]["measured"] <= 1 + standard_errors(1)
    assert rows["harm of 4 final standard errors: aborted"]["measured"] >= 70 - standard_errors(70)
    assert rows["harm of 6 final standard errors: aborted"]["measured"] >= 99 - standard_errors(99)


def test_holds_is_computed_from_measured_and_bar(rows):
    signs = {"≤": float.__le__, "≥": float.__ge__, ">": float.__gt__}
    for row in rows.values():
        sign, bar = row["bar"].split()
        assert row["holds"] == signs[sign](float(row["measured"]), float(bar))


def test_the_command_prints_rows_and_says_whether_they_hold(monkeypatch, capsys):
    good = bench_gate.at_most("a", 1.0, 2.0)
    bad = bench_gate.at_least("b", 1.0, 2.0)
    monkeypatch.setattr(bench_gate, "run", lambda repetitions: [good, bad])
    assert bench_gate.main(["--repetitions", "5", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"rows": [good, bad], "repetitions": 5}
    monkeypatch.setattr(bench_gate, "run", lambda repetitions: [good])
    assert bench_gate.main(["--repetitions", "5"]) == 0
    assert "holds" in capsys.readouterr().out
