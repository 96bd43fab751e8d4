"""Five users on tiny frames, every number counted by hand; then laws on random ones."""

from datetime import UTC, date, datetime, timedelta

import ibis
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.estimator import SUMS
from relations.schemas import EVENTS, EXPOSURES
from relations.sums import (
    SUM_COLUMNS,
    OutcomeRule,
    arm_day_sums,
    of_rule,
    user_outcomes,
)
from relations.trial_users import Comparison, TrialWindow, exposed_counts, first_exposures

START = datetime(2026, 3, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)
WINDOW = TrialWindow(
    trial_id="t1", start=START, watermark=START + 72 * HOUR, window=24 * HOUR, before=timedelta(days=7)
)
CLICKS = OutcomeRule("click")
REST = {
    **{"item_id": "i", "position": 1, "propensity": 1.0, "propensity_kind": "exact", "score": None, "policy": "p"},
    **{"surface": "default", "allocation": 0.5, "assignment_reason": "hash", "champion_epoch": 1, "model_version": 1},
    **{"digest": "d", "served_by": "model", "candidate_set_hash": "h", "explored": False, "bot_rules": None},
    **{"latency_ms": 1.0, "error": None, "context": None, "received_time": START, "source": "s", "delivery_id": "d"},
}


def exposure(name, user, hours, *, variant="champion", trial="t1", shadow=False, bot=False, **others):
    row = {
        **REST,
        **{"exposure_id": name, "request_id": name, "user": user, "variant": variant, "trial": trial},
        **{"is_shadow": shadow, "is_bot": bot, "shown_time": START + hours * HOUR},
    }
    return {**row, **others}


def event(name, exposure_id, hours, *, behaviour="click", value=None):
    return {
        **{"event_id": name, "user": "u", "item_id": "i", "behaviour": behaviour, "value": value},
        **{"event_time": START + hours * HOUR, "received_time": START, "source": "s"},
        **{"exposure_id": exposure_id, "delivery_id": "d"},
    }


def tables(exposures, events):
    return (
        ibis.memtable(pa.Table.from_pylist(exposures, schema=EXPOSURES)),
        ibis.memtable(pa.Table.from_pylist(events, schema=EVENTS)),
    )


def rows_of(exposures, events, *, window=WINDOW, outcome=CLICKS):
    users = outcomes(exposures, events, window=window, outcome=outcome)
    return {row["user"]: row for row in users.to_pyarrow().to_pylist()}


def outcomes(exposures, events, *, window=WINDOW, outcome=CLICKS):
    return of_rule(user_outcomes(*tables(exposures, events), window=window, rules=[outcome]), 0)


def numbers(row):
    return row["S"], row["N"], row["S0"], row["N0"]


def test_two_impressions_and_two_clicks():
    found = rows_of(
        [exposure("a1", "ann", 1), exposure("a2", "ann", 2), exposure("a3", "ann", 3)],
        [event("e1", "a1", 1.1), event("e2", "a2", 2.5)],
    )
    assert numbers(found["ann"]) == (2, 3, 0, 0)
    assert found["ann"]["day"] == date(2026, 3, 2)
    assert found["ann"]["is_new"]


def test_a_duplicate_outcome_counts_once_but_its_value_twice():
    shown = [exposure("a1", "ann", 1)]
    twice = [event("e1", "a1", 2, value=1.5), event("e2", "a1", 3, value=2.0), event("e3", "a1", 4)]
    assert numbers(rows_of(shown, twice)["ann"]) == (1, 1, 0, 0)
    summed = rows_of(shown, twice, outcome=OutcomeRule("click", summed=True))
    assert numbers(summed["ann"]) == (1.5 + 2.0 + 0, 1, 0, 0)


def test_a_cap_is_on_the_users_total_and_on_the_pre_periods():
    """ann: 4 + 5 = 9 → 6, before 7 → 6; bob's 2 and his refund of -3 stay as they are. N is no business of a cap."""
    shown = [
        *(exposure("a1", "ann", 1), exposure("a2", "ann", 2), exposure("p1", "ann", -2, trial=None)),
        *(exposure("b1", "bob", 1), exposure("b2", "bob", 1), exposure("q1", "bob", -2, trial=None)),
    ]
    named = [
        *(event("e1", "a1", 2, value=4.0), event("e2", "a2", 3, value=5.0), event("e3", "p1", -1, value=7.0)),
        *(event("e4", "b1", 2, value=2.0), event("e5", "q1", -1, value=-3.0)),
    ]
    found = rows_of(shown, named, outcome=OutcomeRule("click", summed=True, cap=6.0))
    assert {user: numbers(row) for user, row in found.items()} == {"ann": (6, 2, 6, 1), "bob": (2, 2, -3, 1)}


def test_the_window_is_closed_and_starts_with_the_first_exposure():
    shown = [exposure("a1", "ann", 1), exposure("a2", "ann", 25), exposure("a3", "ann", 25.001)]
    late = 25 + 1 / 3600
    named = [event("e1", "a1", 25), event("e2", "a2", late), event("e3", "a3", 25.002)]
    # a3 is shown after 1 + 24 h; the click on a2 comes a second too late; the one on a1 at the last moment
    assert numbers(rows_of(shown, named)["ann"]) == (1, 2, 0, 0)


def test_only_the_metrics_behaviour_and_only_outcomes_of_exposures():
    shown = [exposure("a1", "ann", 1)]
    other = [event("e1", "a1", 2, behaviour="cart"), event("e2", None, 2), event("e3", "elsewhere", 2)]
    assert numbers(rows_of(shown, other)["ann"]) == (0, 1, 0, 0)
    assert numbers(rows_of(shown, other, outcome=OutcomeRule("cart"))["ann"]) == (1, 1, 0, 0)


def test_an_immature_user_is_not_in_the_data():
    shown = [exposure("a1", "ann", 48), exposure("b1", "bob", 48.001)]
    found = rows_of(shown, [event("e1", "b1", 49)])
    assert set(found) == {"ann"}  # 48 + 24 ≤ 72 is matured, a few seconds later is not


def test_bots_shadows_canaries_other_trials_and_other_variants_are_left_out():
    shown = [
        exposure("a1", "ann", 1),
        exposure("a2", "ann", 2, bot=True),
        exposure("a3", "ann", 2, shadow=True),
        exposure("a4", "ann", 2, trial="t2"),
        exposure("a5", "ann", 2, trial=None),
        exposure("a6", "ann", 2, variant="popularity"),
        exposure("a7", "ann", 2, variant="interleaved"),
        exposure("b1", "bot", 1, bot=True),
        exposure("c1", "cat", 1, assignment_reason="canary"),
        exposure("c2", "cat", 2, assignment_reason="canary", variant="challenger"),
    ]
    found = rows_of(shown, [event(f"e{place}", f"a{place}", 3) for place in range(1, 8)])
    assert set(found) == {"ann"}
    assert numbers(found["ann"]) == (1, 1, 0, 0)


def test_a_fallback_stays_in_the_arm_that_was_assigned():
    shown = [exposure("a1", "ann", 1, variant="challenger", served_by="popularity", error="timeout")]
    assert rows_of(shown, [])["ann"]["arm"] == "challenger"


def test_a_user_seen_in_both_arms_keeps_the_first_and_is_reported():
    shown = [
        exposure("a2", "ann", 2, variant="challenger"),
        exposure("a1", "ann", 1, variant="champion"),
        exposure("b1", "bob", 1, variant="challenger"),
    ]
    found = rows_of(shown, [])
    assert found["ann"]["arm"] == "champion"
    assert found["ann"]["crossed"]
    assert not found["bob"]["crossed"]
    counts = exposed_counts(tables(shown, [])[0], Comparison("t1")).to_pyarrow().to_pylist()
    assert counts == [
        {"arm": "challenger", "users": 1, "crossed": 0},
        {"arm": "champion", "users": 1, "crossed": 1},
    ]


def test_ties_in_time_go_to_the_smaller_exposure_id():
    shown = [exposure("b", "ann", 1, variant="challenger"), exposure("a", "ann", 1, variant="champion")]
    (row,) = first_exposures(tables(shown, [])[0], Comparison("t1")).to_pyarrow().to_pylist()
    assert row["arm"] == "champion"


def test_the_pre_period_is_the_users_own_and_ends_at_the_start():
    shown = [
        exposure("a1", "ann", 1),
        exposure("p1", "ann", -1, trial=None),
        exposure("p2", "ann", -2, trial="t0", variant="challenger"),
        exposure("p3", "ann", -7 * 24, trial=None),  # the first moment of the pre-period
        exposure("p4", "ann", -7 * 24 - 1, trial=None),  # before it
        exposure("p5", "ann", -3, trial=None, bot=True),
        exposure("q1", "bob", -1, trial=None),  # bob never joins the trial
    ]
    named = [
        event("e1", "p1", -0.5),
        event("e2", "p2", 0),  # at the start: the trial's time, not the pre-period's
        event("e3", "p3", -24),
        event("e4", "p4", -24),
        event("e5", "p5", -2),
        event("e6", "q1", -0.5),
    ]
    found = rows_of(shown, named)
    assert set(found) == {"ann"}
    assert numbers(found["ann"]) == (0, 1, 2, 3)
    assert not found["ann"]["is_new"]


def test_days_are_utc_days():
    shown = [exposure("a1", "ann", 23.999), exposure("b1", "bob", 24)]
    found = rows_of(shown, [])
    assert (found["ann"]["day"], found["bob"]["day"]) == (date(2026, 3, 2), date(2026, 3, 3))


def test_sums_by_hand():
    shown = [
        *(exposure(f"a{place}", "ann", 1) for place in range(4)),
        *(exposure(f"p{place}", "ann", -5, trial=None) for place in range(5)),
        *(exposure(f"b{place}", "bob", 2) for place in range(6)),
        exposure("c1", "cat", 25, variant="challenger"),
    ]
    named = [
        event("e1", "a0", 2),
        *(event(f"f{place}", f"b{place}", 3) for place in range(2)),
        *(event(f"g{place}", f"p{place}", -4) for place in range(3)),
    ]
    users = outcomes(shown, named)
    first, second = arm_day_sums(users).to_pyarrow().to_pylist()
    # ann: S, N, S0, N0 = 1, 4, 3, 5; bob: 2, 6, 0, 0
    expected = {"arm": "champion", "day": date(2026, 3, 2), "n": 2, "s": 1 + 2, "i": 4 + 6, "s0": 3, "i0": 5}
    expected |= {"ss": 1 + 4, "si": 4 + 12, "ii": 16 + 36, "s_s0": 3, "s_i0": 5, "i_s0": 12, "i_i0": 20}
    expected |= {"s0s0": 9, "s0i0": 15, "i0i0": 25}
    assert first == expected
    assert (second["arm"], second["day"], second["n"], second["i"]) == ("challenger", date(2026, 3, 3), 1, 1)


def test_the_columns_are_the_estimators():
    assert SUM_COLUMNS == SUMS


def test_no_exposures_at_all():
    users = outcomes([], [])
    assert arm_day_sums(users).to_pyarrow().num_rows == 0
    assert exposed_counts(tables([], [])[0], Comparison("t1")).to_pyarrow().num_rows == 0


def test_the_clock_of_the_machine_does_not_matter(monkeypatch):
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    assert rows_of([exposure("a1", "ann", 1)], [])["ann"]["day"] == date(2026, 3, 2)


SHOWN = st.lists(
    st.tuples(
        st.sampled_from("abcde"), st.integers(-200, 90), st.booleans(), st.integers(0, 3), st.sampled_from(["t1", None])
    ),
    max_size=40,
)


@settings(max_examples=8, deadline=None)
@given(shown=SHOWN, seed=st.randoms(use_true_random=False))
def test_order_of_rows_is_irrelevant_and_days_add_up(shown, seed):
    exposures, events = [], []
    for place, (user, hours, bot, clicks, trial) in enumerate(shown):
        variant = "champion" if user in "abc" else "challenger"
        exposures.append(exposure(f"x{place}", user, hours, variant=variant, bot=bot and clicks == 0, trial=trial))
        events += [event(f"e{place}-{number}", f"x{place}", hours + number) for number in range(clicks)]
    users = outcomes(exposures, events)
    sums = arm_day_sums(users).to_pyarrow().to_pylist()
    seed.shuffle(exposures)
    seed.shuffle(events)
    again = arm_day_sums(outcomes(exposures, events))
    assert again.to_pyarrow().to_pylist() == sums
    rows = users.to_pyarrow().to_pylist()
    for arm in ("champion", "challenger"):
        members = [row for row in rows if row["arm"] == arm]
        for name, value in (
            ("n", len(members)),
            ("s", sum(row["S"] for row in members)),
            ("i_s0", sum(row["N"] * row["S0"] for row in members)),
        ):
            assert sum(row[name] for row in sums if row["arm"] == arm) == pytest.approx(value)
