"""The α that was spent, added up; each figure by hand."""

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate.alpha_ledger import TrialSpending, alpha_ledger

NOW = datetime(2027, 1, 1, tzinfo=UTC)


def trial(number: int, *, days_ago: float, spent: float, promoted: bool = False) -> TrialSpending:
    return TrialSpending(f"trial-{number}", NOW - timedelta(days=days_ago), spent, promoted)


def test_the_sum_is_what_may_be_false() -> None:
    trials = [
        trial(1, days_ago=500, spent=0.025, promoted=True),
        trial(3, days_ago=100, spent=0.010, promoted=True),
        trial(2, days_ago=200, spent=0.025),
        trial(4, days_ago=1, spent=0.0),
    ]
    found = alpha_ledger(trials, now=NOW, alpha=0.025)
    assert [each.trial for each in found.spendings] == ["trial-1", "trial-2", "trial-3", "trial-4"]
    assert found.expected_false == pytest.approx(0.060)
    assert found.trailing_year == found.a_year == pytest.approx(0.035)  # the ledger is older than a year
    assert found.trials_a_year == 3
    assert found.may_be_false == pytest.approx(0.060 / 2)
    said = found.as_json()
    assert {name: said[name] for name in ("trials", "promotions")} == {"trials": 4, "promotions": 2}
    assert said["spent"]["trial-3"] == 0.010


def test_a_young_ledger_is_scaled_to_a_year_but_not_from_a_day() -> None:
    """Two trials in 73.05 days are ten a year; two on one day count as two in four weeks."""
    steady = alpha_ledger(
        [trial(1, days_ago=73.05, spent=0.025), trial(2, days_ago=10, spent=0.025)], now=NOW, alpha=0.025
    )
    assert steady.trials_a_year == pytest.approx(10)
    assert steady.a_year == pytest.approx(10 * 0.025)
    hasty = alpha_ledger([trial(1, days_ago=0, spent=0.02), trial(2, days_ago=-1, spent=0.02)], now=NOW, alpha=0.025)
    assert hasty.trials_a_year == pytest.approx(2 * 365.25 / 28)


def test_more_trials_are_more_luck() -> None:
    found = alpha_ledger([], now=NOW, alpha=0.025)
    assert (found.expected_false, found.a_year, found.trials_a_year, found.may_be_false) == (0, 0, 0, None)
    weekly = next(pace for pace in found.paces if pace.trials_a_year == 52)
    assert weekly.expected_false == pytest.approx(52 * 0.025)
    assert weekly.any_false == pytest.approx(1 - 0.975**52)
    assert [pace.any_false for pace in found.paces] == sorted(pace.any_false for pace in found.paces)


@given(st.lists(st.tuples(st.floats(0, 900), st.floats(0, 0.05), st.booleans()), max_size=20))
def test_no_share_is_above_one_and_no_year_above_the_whole(rows: list[tuple[float, float, bool]]) -> None:
    trials = [trial(n, days_ago=days, spent=spent, promoted=won) for n, (days, spent, won) in enumerate(rows)]
    found = alpha_ledger(trials, now=NOW, alpha=0.025)
    assert found.trailing_year <= found.expected_false + 1e-12
    assert found.may_be_false is None or 0 <= found.may_be_false <= 1
    assert (found.may_be_false is None) == (not any(won for *_, won in rows))


@pytest.mark.parametrize("spent", [-0.1, 1.2, math.nan])
def test_what_no_trial_can_spend_is_refused(spent: float) -> None:
    with pytest.raises(ValueError, match="trial-1 spent"):
        alpha_ledger([trial(1, days_ago=1, spent=spent)], now=NOW, alpha=0.025)
    with pytest.raises(ValueError, match=r"alpha 1.0 is outside"):
        alpha_ledger([], now=NOW, alpha=1.0)
