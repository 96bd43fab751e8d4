"""Who comes on which day, counted by hand and by a plain loop."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import ibis
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relations.schemas import EVENTS, EXPOSURES
from relations.sums import OutcomeRule, user_outcomes
from relations.traffic import EVERYBODY, as_one_arm, shown_to, visits
from relations.trial_users import TrialWindow

END = datetime(2026, 3, 9, 21, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
SEEN = pa.schema([("user", pa.string()), ("at", pa.timestamp("us", tz="UTC"))])


def counted(rows: list[tuple[str, float]], *, days: int) -> list[tuple[int, int, int]]:
    """`rows`: user, and how many hours before the end."""
    table = pa.Table.from_pylist([{"user": user, "at": END - ago * HOUR} for user, ago in rows], schema=SEEN)
    found = visits(ibis.memtable(table), until=END, days=days).to_pyarrow().to_pylist()
    return [(row["first"], row["visited"], row["users"]) for row in found]


def test_users_by_first_day_and_days() -> None:
    """The end belongs to the last day, what is 48 hours old to none of two days."""
    rows = [("ä", 0), ("ä", 1), ("ä", 30), ("b", 23.9), ("c", 24.5), ("d", 47.9), ("late", 48), ("b", 300), ("c", -1)]
    # Day 0 is 48 to 24 hours ago: ä (both days), c, d; day 1: b
    assert counted(rows, days=2) == [(0, 1, 2), (0, 2, 1), (1, 1, 1)]


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcdefg"), st.integers(-60, 24 * 60 * 8)), min_size=1, max_size=60),
    st.integers(1, 9),
)
def test_a_plain_loop_counts_the_same(rows: list[tuple[str, int]], days: int) -> None:
    when: dict[str, set[int]] = {}
    for user, minutes in rows:
        if 0 <= minutes < days * 24 * 60:
            when.setdefault(user, set()).add(days - 1 - minutes // (24 * 60))
    expected = Counter((min(each), len(each)) for each in when.values())
    found = counted([(user, minutes / 60) for user, minutes in rows], days=days)
    assert {(first, visited): users for first, visited, users in found} == dict(expected)


def exposure(name: str, **stated: Any) -> dict[str, Any]:
    return {
        **{"exposure_id": name, "request_id": name, "user": "u", "item_id": "i", "position": 1, "propensity": 1.0},
        **{"propensity_kind": "exact", "policy": "p", "surface": "default", "variant": "champion", "allocation": 0.5},
        **{"assignment_reason": "trial", "champion_epoch": 1, "model_version": 1, "digest": "d", "served_by": "m"},
        **{"candidate_set_hash": "h", "explored": False, "is_shadow": False, "is_bot": False, "latency_ms": 1.0},
        **{"shown_time": END - 30 * HOUR, "received_time": END, "source": "s", "delivery_id": "d"},
        **stated,
    }


def test_everybody_is_one_arm_whatever_showed_them_what() -> None:
    """Challengers', canaries' and nobody's exposures count; shadows and bots do not. Fallbacks stay failures."""
    exposures = ibis.memtable(
        pa.Table.from_pylist(
            [
                exposure("1", user="ä", variant="challenger-2", trial="t1"),
                exposure("2", user="ä", variant="champion", trial=None, assignment_reason="fallback"),
                exposure("3", user="b", trial="t2", assignment_reason="canary"),
                exposure("4", user="c", is_bot=True),
                exposure("5", user="d", is_shadow=True),
            ],
            schema=EXPOSURES,
        )
    )
    assert sorted(shown_to(exposures).to_pyarrow().column("user").to_pylist()) == ["b", "ä", "ä"]
    window = TrialWindow(
        trial_id=EVERYBODY,
        start=END - 48 * HOUR,
        watermark=END,
        window=24 * HOUR,
        before=timedelta(days=7),
    )
    none = ibis.memtable(pa.Table.from_pylist([], schema=EVENTS))
    rows = user_outcomes(as_one_arm(exposures), none, window=window, rules=[OutcomeRule("failure")]).to_pyarrow()
    found = {row["user"]: (row["arm"], row["S_0"], row["N_0"]) for row in rows.to_pylist()}
    assert found == {"ä": ("champion", 1.0, 2.0), "b": ("champion", 0.0, 1.0)}


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="until = 2026-03-09"):
        visits(ibis.memtable(pa.Table.from_pylist([], schema=SEEN)), until=END.replace(tzinfo=None), days=2)
