"""What a running app tells those who watch it."""

import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from relations.errors import DependencyFailed
from serving.networks.engine import Engine
from stores import facts, kill_switch
from stores.clock import set_clock
from stores.facts import Facts, Hold
from stores.kill_switch import Kill

Start = Callable[..., TestClient]
Scrape = Callable[[TestClient], dict[str, float]]
NOW = datetime(2026, 1, 15, tzinfo=UTC)
ROWS = {"delivered": 1000, "accepted": 690, "quarantined": 300, "duplicate": 10, "late": 0}


def ask(client: TestClient, user: str = "u", **more: Any) -> Any:
    return client.post("/v1/recommend", json={"user_id": user, "k": 3, **more})


def until(scrape: Scrape, client: TestClient, holds: Callable[[dict[str, float]], bool]) -> dict[str, float]:
    deadline = time.monotonic() + 20
    while not holds(found := scrape(client)):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def test_a_killed_trial_has_no_share_of_users(shop: Any, start: Start, scrape: Scrape) -> None:
    shop.crown()
    shop.trial(shop.version(), shop.version(), allocation=0.5)
    client = start()
    found = scrape(client)
    shares = {"champion": 0.5, "challenger": 0.25, "challenger-2": 0.25}
    assert {arm: found[f'ratchet_trial_share{{arm="{arm}"}}'] for arm in shares} == shares
    assert found['ratchet_trial_mode{mode="compare"}'] == 1
    kill_switch.add(shop.home.kill_switch, Kill("t1", "ann", "x", NOW))
    found = until(scrape, client, lambda found: found['ratchet_trial_mode{mode="killed"}'] == 1)
    assert found['ratchet_trial_mode{mode="compare"}'] == 0
    assert not any(name.startswith("ratchet_trial_share") for name in found)


def test_requests_are_counted_by_route_and_status_and_inventions_are_one_route(
    shop: Any, start: Start, scrape: Scrape
) -> None:
    shop.crown()
    client = start()
    ask(client, "a user's secret name")
    ask(client, k=0)
    for path in ("/v1/recommendations/42", "/wp-admin.php", "/v2/é"):
        assert client.get(path).status_code == 404
    client.get("/v1/recommend")  # 405
    found = scrape(client)
    counted = {name: value for name, value in found.items() if name.startswith("ratchet_requests_total")}
    assert counted == {
        'ratchet_requests_total{route="/v1/recommend",status="200"}': 1,
        'ratchet_requests_total{route="/v1/recommend",status="422"}': 1,
        'ratchet_requests_total{route="/v1/recommend",status="405"}': 1,
        'ratchet_requests_total{route="other",status="404"}': 3,
    }
    assert found['ratchet_request_seconds_count{route="/v1/recommend"}'] == 3
    assert found['ratchet_answer_seconds_count{arm="champion"}'] == 1
    assert 0 < found['ratchet_answer_seconds_sum{arm="champion"}'] < 10
    assert (found["ratchet_batch_queries_count"], found["ratchet_batch_queries_sum"]) == (1, 1)
    assert not [name for name in found if "secret" in name or "item-" in name or "recommendations" in name]


def test_a_defect_is_counted_as_one(shop: Any, start: Start, scrape: Scrape, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.crown()
    client = start()

    async def broken(*_: Any, **__: Any) -> bytes:
        raise RuntimeError("a defect")

    monkeypatch.setattr(client.app.state.service.recommender, "answer", broken)  # type: ignore[attr-defined]
    assert ask(client).status_code == 500
    assert scrape(client)['ratchet_requests_total{route="/v1/recommend",status="500"}'] == 1


def test_who_serves_and_since_when(shop: Any, start: Start, scrape: Scrape) -> None:
    shop.publish(*shop.items)
    set_clock(shop.home, NOW)
    client = start()
    before = scrape(client)
    assert (before["ratchet_ready"], before["ratchet_champion_loaded"], before["ratchet_champion_epoch"]) == (1, 0, 0)
    assert "ratchet_champion_age_seconds" not in before
    ask(client)
    assert not any(
        scrape(client)[f'ratchet_fallbacks_total{{reason="{why}"}}'] for why in ("popularity",)
    )  # no champion

    digest = shop.crown()
    found = until(scrape, client, lambda found: found["ratchet_champion_loaded"] == 1)
    assert (found["ratchet_champion_epoch"], found["ratchet_swaps_total"], found["ratchet_trial_open"]) == (1, 1, 0)
    assert found["ratchet_champion_age_seconds"] == (NOW - shop.ledger.champion().since).total_seconds()
    info = f'{{digest="{digest}",provider="CPUExecutionProvider",role="champion",version="1"}}'
    assert found[f"ratchet_bundle_info{info}"] == 1

    shop.trial(shop.version())
    found = until(scrape, client, lambda found: any('role="challenger"' in name for name in found))
    assert (found["ratchet_swaps_total"], found["ratchet_trial_open"]) == (2, 1)
    shop.promote()
    found = until(scrape, client, lambda found: found["ratchet_champion_epoch"] == 2)
    assert found["ratchet_swaps_total"] == 3
    warm = f'{{digest="{digest}",provider="CPUExecutionProvider",role="warm",version="0"}}'
    assert found[f"ratchet_bundle_info{warm}"] == 1


def test_fallbacks_say_why(shop: Any, start: Start, scrape: Scrape, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.publish(*shop.items)
    shop.crown()
    challenger = shop.version()
    shop.trial(challenger, allocation=0.99)
    shutil.rmtree(shop.home.releases / shop.ledger.version(challenger).digest)
    client = start()

    def counted() -> list[float]:
        found = scrape(client)
        reasons = ("champion_for_challenger", "failing_engine", "popularity")
        return [found[f'ratchet_fallbacks_total{{reason="{reason}"}}'] for reason in reasons]

    for user in range(20):
        ask(client, str(user))
    instead, failing, popular = counted()
    assert 15 <= instead <= 20  # Binomial(20, .99)
    assert (failing, popular) == (0, 0)

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("not a number")

    monkeypatch.setattr(Engine, "best", fail)
    seen = {"item_id": "item-01", "behaviour": "click", "event_time": 0}
    assert ask(client, "0", events=[seen]).status_code == 200
    assert counted() == [instead, 1, 1]
    assert scrape(client)["ratchet_problems"] == 1  # the challenger that does not load


def test_a_lost_user_state_and_a_deaf_ledger_are_heard(
    shop: Any, start: Start, scrape: Scrape, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.crown()
    client = start()
    service = client.app.state.service  # type: ignore[attr-defined]
    assert scrape(client)["ratchet_ledger_silent_seconds"] < 5

    def down(*_: Any, **__: Any) -> Any:
        raise DependencyFailed("down")

    monkeypatch.setattr(type(shop.ledger), "serving_state", down)
    service.user_state._reader.close()
    ask(client)
    assert scrape(client)["ratchet_user_state_errors_total"] == 1
    at = scrape(client)["ratchet_ledger_silent_seconds"]
    time.sleep(0.3)
    assert scrape(client)["ratchet_ledger_silent_seconds"] >= at + 0.3


def test_feedback_and_the_logs_are_counted_in_rows(shop: Any, start: Start, scrape: Scrape) -> None:
    shop.crown()
    client = start()
    shown = ask(client).json()["items"]
    click = {"token": shown[0]["token"], "user_id": "u", "item_id": shown[0]["item_id"], "behaviour": "click"}
    client.post("/v1/feedback", json={"events": [click, click, click | {"behaviour": "hum"}]})
    found = until(scrape, client, lambda found: found['ratchet_log_unwritten_rows{log="exposures"}'] == 0)
    fates = [found[f'ratchet_feedback_events_total{{fate="{fate}"}}'] for fate in ("accepted", "duplicate", "refused")]
    assert fates == [1, 1, 1]
    for log, rows in (("exposures", 3), ("feedback", 1)):
        assert found[f'ratchet_log_written_rows_total{{log="{log}"}}'] == rows
        assert found[f'ratchet_log_pending_rows{{log="{log}"}}'] == rows  # flush_seconds is 30
        assert 0 < found[f'ratchet_log_oldest_seconds{{log="{log}"}}'] < 30
        assert found[f'ratchet_log_refused_rows_total{{log="{log}"}}'] == 0


def test_refusals_for_lack_of_capacity_are_shed(shop: Any, start: Start, scrape: Scrape) -> None:
    shop.crown()
    client = start(serving={"queue_ms": 1e-9})
    service = client.app.state.service  # type: ignore[attr-defined]
    assert ask(client).status_code == 200  # what a query costs is not known before the first
    service.batcher._running = 1  # as while another is asked
    assert ask(client).status_code == 503
    service.batcher._running = 0
    assert scrape(client)["ratchet_shed_total"] == 1


def test_facts_of_the_data_are_told_by_the_homes_clock(shop: Any, start: Start, scrape: Scrape) -> None:
    shop.crown()
    shop.trial(shop.version())
    set_clock(shop.home, NOW)
    client = start()
    assert "ratchet_data_age_seconds" not in scrape(client)
    hold = Hold("t1", NOW - timedelta(hours=7))
    states = {"COMPARE": NOW - timedelta(hours=1), "ROLLED_BACK": NOW - timedelta(days=1)}
    facts.publish(shop.home.facts, Facts(NOW - timedelta(minutes=2), 4, NOW - timedelta(hours=30), ROWS, hold, states))
    found = scrape(client)
    assert found['ratchet_trial_state_seconds{state="COMPARE"}'] == 3600
    assert found['ratchet_trial_state_seconds{state="ROLLED_BACK"}'] == 86400
    assert (found["ratchet_data_age_seconds"], found["ratchet_facts_age_seconds"]) == (30 * 3600, 120)
    assert found["ratchet_trial_held_seconds"] == 7 * 3600
    assert found["ratchet_quarantine_share"] == 0.3  # 300 / 1000
    assert found['ratchet_day_rows{fate="accepted"}'] == 690

    of_another = Hold("t0", NOW - timedelta(hours=7))  # the flows have not heard yet that it is over
    facts.publish(shop.home.facts, Facts(NOW, 4, NOW + timedelta(minutes=1), ROWS, of_another))
    found = scrape(client)
    assert found["ratchet_trial_held_seconds"] == 0
    assert found["ratchet_data_age_seconds"] == 0  # from the future: not negative
    shop.home.facts.write_text("half a fi")
    assert "ratchet_quarantine_share" not in scrape(client)


def test_a_new_champion_that_does_not_load_leaves_the_former_one(shop: Any, start: Start, scrape: Scrape) -> None:
    shop.crown()
    challenger = shop.version()
    client = start()
    shutil.rmtree(shop.home.releases / shop.ledger.version(challenger).digest)
    shop.trial(challenger)
    shop.promote()
    until(scrape, client, lambda found: found["ratchet_champion_epoch"] == 2)
    ask(client)
    found = scrape(client)
    assert found['ratchet_fallbacks_total{reason="former_champion"}'] == 1
    assert (found["ratchet_champion_loaded"], found["ratchet_problems"], found["ratchet_swaps_total"]) == (1, 1, 1)
