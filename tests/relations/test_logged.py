"""Logged choices: which count, what they earned within the window, and what was known when they were made."""

from datetime import UTC, datetime, timedelta
from typing import Any

import ibis
import pyarrow as pa

from relations.logged import histories_at, logged_slots, slot_rewards
from relations.schemas import EVENTS, EXPOSURES

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
REQUESTS = pa.schema(
    [("request_id", pa.string()), ("user", pa.string()), ("shown_time", EXPOSURES.field("shown_time").type)]
)


def exposure(request: str, position: int, **stated: Any) -> dict[str, Any]:
    return {
        **{"exposure_id": f"{request}:{position}", "request_id": request, "user": "ü", "item_id": f"i{position}"},
        **{"position": position, "propensity": 0.5, "propensity_kind": "exact", "policy": "p", "surface": "default"},
        **{"variant": "champion", "allocation": 0.0, "assignment_reason": "no trial", "champion_epoch": 1},
        **{"model_version": 1, "digest": "d", "served_by": "m", "candidate_set_hash": "h", "explored": False},
        **{"is_shadow": False, "is_bot": False, "latency_ms": 1.0, "shown_time": NOON, "received_time": NOON},
        **{"source": "s", "delivery_id": "d"},
        **stated,
    }


def event(name: str, hours: float, **stated: Any) -> dict[str, Any]:
    at = NOON + hours * HOUR
    return {
        **{"event_id": name, "user": "ü", "item_id": name, "behaviour": "click", "value": None, "event_time": at},
        **{"received_time": at, "source": "serving", "exposure_id": None, "delivery_id": "d"},
        **stated,
    }


def table(rows: list[dict[str, Any]], schema: pa.Schema) -> ibis.Table:
    return ibis.memtable(pa.Table.from_pylist(rows, schema=schema))


def slots(rows: list[dict[str, Any]], *, most: int = 9) -> ibis.Table:
    return logged_slots(table(rows, EXPOSURES), digest="d", policy="p", since=NOON - HOUR, until=NOON + HOUR, most=most)


def test_only_one_models_own_exact_choices_count() -> None:
    rows = [
        exposure("r1", 1),
        exposure("r1", 2),
        exposure("r2", 1, trial="t", assignment_reason="trial"),
        exposure("r3", 1, propensity_kind="estimated"),
        exposure("r4", 1, digest="other"),
        exposure("r5", 1, policy="team-draft"),
        exposure("r6", 1, is_bot=True),
        exposure("r7", 1, is_shadow=True),
        exposure("r8", 1, shown_time=NOON - 2 * HOUR),
        exposure("r9", 1, shown_time=NOON + 2 * HOUR),
        exposure("ra", 1, variant="challenger"),
    ]
    found = slots(rows).to_pyarrow().to_pylist()
    assert sorted((row["request_id"], row["position"]) for row in found) == [("r1", 1), ("r1", 2), ("r2", 1)]
    assert sorted({row["request_id"] for row in slots(rows, most=1).to_pyarrow().to_pylist()}) == ["r1"]


def test_a_slot_earns_what_names_it_within_the_window() -> None:
    """Two clicks are one; a click 25 hours later, or of nothing shown, is none; values add up."""
    shown = slots([exposure("r", position) for position in (2, 1, 3)])
    events = table(
        [
            event("a", 1, exposure_id="r:1"),
            event("b", 2, exposure_id="r:1"),
            event("c", 25, exposure_id="r:2"),
            event("d", 1, exposure_id="elsewhere"),
            event("e", 1, exposure_id="r:3", behaviour="purchase", value=2.5),
            event("f", 24, exposure_id="r:3", behaviour="purchase", value=4.0),
        ],
        EVENTS,
    )
    window = timedelta(hours=24)
    clicks = slot_rewards(shown, events, behaviour="click", summed=False, window=window).to_pyarrow().to_pylist()
    assert [(row["position"], row["reward"]) for row in clicks] == [(1, 1.0), (2, 0.0), (3, 0.0)]
    value = slot_rewards(shown, events, behaviour="purchase", summed=True, window=window).to_pyarrow().to_pylist()
    assert [row["reward"] for row in value] == [0.0, 0.0, 6.5]


def test_a_history_is_what_was_known() -> None:
    """Feedback at once, files when they came; nothing of the request's own instant; the newest three, oldest first."""
    requests = table([{"request_id": "r", "user": "ü", "shown_time": NOON}], REQUESTS)
    events = table(
        [
            event("old", -9),
            event("b", -3),
            event("a", -3),
            event("feedback", -1, received_time=NOON + HOUR),
            event("filed late", -1, source="files", received_time=NOON + HOUR),
            event("now", 0),
            event("of another", -1, user="v"),
            event("a search", -1, item_id=None, behaviour="search"),
        ],
        EVENTS,
    )
    found = histories_at(requests, events, told_at_once=("serving",), length=3).to_pyarrow().to_pylist()
    assert [row["item_id"] for row in found] == ["a", "b", "feedback"]
    whole = histories_at(requests, events, told_at_once=("serving", "files"), length=9).to_pyarrow().to_pylist()
    assert [row["item_id"] for row in whole] == ["old", "a", "b", "feedback", "filed late"]
