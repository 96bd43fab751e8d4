"""The gate's promises on a few hundred simulated trials; `ratchet bench gate` gives the full count.

Bars on error rates carry their three standard errors already; the others get them here, for the small count. Seeds are
fixed, so these figures change only with the code.
"""

import gzip
import math
from pathlib import Path

import numpy as np
import pytest

from bench import gate as bench_gate
from bench import gate_lists, gate_logs, gate_tails
from bench.rows import at_least, at_most, caught, figure, shortfall, slack
from relations.errors import UsageError

REPETITIONS = 300
TRIALS = 30  # through `decide`
PROMOTED = "mean of the promoted"


@pytest.fixture(scope="module")
def rows():
    found = bench_gate.run(REPETITIONS)
    return {row["name"].split(" through decide")[0]: row for row in found if "through decide" in row["name"]}, {
        row["name"]: row for row in found if "through decide" not in row["name"]
    }


@pytest.fixture(scope="module")
def decided(rows):
    return rows[0]


@pytest.fixture(scope="module")
def parts(rows):
    return rows[1]


def standard_errors(percent, count=3, repetitions=REPETITIONS):
    rate = percent / 100
    return count * 100 * math.sqrt(rate * (1 - rate) / repetitions)


@pytest.mark.parametrize(
    "name",
    [
        "1. A/A, 28 looks: false promotions",
        "1. A/A, 28 looks, with CUPED: false promotions",
        "1. A/A, later users 9× as active: false promotions",
        "7. same conversions, sooner in B: false promotions",
        "11. a guardrail exactly at its margin: promoted",
        "13. 3 null challengers at α/3: any promoted",
    ],
)
def test_false_promotions_stay_within_alpha(parts, name):
    assert parts[name]["measured"] <= 2.5 + standard_errors(2.5)
    assert parts[name]["holds"]


@pytest.mark.parametrize(
    "name",
    ["1. A/A", "11. a guardrail exactly at its margin", "13. three null challengers"],
)
def test_false_promotions_stay_within_alpha_through_decide(decided, name):
    assert decided[name]["measured"] <= 2.5 + standard_errors(2.5, repetitions=TRIALS)
    assert decided[name]["holds"]


@pytest.mark.parametrize(
    "name",
    [
        "6. broken on purpose: a fixed-horizon test at every look",
        "6. broken on purpose: impressions taken for independent",
        "6. broken on purpose: immature outcomes counted",
    ],
)
def test_broken_methods_are_caught(parts, name):
    assert parts[name]["measured"] > 2.5 + standard_errors(2.5)
    assert parts[name]["holds"]


def test_the_sequence_covers_at_every_look(parts):
    assert parts["2. 95 % confidence sequence: covers at every look"]["measured"] >= 95 - standard_errors(95)
    assert parts["2. intervals at the boundaries: cover at all 28 looks"]["holds"]


def test_what_is_promoted_was_also_lucky(parts):
    """Selected for being high, the estimate overstates: the document for statisticians says by how much."""
    assert 1.05 < parts["3. estimate of the promoted over the true effect"]["measured"] < 1.5


def test_the_correction_for_stopping_is_right_half_the_time_and_its_interval_covers(parts):
    """Of 300 trials at the declared effect and 100 at the others; the bars have the three standard errors in them."""
    about = "16. the declared effect (300 trials): "
    found = [row for name, row in parts.items() if name.startswith("16. ") and row["bar"]]
    assert len(found) == 6
    assert all(row["holds"] for row in found)
    plain, corrected = (
        {how: parts[f"{about}{kind} estimate over the truth, {how}"]["measured"] for how in ("mean of all", PROMOTED)}
        for kind in ("plain", "median-unbiased")
    )
    # All lifts spread by some .5 of the truth, so a mean of 300 by .03; paired, the difference spreads by far less.
    assert 1 < corrected["mean of all"] < plain["mean of all"] < 1.3
    # Not corrected for having been promoted: that is a selection that no ordering of all outcomes undoes.
    assert 1.05 < corrected[PROMOTED] < plain[PROMOTED] < 1.5


def test_power(parts):
    assert parts["3. power lost to one fixed-horizon look"]["measured"] <= 4 + standard_errors(4)
    # Of shares near 78 % and 42 %: the ratio's standard error is about 1.86·√(.22/(.78·300) + .58/(.42·300)) = 0.14
    assert parts["4. power over the always-valid default"]["measured"] >= 1.5 - 3 * 0.14
    # A trial's length spreads by some 0.25 of n_max: a mean of 300 by 0.0145
    assert parts["5. mean users at 80 % power, share of fixed n"]["measured"] <= 0.85 + 3 * 0.0145
    assert parts["5. mean users at twice that effect, share of fixed n"]["measured"] <= 0.5 + 3 * 0.0145


def test_the_gate_needs_fewer_users_than_the_always_valid_default(parts):
    assert parts["4. users until decided, both ended at n_max: always-valid over gate"]["measured"] > 1.05
    assert 1.4 < parts["4. users for the gate's power: always-valid over the gate's n_max"]["measured"] < 2.4
    gate, always = (
        parts[name]["measured"]
        for name in ("3. power of the gate at the declared effect", "4. power of the always-valid default, same users")
    )
    assert parts["4. power over the always-valid default"]["measured"] == pytest.approx(gate / always, abs=0.006)


def test_mismatch(parts):
    assert parts["8. no mismatch, 400 looks: flagged"]["measured"] <= 0.3 + standard_errors(0.3)
    # The median of 300 stopping times that spread over some 65,000 users: standard error about 1.25·65,000/√300 = 4,700
    assert parts["9. 50.5/49.5: median users until flagged"]["measured"] <= 175_000 + 3 * 4_700


def test_the_delta_method_agrees_with_the_bootstrap(parts):
    assert parts["10. delta-method SE against 2,000 bootstraps: mean difference"]["holds"]
    assert parts["10. delta-method SE against 2,000 bootstraps: largest"]["holds"]


def test_harm_is_aborted_and_harmlessness_is_not(parts, decided):
    assert parts["12. harm of 0 final standard errors: aborted"]["measured"] <= 1 + standard_errors(1)
    assert parts["12. harm of 4 final standard errors: aborted"]["measured"] >= 70 - standard_errors(70)
    assert parts["12. harm of 6 final standard errors: aborted"]["measured"] >= 99 - standard_errors(99)
    assert decided["12. no harm"]["holds"]
    assert decided["12. no harm in 10 slices with margin 0"]["holds"]
    assert decided["12. harm of 4 final standard errors"]["measured"] >= 70 - standard_errors(70, repetitions=TRIALS)
    assert decided["12. harm of 6 final standard errors"]["measured"] >= 99 - standard_errors(99, repetitions=TRIALS)


def test_nothing_is_decided_before_the_minimum_exposure(decided):
    assert decided["1. an obvious winner"]["measured"] == 0
    assert decided["6. broken on purpose: an obvious winner"]["measured"] > 50


def test_a_cap_gives_revenue_its_power_and_uneven_arms_their_alpha(parts):
    what, fifth = "17. revenue, log-normal, σ = 2", "A/A, the champion has a fifth of the users"
    none, _, least = gate_tails.CAPS
    for cap in gate_tails.CAPS:
        assert parts[f"{what}, A/A, {cap}: false promotions"]["measured"] <= 2.5 + standard_errors(2.5)
    broken = what.replace("17. ", "17. broken on purpose: ")
    assert parts[f"{broken}, {fifth}, {none}: false promotions"]["measured"] > 2.5 + standard_errors(2.5)
    assert parts[f"{what}, {fifth}, {least}: false promotions"]["holds"]
    assert parts[f"{what}, {fifth.replace('champion', 'challenger')}, {least}: aborted"]["holds"]
    # Two shares of 300 trials, near 14 and 84 %: their difference of 70 spreads by 3 points
    assert parts[f"{what}, 20% more buyers, {least}: power gained"]["measured"] >= 70 - 3 * 3
    share = "the largest user's share of an arm's revenue, median"
    assert parts[f"{what}, {none}: {share}"]["measured"] > 5 > 1 > parts[f"{what}, {least}: {share}"]["measured"]


def test_interleaving_needs_far_fewer_users_and_names_the_better_one(parts):
    found = {name[4:18]: row["measured"] for name, row in parts.items() if name.startswith("14. ")}
    # Both means are of 30 and 300 trials; the A/B trial's spreads by a quarter, so the ratio of 30 by 0.25·29/√30 = 1.3
    assert found["A/B users over"] >= 20 - 3 * 1.3
    assert found["interleaving n"] >= 95 - standard_errors(95)
    assert found["equal rankings"] <= 5 + standard_errors(5)


def test_the_worlds_of_interleaving_are_what_they_say():
    """Clicks as drawn against the rates that the worlds are described by, and equal rankings that are equal."""
    rng = np.random.default_rng(3)
    better, equal = (gate_lists.list_world(rng, errors=gate_lists.ERRORS[sign]) for sign in (1, 0))
    assert equal.lift == pytest.approx(0, abs=1e-12)
    assert 0.04 < better.lift < 0.12
    for requests in (better.champion, better.challenger):
        _, clicks, impressions = gate_lists.draw_clicks(rng, requests, gate_lists.draw_tastes(rng, 40_000))
        # Per user some 2 clicks, spread by 3; 40,000 users: 3/200 of 2, under one percent each
        assert clicks.sum() / impressions.sum() == pytest.approx(requests.rate, rel=0.03)
    assert set(np.unique(better.mixed.credit_LP)) == {-1, 0, 1}


@pytest.mark.realdata
def test_the_open_bandit_sample(realdata):
    found = gate_logs.rows(realdata / "obd")
    assert [row["measured"] for row in found[:2]] == [0, 2]  # none outside; random cannot be told from bts's log
    refused = [row for row in found if "refused" in row["name"]]
    assert len(refused) == 2
    assert all(row["measured"] is None and row["holds"] is None for row in refused)


def test_logs_that_are_not_there(tmp_path, parts):
    (left_out,) = [row for name, row in parts.items() if name.startswith("15. ")]
    assert left_out["measured"] is None
    assert "--data" in left_out["name"]
    with pytest.raises(UsageError, match=r"all\.csv\.gz is missing"):
        gate_logs.rows(tmp_path)


def small_logs(folder: Path, *, rounds=2_000):
    """Two policies over two items that are clicked 1 time in 5 and in 10: bts shows the better one twice in three."""
    for policy, share in (("random", 1 / 2), ("bts", 2 / 3)):
        for campaign in gate_logs.CAMPAIGNS:
            lines = ["timestamp,item_id,position,click,propensity_score"]
            for item, chance, every in ((0, share, 5), (1, 1 - share, 10)):
                shown = round(rounds * chance)
                lines += [f"2026-01-01,{item},1,{int(row % every == 0)},{chance}" for row in range(shown)]
            path = folder / policy / campaign / f"{campaign}.csv.gz"
            path.parent.mkdir(parents=True)
            path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return folder


def test_values_of_policies_by_hand(tmp_path):
    found = gate_logs.rows(small_logs(tmp_path))
    assert [row["measured"] for row in found[:2]] == [0, 4]
    # random: (1/5 + 1/10)/2 = 15 %; bts: (2·1/5 + 1/10)/3 = 16.67 %: SNIPS weighs the items' rates with these shares
    by_name = {row["name"].split(" [")[0]: row["measured"] for row in found[2:]}
    assert by_name["15. random on men, true 15.00 %: SNIPS"] == pytest.approx(15, abs=0.1)
    assert by_name["15. bts on all, true 16.70 %: SNIPS"] == pytest.approx(100 / 6, abs=0.1)
    assert by_name["15. bts on all, true 16.70 %: DR"] == pytest.approx(100 / 6, abs=0.3)


def test_holds_is_computed_from_measured_and_bar(parts, decided):
    signs = {"≤": float.__le__, "≥": float.__ge__, ">": float.__gt__}
    for row in (*parts.values(), *decided.values()):
        if row["bar"] is None:
            assert row["holds"] is None
            continue
        sign, bar = row["bar"].split()
        assert row["holds"] == signs[sign](float(row["measured"]), float(bar))


def test_too_few_repetitions_are_refused():
    with pytest.raises(UsageError, match="--repetitions 5"):
        bench_gate.run(5)


def test_every_simulation_is_there(parts, decided):
    assert {int(name.split(".")[0]) for name in (*parts, *decided)} == set(range(1, 18))


def test_rows_by_hand():
    # 2.5 % + 3·√(.025·.975/300) = 2.5 % + 3·0.9014 %
    assert slack(0.025, 300) == 5.2
    assert shortfall(0.975, 300) == 94.8
    assert at_most("a", 2.0, 2.0)["holds"]
    assert not at_least("a", 1.9, 2.0)["holds"]
    assert not caught("a", 2.0, 2.0)["holds"]
    assert figure("a", 2.0)["holds"] is None
