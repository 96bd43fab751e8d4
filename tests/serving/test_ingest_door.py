"""What serving writes enters by the same door as any other source, and comes back as serving's own state."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from fastapi.testclient import TestClient

from stores.lake import Lake
from stores.sqlite_state import SqliteState
from tasks.ingesting import ingest_landing
from tasks.refreshing import refresh_serving

T = "2026-01-01T00:00:00Z"


def test_every_row_is_accepted_and_an_outcome_names_its_exposure(shop: Any, start: Callable[..., TestClient]) -> None:
    shop.publish("a", "ü🛒", "c")
    client = start()
    simulated = {"X-Ratchet-Now": T}
    for user in ("u", "v", "👩‍👩‍👧"):
        body = {"user_id": user, "k": 3, "context": {"page": "ü"}}
        shown = client.post("/v1/recommend", json=body, headers=simulated).json()["items"]
        click = {"token": shown[0]["token"], "user_id": user, "item_id": shown[0]["item_id"], "behaviour": "click"}
        organic = {"user_id": user, "item_id": "else\nwhere", "behaviour": "rating", "value": 4.5, "event_time": T}
        told = client.post("/v1/feedback", json={"events": [click, organic]}, headers=simulated).json()
        assert told == {"accepted": 2, "duplicate": 0, "refused": []}
    client.app.state.service.close()  # type: ignore[attr-defined]

    receipts = ingest_landing(home=shop.home, settings=shop.settings, now=datetime(2026, 1, 1, 0, 1, tzinfo=UTC))
    assert {(r.kind, r.delivered, r.accepted) for r in receipts} == {("exposures", 9, 9), ("events", 6, 6)}
    lake = Lake(shop.home.lake)
    exposures, events = lake.read("exposures").to_pylist(), lake.read("events").to_pylist()
    outcomes = {event["exposure_id"]: event for event in events if event["exposure_id"]}
    assert len(outcomes) == 3
    for exposure in exposures:
        outcome = outcomes.get(exposure["exposure_id"])
        if outcome:
            assert (outcome["user"], outcome["item_id"]) == (exposure["user"], exposure["item_id"])
    # Ingest feeds the same events to the user state, which knows them already.
    refresh_serving(shop.home, shop.settings)
    state = SqliteState(shop.home.user_state)
    assert [len(state.newest(user, 9)) for user in {exposure["user"] for exposure in exposures}] == [2, 2, 2]
    state.close()
