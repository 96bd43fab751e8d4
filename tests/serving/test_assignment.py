import hashlib
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from serving.choosing.assignment import (
    BUCKETS,
    OUT,
    OUTSIDE,
    SHADOWED,
    Assignment,
    arm_at,
    assign,
    bucket,
    in_play,
    shadowed_by,
    shares,
)
from stores.ledger_records import ChallengerRecord, TrialMode
from stores.serving_records import ServingTrial

UNITS = [f"p1_{n:032x}" for n in range(100_000)]
MODES = list(TrialMode)


def trial(
    allocation: float = 0.5,
    *,
    mode: TrialMode = TrialMode.COMPARE,
    compared: float = 0.0,
    canary: float = 0.0,
    salt: str = "s",
    challengers: int = 1,
    out: tuple[str, ...] = (),
) -> ServingTrial:
    others = tuple(ChallengerRecord(f"challenger-{n}", n + 1, f"d{n}") for n in range(2, challengers + 1))
    return ServingTrial("t", 2, "d", 1, salt, allocation, mode, compared, canary, others, out)


def names(challengers: int) -> list[str]:
    return ["challenger", "challenger-2", "challenger-3"][:challengers]


def test_a_bucket_by_hand() -> None:
    assert hashlib.sha256(b"salt:ranker:u").hexdigest()[:8] == "96fe1e14"
    assert 0x96FE1E14 == 2_533_236_244
    assert bucket("u", salt="salt") == 6244


@pytest.mark.parametrize("salt", ["t1", "t2"])
def test_buckets_are_uniform(salt: str) -> None:
    counts = np.bincount([bucket(f"p1_{n:032x}", salt=salt) for n in range(1_000_000)], minlength=10_000)
    # 10,000 buckets of 100 expected; the draw is fixed, so this either holds for good or never.
    assert stats.chisquare(counts).pvalue > 0.001


def test_salts_and_layers_are_independent() -> None:
    first = np.array([bucket(unit, salt="t1") for unit in UNITS])
    for second in (
        np.array([bucket(unit, salt="t2") for unit in UNITS]),
        np.array([bucket(unit, salt="t1", layer="pages") for unit in UNITS]),
    ):
        table = np.histogram2d(first, second, bins=10, range=[[0, BUCKETS], [0, BUCKETS]])[0]
        assert stats.chi2_contingency(table).pvalue > 0.001


def near(counted: int, share: float, *, of: int = len(UNITS)) -> bool:
    """Within four standard errors of a share of `of` draws."""
    return abs(counted - share * of) < 4 * (share * (1 - share) * of) ** 0.5


def test_shares_are_as_allocated() -> None:
    for allocation in (0.01, 0.05, 0.5):
        treated = sum(assign(unit, trial(allocation)).variant == "challenger" for unit in UNITS)
        assert near(treated, allocation)


SHARES = st.floats(0.001, 0.999)


@settings(max_examples=300)
@given(unit=st.text(min_size=1), salt=st.text(), low=SHARES, high=SHARES)
def test_a_ramp_up_flips_nobody_back(unit: str, salt: str, low: float, high: float) -> None:
    low, high = sorted((low, high))
    before, after = (assign(unit, trial(share, salt=salt)) for share in (low, high))
    assert (before.variant, after.variant) != ("challenger", "champion")
    assert before == assign(unit, trial(low, salt=salt))


@settings(max_examples=300)
@given(unit=st.text(min_size=1), salt=st.text(), compared=SHARES, ramp=st.lists(st.floats(0.01, 1), max_size=3))
def test_no_arm_changes_from_the_first_canary_to_the_comparison(
    unit: str, salt: str, compared: float, ramp: list[float]
) -> None:
    """Once in the canary, treated or control, a user keeps the arm and stays out of the comparison."""
    shares = sorted(part * min(0.05, compared / 2) for part in ramp)
    stages = [trial(share, mode=TrialMode.CANARY, compared=compared, canary=share, salt=salt) for share in shares]
    stages.append(trial(compared, compared=compared, canary=shares[-1] if shares else 0.0, salt=salt))
    met = [found for found in (assign(unit, stage) for stage in stages) if found != OUTSIDE]
    assert len({found.variant for found in met}) == 1
    assert len({found.reason for found in met}) == 1
    assert met[0].variant == assign(unit, trial(compared, salt=salt)).variant


@pytest.mark.parametrize(("compared", "canary"), [(0.5, 0.05), (0.1, 0.05), (0.3, 0.01)])
def test_who_is_left_to_the_comparison_splits_as_the_configuration_says(compared: float, canary: float) -> None:
    stage = trial(compared, compared=compared, canary=canary)
    found = [assign(unit, stage) for unit in UNITS]
    in_canary = [each for each in found if each.reason == "canary"]
    assert near(len(in_canary), canary / compared)  # c + c(1 − a)/a = c/a
    counted = [each for each in found if each.reason == "trial"]
    treated = sum(each.variant == "challenger" for each in counted)
    assert near(treated, compared, of=len(counted))
    asked = trial(canary, mode=TrialMode.CANARY, compared=compared, canary=canary)
    assert {assign(unit, asked) == OUTSIDE for unit in UNITS} == {True, False}


def test_whom_interleaving_changed_falls_into_both_arms_alike() -> None:
    mixed = [unit for unit in UNITS if assign(unit, trial(0.3, mode=TrialMode.INTERLEAVE)).variant == "interleaved"]
    assert near(len(mixed), 0.3)
    assert near(sum(assign(unit, trial()).variant == "challenger" for unit in mixed), 0.5, of=len(mixed))


@settings(max_examples=300)
@given(unit=st.text(min_size=1), salt=st.text(), low=SHARES, high=SHARES)
def test_more_interleaving_takes_nobody_out(unit: str, salt: str, low: float, high: float) -> None:
    low, high = sorted((low, high))
    before, after = (assign(unit, trial(share, mode=TrialMode.INTERLEAVE, salt=salt)) for share in (low, high))
    assert (before.variant, after.variant) != ("interleaved", "champion")


def test_the_holdback_is_the_same_for_every_trial_and_leaves_the_split_alone() -> None:
    held = [unit for unit in UNITS if assign(unit, trial(), holdback=0.02).reason == "holdback"]
    assert near(len(held), 0.02)
    assert held == [unit for unit in UNITS if assign(unit, trial(salt="other"), holdback=0.02).reason == "holdback"]
    assert set(held) < {unit for unit in UNITS if assign(unit, trial(), holdback=0.05).reason == "holdback"}
    found = [assign(unit, trial(), holdback=0.02) for unit in UNITS]
    left = [each.variant == "challenger" for each in found if each.reason == "trial"]
    assert near(sum(left), 0.5, of=len(UNITS) - len(held))


@pytest.mark.parametrize("mode", MODES)
def test_who_is_held_back_meets_no_challenger_at_any_stage(mode: TrialMode) -> None:
    stage = trial(0.05, mode=mode, compared=0.5, canary=0.05)
    for unit in UNITS[:2_000]:
        found, free = assign(unit, stage, holdback=0.5), assign(unit, stage)
        assert found == free or (found.variant, found.trial) == ("champion", None)


@pytest.mark.parametrize("mode", [TrialMode.SHADOW, TrialMode.KILLED])
def test_a_shadow_and_a_killed_trial_are_shown_to_nobody(mode: TrialMode) -> None:
    found = {assign(unit, trial(0.9, mode=mode, compared=0.9, canary=0.05)) for unit in UNITS[:2_000]}
    reason = "killed" if mode is TrialMode.KILLED else "shadow"
    assert found == {Assignment(variant="champion", reason=reason, trial=None, allocation=0.0)}


def test_a_fallback_is_told_but_where_the_comparison_must_not_count_it() -> None:
    assert SHADOWED.said_reason(fallback=False) == "shadow"
    assert Assignment("challenger", "trial", "t", 0.5).said_reason(fallback=True) == "fallback"
    assert Assignment("challenger", "canary", "t", 0.05).said_reason(fallback=True) == "canary"


# Several challengers

COUNTS = st.integers(1, 3)
OUTS = st.sets(st.sampled_from(["challenger", "challenger-2", "challenger-3"])).map(lambda out: tuple(sorted(out)))


def test_one_challenger_has_the_arms_that_it_always_had() -> None:
    """Of 2,000 users at every stage, as assigned before a trial could have several challengers."""
    told = hashlib.sha256()
    for mode in MODES:
        for allocation, compared, canary in ((0.5, 0.0, 0.0), (0.3, 0.3, 0.05), (0.05, 0.5, 0.05), (0.999, 0.1, 0.01)):
            stage = trial(allocation, mode=mode, compared=compared, canary=canary)
            for unit in UNITS[:2_000]:
                arm = assign(unit, stage, holdback=0.02)
                told.update(f"{arm.variant} {arm.reason} {arm.trial} {arm.allocation}\n".encode())
    assert told.hexdigest() == "5144aa8b93c37b0fcf585d4314f6f60cc54e9fbfcb117015d99f8053fd457dab"


def test_who_meets_which_challenger_by_hand() -> None:
    """User u of salt `salt` is in bucket 6244 = 3 · 2081 + 1: number 1 of 3, from 0, once the share is .6245."""
    assert [assign("u", trial(share, salt="salt", challengers=3)).variant for share in (0.6244, 0.6245, 0.9)] == [
        "champion",
        "challenger-2",
        "challenger-2",
    ]
    assert assign("u", trial(0.9, salt="salt", challengers=2)).variant == "challenger"  # 6244 is even


@pytest.mark.parametrize("challengers", [1, 2, 3])
@pytest.mark.parametrize("allocation", [0.05, 0.5, 0.75])
def test_challengers_share_evenly_what_is_allocated(challengers: int, allocation: float) -> None:
    stage = trial(allocation, challengers=challengers)
    counted = Counter(assign(unit, stage).variant for unit in UNITS)
    assert set(counted) == {"champion", *names(challengers)}
    assert near(counted["champion"], 1 - allocation)
    for name in names(challengers):
        assert near(counted[name], allocation / challengers)


def test_which_challenger_is_independent_of_the_same_question_under_another_salt() -> None:
    arms = [[assign(unit, trial(0.75, challengers=3, salt=salt)).variant for unit in UNITS] for salt in ("t1", "t2")]
    table = Counter(zip(*arms, strict=True))
    order = ["champion", *names(3)]
    assert stats.chi2_contingency([[table[one, other] for other in order] for one in order]).pvalue > 0.001


@settings(max_examples=300)
@given(place=st.integers(0, BUCKETS - 1), count=COUNTS, ramp=st.lists(SHARES, min_size=2, max_size=5), out=OUTS)
def test_no_bucket_changes_its_challenger_along_a_ramp(
    place: int, count: int, ramp: list[float], out: tuple[str, ...]
) -> None:
    """And a challenger's being out changes its own users only."""
    stages = [trial(share, challengers=count) for share in sorted(ramp)]
    found = [arm_at(place, stage) for stage in stages]
    met = [arm.variant for arm in found if arm.variant != "champion"]
    assert len(set(met)) <= 1
    assert [arm.variant for arm in found] == ["champion"] * (len(found) - len(met)) + met
    for stage, before in zip(stages, found, strict=True):
        assert arm_at(place, replace(stage, out=out)) == (OUT if before.variant in out else before)


@settings(max_examples=300)
@given(unit=st.text(min_size=1), count=COUNTS, compared=SHARES, ramp=st.lists(st.floats(0.01, 1), max_size=3))
def test_the_challenger_of_the_canary_is_that_of_the_comparison(
    unit: str, count: int, compared: float, ramp: list[float]
) -> None:
    parts = sorted(part * min(0.05, compared / 2) for part in ramp)
    stages = [trial(part, mode=TrialMode.CANARY, compared=compared, canary=part, challengers=count) for part in parts]
    stages.append(trial(compared, compared=compared, canary=parts[-1] if parts else 0.0, challengers=count))
    met = {arm.variant for arm in (assign(unit, stage) for stage in stages) if arm != OUTSIDE}
    assert met == {assign(unit, trial(compared, challengers=count)).variant}


@settings(max_examples=300)
@given(
    unit=st.text(min_size=1), mode=st.sampled_from(MODES), count=COUNTS, share=SHARES, out=OUTS, held=st.floats(0, 1)
)
def test_everybody_meets_the_champion_or_a_challenger_that_may_be_shown(
    unit: str, mode: TrialMode, count: int, share: float, out: tuple[str, ...], held: float
) -> None:
    stage = trial(share, mode=mode, compared=share, canary=min(share / 2, 0.05), challengers=count, out=out)
    arm = assign(unit, stage, holdback=held)
    allowed = {each.name for each in in_play(stage)}
    assert allowed == (set() if mode is TrialMode.KILLED else {*names(count)} - {*out})
    assert arm.variant in {"champion", "interleaved"} | allowed
    assert (arm.rival in allowed) if arm.variant == "interleaved" else arm.rival is None
    if arm.variant != "champion":
        assert (arm.trial, arm.allocation) == ("t", share)
        assert mode is not TrialMode.SHADOW


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("out", [(), ("challenger",), ("challenger", "challenger-3")])
def test_the_shares_that_are_told_are_those_of_the_users(mode: TrialMode, out: tuple[str, ...]) -> None:
    share = 0.05 if mode is TrialMode.CANARY else 0.6
    stage = trial(share, mode=mode, compared=0.6, canary=0.05, challengers=3, out=out)
    found = [assign(unit, stage) for unit in UNITS[:20_000]]
    counted = Counter(arm.variant for arm in found if arm.trial is not None)
    told = shares(stage)
    assert counted.keys() == told.keys()
    for variant, of_users in told.items():
        assert near(counted[variant], of_users, of=20_000)


def test_the_shares_of_three_challengers_by_hand() -> None:
    """T = 5,000 buckets: numbers 0 and 1 have 1,667 of them, number 2 has 1,666."""
    stage = trial(0.5, compared=0.5, challengers=3)
    three = dict(zip(names(3), (0.1667, 0.1667, 0.1666), strict=True))
    assert shares(stage) == {"champion": 0.5, **three}
    assert shares(replace(stage, out=("challenger-2",))) == {
        "champion": 0.5,
        "challenger": 0.1667,
        "challenger-3": 0.1666,
    }
    # T_c = 100: 34, 33 and 33 buckets, and a control group of 100 · 5,000/5,000.
    canary = replace(stage, mode=TrialMode.CANARY, allocation=0.01, canary=0.01)
    assert shares(canary) == {"champion": 0.01, "challenger": 0.0034, "challenger-2": 0.0033, "challenger-3": 0.0033}
    assert shares(replace(stage, mode=TrialMode.INTERLEAVE)) == {"interleaved": 0.5}
    assert shares(replace(stage, mode=TrialMode.SHADOW)) == shares(replace(stage, mode=TrialMode.KILLED)) == {}


@pytest.mark.parametrize("out", [(), ("challenger-2",)])
def test_drafted_lists_and_shadows_are_of_each_challenger_alike(out: tuple[str, ...]) -> None:
    stage = trial(0.6, mode=TrialMode.INTERLEAVE, challengers=3, out=out)
    left = [name for name in names(3) if name not in out]
    rivals = Counter(assign(unit, stage).rival for unit in UNITS)
    assert near(rivals.pop(None), 0.4)
    drawn = Counter(found.name if (found := shadowed_by(unit, stage)) else None for unit in UNITS)
    for counted, all_of_them in ((rivals, 0.6), (drawn, 1.0)):
        assert set(counted) == set(left)
        for name in left:
            assert near(counted[name], all_of_them / len(left))


def test_with_all_challengers_out_nobody_is_asked_beside_the_champion() -> None:
    stage = trial(0.6, mode=TrialMode.INTERLEAVE, challengers=2, out=("challenger", "challenger-2"))
    assert {assign(unit, stage) for unit in UNITS[:1_000]} == {OUT, OUTSIDE}
    assert shadowed_by("r", replace(stage, mode=TrialMode.SHADOW)) is None


def test_every_process_assigns_alike() -> None:
    code = (
        "from serving.choosing.assignment import assign\n"
        "from stores.serving_records import ServingTrial\n"
        "trial = ServingTrial('t', 2, 'd', 1, 's', 0.5)\n"
        "print(''.join(assign(f'ü{n}', trial, holdback=0.1).variant[3] for n in range(500)))"
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
    here = "".join(assign(f"ü{n}", trial(), holdback=0.1).variant[3] for n in range(500))
    assert told == {here}
    assert set(here) == {"m", "l"}  # champion, challenger
