"""Trials of several challengers, the champion against itself, and watched promotions, under a running app."""

import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from serving.choosing.assignment import assign
from serving.networks.engine import Engine
from stores.ledger_records import TrialMode
from stores.pseudonyms import Keys

Start = Callable[..., TestClient]
Scrape = Callable[[TestClient], dict[str, float]]
T = "2026-01-01T00:00:00Z"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
USERS = [f"user {n}" for n in range(60)]
HISTORY = [{"item_id": "item-03", "behaviour": "view", "event_time": "2025-12-31T00:00:00Z"}]
ARMS = ("challenger", "challenger-2", "challenger-3")


def ask(client: TestClient, user: str = "u", *, k: int = 4) -> dict[str, Any]:
    body = {"user_id": user, "k": k, "events": HISTORY}
    answer = client.post("/v1/recommend", json=body, headers={"X-Ratchet-Now": T})
    assert answer.status_code == 200, answer.text
    return answer.json()


def wait(client: TestClient, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while not holds(state := client.get("/readyz").json()):
        assert time.monotonic() < deadline, state
        time.sleep(0.02)
    return state


def begin(shop: Any, challengers: int = 3, **given: Any) -> dict[str, str]:
    """Open a trial of several challengers; digests by arm."""
    digests = {"champion": shop.crown()}
    versions = [shop.version() for _ in range(challengers)]
    shop.trial(*versions, **{"allocation": 0.6, **given})
    return digests | {arm: shop.ledger.version(n).digest for arm, n in zip(ARMS, versions, strict=False)}


def look(shop: Any, *, decision: str = "CONTINUE", name: str = "t1", **said: Any) -> None:
    shop.ledger.record_evidence(name, {"decision": decision, "trial": name, **said}, now=NOW)


def expected(shop: Any, user: str) -> Any:
    return assign(Keys.load(shop.home.keys).user(user), shop.ledger.serving_state().trial)


def test_each_user_meets_one_of_the_challengers_and_the_answer_names_it(
    shop: Any, start: Start, scrape: Scrape
) -> None:
    digests = begin(shop)
    client = start()
    met = {}
    for user in USERS:
        model = ask(client, user)["model"]
        met[user] = model["arm"]
        assert model["arm"] == expected(shop, user).variant
        assert (model["digest"], model["trial"]) == (digests[model["arm"]], "t1")
        assert ask(client, user)["model"] == model
    assert set(met.values()) == set(digests)
    for row in shop.logged("exposures"):
        assert (row["digest"], row["assignment_reason"]) == (digests[row["variant"]], "trial")
        assert (row["trial"], row["allocation"], row["error"]) == ("t1", 0.6, None)
    state = client.get("/readyz").json()["trial"]
    told = {arm: (each["digest"], each["loaded"], each["out"]) for arm, each in state["challengers"].items()}
    assert told == {arm: (digests[arm], True, False) for arm in ARMS}
    found = scrape(client)
    for arm, users in Counter(met.values()).items():
        assert found[f'ratchet_answer_seconds_count{{arm="{arm}"}}'] == 2 * users
        assert found[f'ratchet_answer_failures_total{{arm="{arm}"}}'] == 0
        assert found[f'ratchet_trial_share{{arm="{arm}"}}'] == (0.4 if arm == "champion" else 0.2)
    assert {mode: found[f'ratchet_trial_mode{{mode="{mode}"}}'] for mode in TrialMode} == {
        **dict.fromkeys(TrialMode, 0),
        TrialMode.COMPARE: 1,
    }


def test_who_met_a_challenger_that_is_out_meets_the_champion_and_nobody_else_moves(
    shop: Any, start: Start, scrape: Scrape
) -> None:
    digests = begin(shop)
    client = start()
    before = {user: ask(client, user)["model"] for user in USERS}
    shown = len(shop.logged("exposures"))
    look(shop, out=["challenger-2"])
    wait(client, lambda state: state["trial"]["challengers"]["challenger-2"]["out"])
    lost = 0
    for user in USERS:
        model = ask(client, user)["model"]
        if before[user]["arm"] == "challenger-2":
            lost += 1
            assert model == {"version": 1, "digest": digests["champion"], "arm": "champion", "trial": None}
        else:
            assert model == before[user]
    assert lost > 0
    reasons = Counter(row["assignment_reason"] for row in shop.logged("exposures")[shown:])
    assert reasons == {"out": 4 * lost, "trial": 4 * (len(USERS) - lost)}
    assert (scrape(client)["ratchet_trial_challengers_out"], client.get("/readyz").json()["problems"]) == (1, [])


@pytest.mark.parametrize("fails", ["load", "run"])
def test_one_challenger_that_fails_costs_its_own_users_and_no_other(
    shop: Any, start: Start, scrape: Scrape, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    digests = begin(shop)
    if fails == "load":
        shutil.rmtree(shop.home.releases / digests["challenger-2"])
    client = start()
    if fails == "run":
        engine = client.app.state.service.watcher.current.challengers["challenger-2"].engine  # type: ignore[attr-defined]
        best = Engine.best

        def broken(self: Any, *given: Any, **named: Any) -> Any:
            if self is engine:
                raise RuntimeError("a node of the graph failed")
            return best(self, *given, **named)

        monkeypatch.setattr(Engine, "best", broken)
    loaded = {arm: each["loaded"] for arm, each in client.get("/readyz").json()["trial"]["challengers"].items()}
    assert loaded == {"challenger": True, "challenger-2": fails == "run", "challenger-3": True}
    arms = {user: ask(client, user)["model"]["arm"] for user in USERS}
    assert arms == {user: expected(shop, user).variant for user in USERS}
    said = f"{digests['challenger-2'][:12]}: {'not loaded' if fails == 'load' else 'a node of the graph failed'}"
    for row in shop.logged("exposures"):
        failed = row["variant"] == "challenger-2"
        assert row["digest"] == digests["champion" if failed else row["variant"]]
        assert (row["assignment_reason"], row["error"]) == (("fallback", said) if failed else ("trial", None))
    failures = {arm: scrape(client)[f'ratchet_answer_failures_total{{arm="{arm}"}}'] for arm in digests}
    assert failures == dict.fromkeys(digests, 0) | {"challenger-2": Counter(arms.values())["challenger-2"]}


def test_a_drafted_list_is_of_the_champion_and_one_challenger_that_may_be_shown(shop: Any, start: Start) -> None:
    digests = begin(shop, mode=TrialMode.INTERLEAVE, share=1.0)
    client = start()

    def rivals() -> set[str]:
        """Digests beside the champion's, after a check that each list has one, its user's."""
        seen = len(shop.logged("exposures"))
        for user in USERS:
            assert ask(client, user)["model"]["arm"] == "interleaved"
        rows = shop.logged("exposures")[seen:]
        assert {(row["variant"], row["assignment_reason"]) for row in rows} == {("interleaved", "interleave")}
        found: dict[str, set[str]] = {}
        for row in rows:
            found.setdefault(row["user"], set()).add(row["digest"])
        trial = shop.ledger.serving_state().trial
        for user, teams in found.items():
            assert teams == {digests["champion"], digests[assign(user, trial).rival]}
        return set.union(*found.values()) - {digests["champion"]}

    assert rivals() == {digests[arm] for arm in ARMS}
    look(shop, stage="interleave", out=["challenger"])
    wait(client, lambda state: state["trial"]["challengers"]["challenger"]["out"])
    assert rivals() == {digests[arm] for arm in ARMS[1:]}


def test_each_request_has_one_challenger_in_its_shadow(shop: Any, start: Start) -> None:
    digests = begin(shop, mode=TrialMode.SHADOW)
    client = start()
    for user in USERS:
        assert ask(client, user)["model"]["digest"] == digests["champion"]
    wait(client, lambda state: state["trial"]["shadow"]["scored"] == len(USERS))
    shadows = [row for row in shop.logged("exposures") if row["is_shadow"]]
    assert {(row["variant"], row["digest"]) for row in shadows} == {(arm, digests[arm]) for arm in ARMS}
    each = Counter(row["request_id"] for row in shadows)
    assert (len(each), set(each.values())) == (len(USERS), {4})


def test_the_bundles_of_challengers_that_are_out_are_let_go_and_the_champion_stays(shop: Any) -> None:
    digests = begin(shop)
    watching = shop.watcher(shop.ledger)
    watching.refresh()
    assert set(watching.engines.digests) == set(digests.values())
    assert set(watching.current.challengers) == set(ARMS)
    look(shop, out=["challenger-2", "challenger-3"])
    watching.refresh()
    assert set(watching.current.challengers) == {"challenger"}
    look(shop, decision="REJECT", out=["challenger"])
    watching.refresh()
    assert (watching.current.state.trial, watching.current.challengers) == (None, {})
    assert len(watching.engines.digests) == 3  # the champion and the two that served last


def test_after_a_promotion_the_former_champion_is_what_stays_warm(shop: Any) -> None:
    digests = begin(shop)
    watching = shop.watcher(shop.ledger)
    watching.refresh()
    look(shop, decision="PROMOTE", challenger="challenger-3")
    shop.ledger.approve("t1", actor="ada", reason="better", now=NOW)
    watching.refresh()
    watching.refresh()
    assert watching.current.champion_digest == digests["challenger-3"]
    assert digests["champion"] in watching.engines.digests


# A/A trials


@pytest.mark.parametrize("mode", [TrialMode.COMPARE, TrialMode.INTERLEAVE, TrialMode.SHADOW])
def test_the_champion_against_itself_is_one_engine_in_two_arms(
    shop: Any, start: Start, scrape: Scrape, mode: TrialMode
) -> None:
    digest = shop.crown()
    share = 1.0 if mode is TrialMode.INTERLEAVE else None
    shop.trial(1, is_aa=True, mode=mode, share=share)
    client = start()
    snapshot = client.app.state.service.watcher.current  # type: ignore[attr-defined]
    twin = snapshot.challengers["challenger"]
    assert (twin.engine is snapshot.champion.engine, twin.shelf is snapshot.champion.shelf) == (True, True)
    assert client.get("/readyz").json()["loaded"] == [digest]
    arms = Counter(ask(client, user)["model"]["arm"] for user in USERS)
    met = {"compare": {"champion", "challenger"}, "interleave": {"interleaved"}, "shadow": {"champion"}}
    assert set(arms) == met[mode]
    if mode is TrialMode.SHADOW:
        wait(client, lambda state: state["trial"]["shadow"]["scored"] == len(USERS))
    rows = shop.logged("exposures")
    assert {(row["digest"], row["error"]) for row in rows} == {(digest, None)}
    assert {row["variant"] for row in rows} == met[mode] | ({"challenger"} if mode is TrialMode.SHADOW else set())
    assert "fallback" not in {row["assignment_reason"] for row in rows}
    found = scrape(client)
    told = {name: value for name, value in found.items() if "fallbacks_total" in name or "failures_total" in name}
    assert set(told.values()) == {0}
    assert found["ratchet_problems"] == 0


def test_both_arms_of_an_a_a_trial_show_the_same_list(shop: Any, start: Start) -> None:
    shop.crown()
    shop.trial(1, is_aa=True)
    client = start(policy={"exploration": 0.0})
    lists = {(model["arm"], tuple(item["item_id"] for item in items)) for model, items in (
        (answer["model"], answer["items"]) for answer in (ask(client, user) for user in USERS)
    )}  # fmt: skip
    assert {arm for arm, _ in lists} == {"champion", "challenger"}
    assert len({shown for _, shown in lists}) == 1  # all have the same history


# Promotions that are watched


def bake(shop: Any, *, name: str = "t1") -> tuple[str, str]:
    """A champion, and a promotion that is to be watched for a day; the former and the new digest."""
    former = shop.crown()
    shop.trial(shop.version(), name=name, bake_hours=24.0)
    return former, shop.promote(name)


def test_a_rollback_while_baking_is_a_swap_in_memory(
    shop: Any, start: Start, scrape: Scrape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a server that was started after the promotion, and never served the former champion."""
    former, new = bake(shop)
    client = start(serving={"poll_seconds": 0.1})
    state = client.get("/readyz").json()
    assert (state["champion"]["digest"], state["trial"]) == (new, None)
    assert state["bake"] == {
        "trial": "t1", "state": "PROMOTING", "former_version": 1, "former_digest": former, "warm": True,
    }  # fmt: skip
    shop.ledger.begin_bake("t1", now=NOW)
    wait(client, lambda state: state["bake"]["state"] == "BAKING")
    assert ask(client)["model"] == {"version": 2, "digest": new, "arm": "champion", "trial": None}
    found = scrape(client)
    assert found["ratchet_baking"] == 1
    assert any(f'digest="{former}"' in name and 'role="former"' in name for name in found)

    watching = client.app.state.service.watcher  # type: ignore[attr-defined]
    shelf = watching.current.former.shelf
    monkeypatch.setattr(Engine, "load", lambda *_, **__: pytest.fail("loaded anew"))
    shutil.rmtree(shop.home.releases / former)
    polls: list[str] = []
    refresh = watching.refresh

    def counted() -> None:
        refresh()
        polls.append(watching.current.champion.digest)

    monkeypatch.setattr(watching, "refresh", counted)
    polls.clear()
    shop.ledger.rollback(actor="gate", reason="clicks fell", now=NOW)
    wait(client, lambda state: state["champion"]["digest"] == former)
    assert polls.index(former) <= 1  # the first look may have begun before the rollback
    assert ask(client)["model"] == {"version": 1, "digest": former, "arm": "champion", "trial": None}
    assert watching.current.champion.shelf is shelf
    state = client.get("/readyz").json()
    assert (state["bake"], state["problems"], state["champion"]["epoch"]) == (None, [], 3)
    assert shop.logged("exposures")[-1]["error"] is None


def test_a_promotion_that_is_believed_in_keeps_the_former_champion_no_longer_than_others(shop: Any) -> None:
    former, new = bake(shop)
    watching = shop.watcher(shop.ledger)
    watching.refresh()
    assert (watching.current.former is not None, set(watching.engines.digests)) == (True, {former, new})
    shop.ledger.begin_bake("t1", now=NOW)
    shop.ledger.end_bake("t1", now=NOW + timedelta(hours=24))
    watching.refresh()
    assert (watching.current.state.bake, watching.current.former) == (None, None)
    assert set(watching.engines.digests) == {former, new}  # among the few that are kept warm anyway


def test_a_server_that_cannot_load_what_was_promoted_serves_the_former_champion(shop: Any, start: Start) -> None:
    former, new = bake(shop)
    shutil.rmtree(shop.home.releases / new)
    client = start()
    assert ask(client)["model"]["digest"] == former
    row = shop.logged("exposures")[0]
    assert (row["variant"], row["assignment_reason"], row["digest"]) == ("champion", "fallback", former)
    assert client.get("/readyz").json()["problems"][0].startswith("champion 2: ")


def test_a_former_champion_that_is_gone_is_a_problem_and_no_outage(shop: Any, start: Start) -> None:
    former, new = bake(shop)
    shutil.rmtree(shop.home.releases / former)
    client = start()
    state = client.get("/readyz").json()
    assert (state["bake"]["warm"], state["champion"]["digest"]) == (False, new)
    assert state["problems"][0].startswith("former champion 1: ")
    assert ask(client)["model"]["digest"] == new


def test_the_snapshot_of_a_watched_promotion_has_no_arm_beside_the_champions(shop: Any) -> None:
    bake(shop)
    watching = shop.watcher(shop.ledger)
    watching.refresh()
    snapshot = watching.current
    assert [role for role, _ in snapshot.roles] == ["champion", "former"]
    assert [role for role, _ in replace(snapshot, former=None).roles] == ["champion"]
