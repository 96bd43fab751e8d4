"""The kill switch over HTTP: who pulled it and why, with the ledger and without it, and what cannot be killed."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from stores import kill_switch
from stores.api_keys import Role, add_key
from stores.kill_switch import Kill
from stores.ledger_records import TrialMode

Start = Callable[..., TestClient]
T = "2026-01-01T00:00:00Z"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
USERS = [f"user {n}" for n in range(30)]
WHY = "carts are empty since 14:00"


def begin(shop: Any, **given: Any) -> str:
    digest: str = shop.crown()
    shop.trial(shop.version(), shop.version(), **given)
    return digest


def key(shop: Any, name: str) -> dict[str, str]:
    """The header of a new key with this name and all roles."""
    shown = add_key(shop.home.api_keys, name=name, roles=list(Role), lifetime=None, now=datetime.now(UTC))[1]
    return {"Authorization": f"Bearer {shown}"}


def kill(client: TestClient, headers: dict[str, str] | None = None, **body: str) -> Any:
    return client.post("/v1/admin/kill", json=body, headers=headers)


def arms(client: TestClient, headers: dict[str, str] | None = None) -> set[str]:
    asked = (headers or {}) | {"X-Ratchet-Now": T}
    bodies = ({"user_id": user, "k": 2} for user in USERS)
    return {client.post("/v1/recommend", json=body, headers=asked).json()["model"]["arm"] for body in bodies}


def refused(answer: Any, status: int, kind: str) -> str:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    problem = answer.json()
    assert problem["type"] == f"urn:ratchet:problem:{kind}"
    return str(problem["detail"])


def test_the_open_trial_is_killed_in_the_name_of_the_key(shop: Any, start: Start) -> None:
    begin(shop)
    headers = key(shop, "on call: zoë")
    client = start()
    assert arms(client, headers) == {"champion", "challenger", "challenger-2"}
    answer = kill(client, headers, reason=WHY)
    assert (answer.status_code, answer.json()) == (
        200,
        {"trial": "t1", "killed": True, "actor": "on call: zoë", "recorded": True, "warning": ""},
    )
    assert arms(client, headers) == {"champion"}  # from the answer on, without another look at the file
    (entry,) = kill_switch.read(shop.home.kill_switch)
    assert (entry.trial, entry.actor, entry.reason) == ("t1", "on call: zoë", WHY)
    stage = shop.ledger.trial("t1").stages[-1]
    assert (stage.mode, stage.actor, stage.reason) == (TrialMode.KILLED, "on call: zoë", WHY)
    assert kill(client, headers, reason="again", trial="t1").json()["killed"] is True  # twice is once
    assert [each.reason for each in kill_switch.read(shop.home.kill_switch)] == [WHY]
    assert shop.ledger.verify() == []


def test_without_keys_this_machine_kills(shop: Any, start: Start) -> None:
    begin(shop)
    client = start()
    assert kill(client, reason=WHY).json()["actor"] == "this machine, without a key"
    assert arms(client) == {"champion"}


def test_without_the_ledger_serving_is_told_all_the_same(shop: Any, start: Start) -> None:
    begin(shop)
    client = start()
    (shop.home.root / "ledger.db").rename(shop.home.root / "ledger.away")
    (shop.home.root / "ledger.db").mkdir()  # SQLite cannot open a folder
    told = kill(client, reason=WHY).json()
    assert (told["trial"], told["killed"], told["recorded"]) == ("t1", True, False)
    assert "serving is told; the ledger will be" in told["warning"]
    assert arms(client) == {"champion"}


def test_what_is_no_open_trial_is_not_found(shop: Any, start: Start) -> None:
    shop.crown()
    client = start()
    assert refused(kill(client, reason=WHY), 404, "not-found") == "no trial is open"
    assert "no such trial" in refused(kill(client, reason=WHY, trial="t7"), 404, "not-found")
    assert kill_switch.read(shop.home.kill_switch) == ()  # a later trial of that name is not dead on arrival


@pytest.mark.parametrize("named", [True, False])
def test_a_promotion_is_rolled_back_not_killed(shop: Any, start: Start, named: bool) -> None:
    shop.crown()
    shop.trial(shop.version(), bake_hours=24.0)
    shop.promote()
    detail = refused(kill(start(), reason=WHY, **{"trial": "t1"} if named else {}), 409, "conflict")
    assert "PROMOTING" in detail
    assert "ratchet rollback" in detail


@pytest.mark.parametrize(
    "body", [{}, {"reason": ""}, {"reason": " \t"}, {"reason": "x" * 1001}, {"reason": "x", "actor": "me"}]
)
def test_a_kill_needs_a_reason_and_takes_no_name(shop: Any, start: Start, body: dict[str, str]) -> None:
    begin(shop)
    client = start()
    refused(client.post("/v1/admin/kill", json=body), 422, "invalid")
    refused(client.post("/v1/admin/kill", content=json.dumps({"reason": WHY})), 415, "not-json")
    assert not shop.home.kill_switch.exists()


def test_a_kill_is_not_refused_for_load(shop: Any, start: Start) -> None:
    begin(shop)
    client = start()
    client.app.state.service.headroom.limit = 0  # type: ignore[attr-defined]
    body = {"user_id": "u"}
    assert client.post("/v1/recommend", json=body).status_code == 503
    assert kill(client, reason=WHY).status_code == 200


def test_a_damaged_switch_is_reported_and_the_ledger_stops_the_trial(shop: Any, start: Start) -> None:
    begin(shop)
    client = start()
    shop.home.kill_switch.write_text("{")
    told = kill(client, reason=WHY).json()
    assert told["recorded"] is True
    assert "not a kill switch" in told["warning"]
    assert arms(client) == {"champion"}


def test_an_earlier_kill_of_another_trial_stays(shop: Any, start: Start) -> None:
    begin(shop)
    kill_switch.add(shop.home.kill_switch, Kill("t0", "ann", "x", NOW - timedelta(days=1)))
    assert kill(start(), reason=WHY).status_code == 200
    assert [each.trial for each in kill_switch.read(shop.home.kill_switch)] == ["t0", "t1"]
