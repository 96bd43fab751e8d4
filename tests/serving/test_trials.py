"""What users meet at each stage of a trial, what is logged of it, and how soon a kill is felt."""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import ibis
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from relations.errors import DependencyFailed
from relations.trial_users import Comparison, exposed_counts
from serving.app import create_app
from serving.choosing.assignment import assign, held_back
from stores import kill_switch
from stores.kill_switch import Kill
from stores.kills import kill_trial
from stores.ledger_records import TrialMode
from stores.pseudonyms import Keys
from stores.serving_records import ServingTrial
from stores.settings import Settings

Start = Callable[..., TestClient]
T = "2026-01-01T00:00:00Z"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
USERS = [f"user {n}" for n in range(40)]
HISTORY = [{"item_id": "item-03", "behaviour": "view", "event_time": "2025-12-31T00:00:00Z"}]
_LOG = logging.getLogger(__name__)
WHO: dict[str, Any] = {"actor": "ann", "reason": "so far so good", "now": NOW}


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


def at(mode: str) -> Callable[[dict[str, Any]], bool]:
    return lambda state: bool(state["trial"]) and state["trial"]["mode"] == mode


def begin(shop: Any, mode: TrialMode, share: float | None = None, **given: Any) -> tuple[str, str]:
    """Champion and challenger, in a trial that begins at `mode`; their digests."""
    champion = shop.crown()
    challenger = shop.version()
    shop.ledger.open_trial(
        "t1", {"n": 1}, challengers=[challenger], salt="salt", actor="flow", now=NOW, mode=mode, share=share,
        **{"allocation": 0.5, **given},
    )  # fmt: skip
    return champion, shop.ledger.version(challenger).digest


def pseudonym(shop: Any, user: str) -> str:
    return Keys.load(shop.home.keys).user(user)


def counted(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Users an arm, as the gate counts them."""
    named = ("exposure_id", "user", "trial", "variant", "assignment_reason", "is_shadow", "is_bot")
    table = pa.Table.from_pylist([{n: row[n] for n in named} | {"shown_time": NOW} for row in rows])
    table = table.set_column(table.column_names.index("trial"), "trial", table["trial"].cast(pa.string()))
    found = exposed_counts(ibis.memtable(table), Comparison("t1")).to_pyarrow().to_pylist()
    return {row["arm"]: row["users"] for row in found}


def test_the_shadow_is_scored_and_logged_and_shown_to_nobody(shop: Any, start: Start) -> None:
    champion, challenger = begin(shop, TrialMode.SHADOW)
    client = start()
    answers = [ask(client, user) for user in USERS]
    assert {answer["model"]["digest"] for answer in answers} == {champion}
    wait(client, lambda state: state["trial"]["shadow"]["scored"] == len(USERS))
    rows = shop.logged("exposures")
    shown = [row for row in rows if not row["is_shadow"]]
    shadows = [row for row in rows if row["is_shadow"]]
    assert {(row["digest"], row["trial"], row["variant"], row["assignment_reason"]) for row in shown} == {
        (champion, None, "champion", "shadow")
    }
    facts = ("digest", "trial", "variant", "assignment_reason", "propensity", "propensity_kind", "policy", "allocation")
    assert {tuple(row[name] for name in facts) for row in shadows} == {
        (challenger, "t1", "challenger", "shadow", 0.0, "unusable", "shadow", 0.0)
    }
    ids = {answer["request_id"] for answer in answers}
    assert {row["request_id"] for row in shadows} == {f"{each}~shadow" for each in ids}
    assert all(row["exposure_id"] == f"{row['request_id']}:{row['position']}" for row in shadows)
    assert len({row["exposure_id"] for row in rows}) == len(rows) == 2 * 4 * len(USERS)
    assert counted(rows) == {}
    shop.ledger.set_stage("t1", TrialMode.COMPARE, **WHO)
    wait(client, at("compare"))
    met = {(answer["model"]["arm"], answer["model"]["digest"]) for answer in (ask(client, user) for user in USERS)}
    assert met == {("champion", champion), ("challenger", challenger)}
    assert sum(counted(shop.logged("exposures")).values()) == len(USERS)


def test_a_challenger_that_hangs_in_the_shadow_delays_no_answer(
    shop: Any, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion, challenger = begin(shop, TrialMode.SHADOW)
    client = start(serving={"shadow_waiting": 2})
    service = client.app.state.service  # type: ignore[attr-defined]
    hanging, go_on = threading.Event(), threading.Event()
    engine = service.watcher.current.challengers["challenger"].engine
    best = type(engine).best

    def slow(self: Any, *given: Any, **named: Any) -> Any:
        if self is engine:
            hanging.set()
            go_on.wait(30)
        return best(self, *given, **named)

    monkeypatch.setattr(type(engine), "best", slow)
    ask(client)
    assert hanging.wait(20)
    for user in USERS:  # each would have to wait for the one before, were there anything to wait for
        assert ask(client, user)["model"]["digest"] == champion
    assert not go_on.is_set()
    assert service.shadow.fates("t1")["dropped"] == len(USERS) - 2
    go_on.set()
    wait(client, lambda state: state["trial"]["shadow"]["scored"] == 3)
    assert {row["digest"] for row in shop.logged("exposures") if row["is_shadow"]} == {challenger}


def test_a_challenger_that_fails_in_the_shadow_is_counted(
    shop: Any, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(shop, TrialMode.SHADOW)
    client = start()
    engine = client.app.state.service.watcher.current.challengers["challenger"].engine  # type: ignore[attr-defined]
    best = type(engine).best

    def broken(self: Any, *given: Any, **named: Any) -> Any:
        if self is engine:
            raise RuntimeError("a node of the graph failed")
        return best(self, *given, **named)

    monkeypatch.setattr(type(engine), "best", broken)
    assert len(ask(client)["items"]) == 4
    state = wait(client, lambda state: state["trial"]["shadow"]["failed"] == 1)
    assert state["trial"]["shadow"]["scored"] == 0
    assert not any(row["is_shadow"] or row["error"] for row in shop.logged("exposures"))


def test_drafted_lists_name_the_team_of_each_row_and_count_for_neither_arm(shop: Any, start: Start) -> None:
    champion, challenger = begin(shop, TrialMode.INTERLEAVE, 1.0)
    client = start()
    answers = {user: ask(client, user) for user in USERS}
    assert {(a["model"]["arm"], a["model"]["digest"], a["model"]["trial"]) for a in answers.values()} == {
        ("interleaved", champion, "t1")
    }
    rows = shop.logged("exposures")
    assert {row["digest"] for row in rows} == {champion, challenger}
    assert {row["model_version"] for row in rows if row["digest"] == challenger} == {2}
    assert {(row["variant"], row["assignment_reason"], row["explored"], row["propensity_kind"]) for row in rows} == {
        ("interleaved", "interleave", False, "exact")
    }
    assert {row["policy"] for row in rows} <= {"team-draft", "team-draft/agreed"}
    for answer in answers.values():
        mine = [row for row in rows if row["request_id"] == answer["request_id"]]
        assert [row["item_id"] for row in mine] == [item["item_id"] for item in answer["items"]]
        assert len({row["item_id"] for row in mine}) == 4
        assert abs(sum(1 if row["digest"] == champion else -1 for row in mine)) <= 1
    assert counted(rows) == {}
    # A click on the challenger's row is an outcome of that exposure, as any other.
    user, row = next(
        (user, row) for user, answer in answers.items() for row in rows
        if row["request_id"] == answer["request_id"] and row["digest"] == challenger
    )  # fmt: skip
    token = next(item["token"] for item in answers[user]["items"] if item["item_id"] == row["item_id"])
    click = {"token": token, "user_id": user, "item_id": row["item_id"], "behaviour": "click", "event_time": T}
    told = client.post("/v1/feedback", json={"events": [click]}, headers={"X-Ratchet-Now": T}).json()
    assert told == {"accepted": 1, "duplicate": 0, "refused": []}


@pytest.mark.parametrize("fails", ["load", "run"])
def test_without_the_challenger_a_drafted_list_is_the_champions(
    shop: Any, start: Start, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    champion, challenger = begin(shop, TrialMode.INTERLEAVE, 1.0)
    if fails == "load":
        shutil.rmtree(shop.home.releases / challenger)
    client = start()
    if fails == "run":
        engine = client.app.state.service.watcher.current.challengers["challenger"].engine  # type: ignore[attr-defined]
        best = type(engine).best

        def broken(self: Any, *given: Any, **named: Any) -> Any:
            if self is engine:
                raise RuntimeError("a node of the graph failed")
            return best(self, *given, **named)

        monkeypatch.setattr(type(engine), "best", broken)
    assert len(ask(client)["items"]) == 4
    rows = shop.logged("exposures")
    assert {(row["digest"], row["variant"], row["assignment_reason"], row["policy"]) for row in rows} == {
        (champion, "interleaved", "fallback", "epsilon-greedy")
    }
    said = f"{challenger[:12]}: {'not loaded' if fails == 'load' else 'a node of the graph failed'}"
    assert {row["error"] for row in rows} == {said}
    assert counted(rows) == {}


def test_who_was_in_the_canary_keeps_the_arm_and_stays_out_of_the_comparison(shop: Any, start: Start) -> None:
    champion, challenger = begin(shop, TrialMode.CANARY, 0.05, allocation=0.1)
    client = start()
    trial = ServingTrial("t1", 2, challenger, 1, "salt", 0.05, TrialMode.CANARY, 0.1, 0.05)
    arms = {user: assign(pseudonym(shop, user), trial) for user in (f"user {n}" for n in range(400))}
    wanted = {
        kind: next(user for user, arm in arms.items() if (arm.variant, arm.reason) == kind)
        for kind in (("challenger", "canary"), ("champion", "canary"), ("champion", "outside"))
    }
    for (variant, _), user in wanted.items():
        assert ask(client, user)["model"]["digest"] == (challenger if variant == "challenger" else champion)
    shop.ledger.set_stage("t1", TrialMode.COMPARE, **WHO)
    wait(client, at("compare"))
    for (variant, reason), user in wanted.items():
        if reason == "canary":
            assert ask(client, user)["model"]["arm"] == variant
    rows = shop.logged("exposures")
    outside = pseudonym(shop, wanted["champion", "outside"])
    assert {row["trial"] for row in rows if row["user"] == outside} == {None}
    assert {row["assignment_reason"] for row in rows if row["user"] != outside} == {"canary"}
    assert counted(rows) == {}


def test_who_is_held_back_is_in_no_trial(shop: Any, start: Start) -> None:
    champion, _ = begin(shop, TrialMode.COMPARE)
    client = start(policy={"holdback": 0.3})
    held = {user for user in USERS if held_back(pseudonym(shop, user), share=0.3)}
    assert 0 < len(held) < len(USERS)
    for user in USERS:
        model = ask(client, user)["model"]
        assert user not in held or (model["digest"], model["trial"]) == (champion, None)
    rows = shop.logged("exposures")
    reasons = {row["user"]: (row["assignment_reason"], row["variant"], row["trial"]) for row in rows}
    assert {reasons[pseudonym(shop, user)] for user in held} == {("holdback", "champion", None)}
    assert sum(counted(rows).values()) == len(USERS) - len(held)


class Ledgers:
    """A ledger that answers, then fails or hangs."""

    def __init__(self, ledger: Any) -> None:
        self.ledger, self.down, self.hang, self.let_go = ledger, False, False, threading.Event()

    def serving_state(self) -> Any:
        if self.hang:
            self.let_go.wait(60)
        if self.down:
            raise DependencyFailed("connection refused")
        return self.ledger.serving_state()

    def breach_delta(self, *_: Any, **__: Any) -> bool:
        return False


@pytest.fixture
def loaded(shop: Any) -> Iterator[Callable[[Ledgers], TestClient]]:
    running: list[tuple[TestClient, Ledgers]] = []

    def start(ledger: Ledgers) -> TestClient:
        stated = shop.settings.model_dump()
        stated["serving"]["poll_seconds"] = Settings().serving.poll_seconds  # a home's own
        app = create_app(shop.home, Settings.model_validate(stated), ledger=ledger)
        client = TestClient(app, base_url="http://127.0.0.1")
        shop.running.append(client)
        client.__enter__()
        running.append((client, ledger))
        return client

    yield start
    for client, ledger in running:
        ledger.let_go.set()
        client.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("ledger_is", "mode"),
    [
        ("up", TrialMode.INTERLEAVE),
        ("down", TrialMode.COMPARE),
        ("hanging", TrialMode.COMPARE),
    ],
)
def test_no_challenger_is_shown_ten_seconds_after_a_kill(
    shop: Any,
    loaded: Callable[[Ledgers], TestClient],
    ledger_is: str,
    mode: TrialMode,
) -> None:
    """Two looks of half a second are what it should take; 10 s is the bar, on a busy machine too."""
    _, challenger = begin(shop, mode, 1.0 if mode is TrialMode.INTERLEAVE else None)
    ledger = Ledgers(shop.ledger)
    client = loaded(ledger)
    stop, last, failed = threading.Event(), [0.0], list[str]()

    def load(turn: int) -> None:
        while not stop.is_set():
            try:
                model = ask(client, f"user {turn}")["model"]
            except Exception as error:
                failed.append(repr(error))
                return
            if model["trial"] == "t1" and (model["digest"] == challenger or model["arm"] == "interleaved"):
                last[0] = time.monotonic()
            turn += 1

    threads = [threading.Thread(target=load, args=(1000 * turn,)) for turn in range(2)]
    for thread in threads:
        thread.start()
    while not last[0] and not failed:
        time.sleep(0.01)
    ledger.down, ledger.hang = ledger_is == "down", ledger_is == "hanging"
    time.sleep(0.6)  # so that the watcher has met it
    settings = shop.settings if ledger_is == "up" else Settings.model_validate({"ledger": {"url": "sqlite:////no/db"}})
    began = time.monotonic()
    assert kill_trial(shop.home, settings, "t1", **WHO).recorded is (ledger_is == "up")
    while time.monotonic() - max(last[0], began) < 2 and time.monotonic() - began < 12:
        time.sleep(0.05)  # until two seconds were without any
    stop.set()
    for thread in threads:
        thread.join()
    took = last[0] - began
    _LOG.info("ledger %s, %s: the last challenger %.2f s after the command", ledger_is, mode, took)
    assert failed == []
    assert took < 10
    state = client.get("/readyz").json()["trial"]
    assert (state["mode"], state["allocation"]) == ("killed", 0.0)
    assert ask(client)["model"]["arm"] == "champion"
    # Where the log names the trial after the kill was felt, something is wrong.
    rows = shop.logged("exposures")
    assert rows[-1]["assignment_reason"] == "killed"


def test_a_kill_outlives_a_restart_without_the_ledgers_knowing(shop: Any, start: Start) -> None:
    champion, _ = begin(shop, TrialMode.COMPARE)
    kill_switch.add(shop.home.kill_switch, Kill("t1", "ann", "x", NOW))
    client = start()
    assert {ask(client, user)["model"]["digest"] for user in USERS} == {champion}
    assert {row["assignment_reason"] for row in shop.logged("exposures")} == {"killed"}


def test_a_damaged_switch_stops_every_challenger_until_it_is_mended(shop: Any, start: Start) -> None:
    champion, challenger = begin(shop, TrialMode.COMPARE)
    client = start()
    assert {ask(client, user)["model"]["digest"] for user in USERS} == {champion, challenger}
    shop.home.kill_switch.write_text("{")
    state = wait(client, at("killed"))
    assert "kill-switch.json: not a kill switch" in state["problems"][0]
    assert {ask(client, user)["model"]["digest"] for user in USERS} == {champion}
    shop.home.kill_switch.unlink()
    assert wait(client, at("compare"))["problems"] == []
    assert {ask(client, user)["model"]["digest"] for user in USERS} == {champion, challenger}
    kill_switch.add(shop.home.kill_switch, Kill("t1", "ann", "x", NOW))
    wait(client, at("killed"))
    shop.home.kill_switch.unlink()
    time.sleep(0.2)  # four looks
    assert {ask(client, user)["model"]["digest"] for user in USERS} == {champion}
