"""Batch verdicts: bounds by hand, Great Expectations agreeing with them, and what must never be an anomaly."""

from math import log, sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expectations.batches import EVENT_RULES, Bound, Severity, bounds, judge_profile

USUAL = {
    **{"rows": 5_000.0, "user_top": 0.01, "presence": 0.0, "regular": 0.0, "fast": 0.0, "heavy": 0.01},
    **{"item_surge": 0.004, "orphans": 0.0, "flip_mean": 0.01, "flip_rows": 2_500.0, "behaviour_psi": 0.001},
    **{
        "item_unknown": 0.0,
        "ahead": 0.0,
        "behind": 0.0,
        "newest_age_hours": 1.0,
        "null_value": 0.0,
        "rating_mean": 3.5,
    },
}
WINDOW = [USUAL] * 30


def found(profile: dict[str, float], window: list[dict[str, float]] = WINDOW) -> dict[str, Bound]:
    given = bounds(profile, baseline=window, kind="events", min_window=8, min_rows=200)
    return {bound.name: bound for bound in given}


def test_bounds_by_hand() -> None:
    surges = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09)  # median .05, |x − .05| has median .02
    seen = found(USUAL, [{**USUAL, "item_surge": surge} for surge in surges])
    assert seen["item_surge_critical"].high == pytest.approx(0.05 + 6 * 1.4826 * 0.02)
    assert (seen["item_surge_critical"].smallest, seen["item_surge_critical"].largest) == (0.01, 0.09)
    assert seen["heavy_critical"].high == 0.027  # its floor: nothing varies in the window
    assert seen["flip_mean_critical"].high == pytest.approx(0.01 + 3 * 1.4 / sqrt(2_500))
    assert seen["rows_warning"].low == pytest.approx(5_000 / 3)
    assert seen["rows_warning"].high == pytest.approx(5_000 * 3)


def test_few_rows_have_wider_bounds() -> None:
    """250 rows: below 20 of them a share is chance; 100 ratings: their mean errs five times as much as 2,500."""
    small = found({**USUAL, "rows": 250.0, "flip_rows": 100.0})
    assert small["user_top_critical"].high == 20 / 250
    assert small["flip_mean_critical"].high == pytest.approx(0.01 + 3 * 1.4 / sqrt(100))


def test_volume_varies_by_factors() -> None:
    """Half of the days are ten times as busy: the bounds are six robust deviations of the logarithm away."""
    window = [{**USUAL, "rows": rows} for rows in (1_000.0, 10_000.0) * 8]
    bound = found(USUAL, window)["rows_warning"]
    middle, room = (log(1_000) + log(10_000)) / 2, 6 * 1.4826 * log(10) / 2
    assert log(bound.high) == pytest.approx(middle + room)
    tops = [{**USUAL, "user_top": 0.05}] * 8
    assert found(USUAL, tops)["user_top_critical"].high == pytest.approx(1.5 * 0.05)  # up to half as much again


def test_no_verdict_without_a_baseline() -> None:
    bad = {**USUAL, "user_top": 0.9}
    for window in ([], WINDOW[:7], [{**USUAL, "rows": 199.0}] * 30):
        verdict = judge_profile(bad, baseline=window, kind="events")
        assert (verdict.critical, verdict.warnings, verdict.result) == ((), (), None)
    assert judge_profile({**bad, "rows": 199.0}, baseline=WINDOW, kind="events").result is None
    assert judge_profile({}, baseline=WINDOW, kind="events").result is None


def test_a_usual_delivery_passes() -> None:
    verdict = judge_profile(USUAL, baseline=WINDOW, kind="events")
    assert (verdict.critical, verdict.warnings) == ((), ())
    assert verdict.result.success


def test_messages_for_a_person_at_three() -> None:
    verdict = judge_profile({**USUAL, "user_top": 0.14, "rows": 50_000.0}, baseline=WINDOW, kind="events")
    (critical,), (warning,) = verdict.critical, verdict.warnings
    assert critical.column == "user_top"
    assert critical.expectation == "expect_column_values_to_be_between"
    assert critical.message.startswith(
        "one user wrote 14 % of the rows; the last 30 deliveries had at most 1 %, and the bound is 3 %; a client that"
    )
    assert "ratchet quarantine show" in critical.message
    assert warning.message.startswith(
        "the delivery has 50,000 rows; the last 30 deliveries had 5,000 to 5,000, and the bounds are 1,667 and 15,000; "
    )


def test_what_is_extreme_is_critical_and_said_once() -> None:
    some = judge_profile({**USUAL, "ahead": 0.2, "behaviour_psi": 0.1}, baseline=WINDOW, kind="events")
    assert ({reason.column for reason in some.warnings}, some.critical) == ({"ahead", "behaviour_psi"}, ())
    most = judge_profile({**USUAL, "ahead": 0.6, "behaviour_psi": 0.3}, baseline=WINDOW, kind="events")
    assert ({reason.column for reason in most.critical}, most.warnings) == ({"ahead", "behaviour_psi"}, ())


def test_other_kinds_are_judged_by_volume() -> None:
    window = [{"rows": 1_000.0}] * 8
    verdict = judge_profile({"rows": 300.0}, baseline=window, kind="items")
    assert ([reason.column for reason in verdict.warnings], verdict.critical) == (["rows"], ())


def test_numbers_that_are_missing_are_not_judged() -> None:
    assert judge_profile({"rows": 5_000.0}, baseline=WINDOW, kind="events").critical == ()
    young = [{name: value for name, value in USUAL.items() if name != "user_top"}] * 25 + [USUAL] * 5
    assert "user_top_critical" not in found(USUAL, young)


numbers = sorted({norm.number for norm in EVENT_RULES})


@settings(max_examples=5, deadline=None)
@given(values=st.fixed_dictionaries({name: st.sampled_from((0.0, 0.015, 0.04, 0.3, 0.9, 30.0)) for name in numbers}))
def test_great_expectations_agrees_with_the_bounds(values: dict[str, float]) -> None:
    profile = {**USUAL, **values}
    verdict = judge_profile(profile, baseline=WINDOW, kind="events")
    broken = [bound for bound in found(profile).values() if not bound.holds(profile)]
    critical = {bound.norm.number for bound in broken if bound.norm.severity is Severity.CRITICAL}
    assert {reason.column for reason in verdict.critical} == critical
    assert {reason.column for reason in verdict.warnings} == {bound.norm.number for bound in broken} - critical
