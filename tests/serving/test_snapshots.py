"""Who serves, as the ledger, the bundles and the trial change under a running app."""

import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
from fastapi.testclient import TestClient

from relations.errors import DependencyFailed
from serving.choosing.assignment import assign
from stores.pseudonyms import Keys
from stores.serving_records import ServingTrial

Start = Callable[..., TestClient]
T = "2026-01-01T00:00:00Z"
USERS = [f"user {n}" for n in range(60)]


def ask(client: TestClient, user: str = "u") -> dict[str, Any]:
    answer = client.post("/v1/recommend", json={"user_id": user, "k": 3}, headers={"X-Ratchet-Now": T})
    assert answer.status_code == 200, answer.text
    return answer.json()


def wait(client: TestClient, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + 10
    while not holds(state := client.get("/readyz").json()):
        assert time.monotonic() < deadline, state
        time.sleep(0.02)
    return state


def serves(digest: str) -> Callable[[dict[str, Any]], bool]:
    return lambda state: bool(state["champion"]) and state["champion"]["digest"] == digest


def arm(shop: Any, user: str, *, salt: str = "salt", allocation: float = 0.5) -> str:
    pseudonym = Keys.load(shop.home.keys).user(user)
    return assign(pseudonym, ServingTrial("t1", 2, "d", 1, salt, allocation)).variant


def test_popularity_then_the_first_champion_then_the_promoted_then_back(shop: Any, start: Start) -> None:
    shop.publish(*shop.items)
    client = start()
    assert ask(client)["model"]["arm"] == "popularity"
    first = shop.crown()
    state = wait(client, serves(first))
    assert state["champion"] == {"version": 1, "digest": first, "epoch": 1}
    assert ask(client)["model"] == {"version": 1, "digest": first, "arm": "champion", "trial": None}

    shop.trial(shop.version())
    wait(client, lambda state: bool(state["trial"]) and state["trial"]["loaded"])
    second = shop.promote()
    state = wait(client, serves(second))
    assert (state["champion"]["epoch"], state["trial"]) == (2, None)
    assert ask(client)["model"] == {"version": 2, "digest": second, "arm": "champion", "trial": None}

    shutil.rmtree(shop.home.releases / first)  # kept warm: a rollback needs no disk
    shop.ledger.rollback(actor="ada", reason="worse", now=shop.ledger.champion().since)
    state = wait(client, serves(first))
    assert (state["champion"]["epoch"], state["problems"]) == (3, [])
    assert ask(client)["model"]["digest"] == first


def test_a_trial_splits_users_by_their_pseudonym_and_says_so(shop: Any, start: Start) -> None:
    champion = shop.crown()
    challenger = shop.version()
    shop.trial(challenger, allocation=0.3)
    client = start()
    digests = {"champion": champion, "challenger": shop.ledger.version(challenger).digest}
    arms = {}
    for user in USERS:
        model = ask(client, user)["model"]
        arms[user] = model["arm"]
        assert model["arm"] == arm(shop, user, allocation=0.3)
        assert (model["digest"], model["trial"]) == (digests[model["arm"]], "t1")
        assert ask(client, user)["model"] == model
    assert set(arms.values()) == {"champion", "challenger"}
    for row in shop.logged("exposures"):
        assert (row["trial"], row["allocation"], row["assignment_reason"]) == ("t1", 0.3, "trial")
        assert (row["champion_epoch"], row["digest"]) == (1, digests[row["variant"]])


def test_a_stopped_trial_shows_its_challenger_to_nobody(shop: Any, start: Start) -> None:
    shop.crown()
    shop.trial(shop.version())
    client = start()
    wait(client, lambda state: bool(state["trial"]))
    started = time.monotonic()
    shop.ledger.stop_trial("t1", actor="ada", reason="enough", now=shop.ledger.champion().since)
    wait(client, lambda state: state["trial"] is None)
    assert time.monotonic() - started < 10
    assert {ask(client, user)["model"]["arm"] for user in USERS} == {"champion"}


def test_a_challenger_that_does_not_load_leaves_its_users_with_the_champion(shop: Any, start: Start) -> None:
    champion = shop.crown()
    bundle = shop.release(seed=77)
    (bundle.folder / "model.onnx").write_bytes(b"\x00" + bundle.read("model.onnx")[1:])
    shop.trial(shop.version(bundle))
    client = start()
    state = client.get("/readyz").json()
    assert state["trial"]["loaded"] is False
    assert "model.onnx does not match its SHA-256" in state["problems"][0]
    for user in USERS:
        assert ask(client, user)["model"] == {
            "version": 1,
            "digest": champion,
            "arm": arm(shop, user),
            "trial": "t1",
        }
    rows = {row["variant"]: row for row in shop.logged("exposures")}
    assert (rows["challenger"]["assignment_reason"], rows["champion"]["assignment_reason"]) == ("fallback", "trial")
    assert (rows["challenger"]["digest"], rows["challenger"]["model_version"]) == (champion, 1)
    assert rows["challenger"]["error"] == f"{bundle.digest[:12]}: not loaded"
    assert rows["champion"]["error"] is None


def test_a_challenger_that_fails_on_a_request_is_replaced_in_the_same_answer(shop: Any, start: Start) -> None:
    champion = shop.crown()
    # Sound on the trial histories, which hold the first item only; infinite on any other.
    embedding = np.full((21, 16), np.inf)
    embedding[:2] = 0.0
    bundle = shop.release(embedding_IxD=embedding, seed=5)
    shop.trial(shop.version(bundle), allocation=0.999)
    client = start()
    assert client.get("/readyz").json()["problems"] == []
    events = [{"item_id": "item-07", "behaviour": "click", "event_time": T}]
    user = next(user for user in USERS if arm(shop, user, allocation=0.999) == "challenger")
    answer = client.post("/v1/recommend", json={"user_id": user, "k": 2, "events": events}).json()
    assert answer["model"] == {"version": 1, "digest": champion, "arm": "challenger", "trial": "t1"}
    row = shop.logged("exposures")[0]
    assert (row["assignment_reason"], row["digest"]) == ("fallback", champion)
    assert "not finite" in row["error"]


def test_a_bad_new_champion_leaves_the_old_model_serving(shop: Any, start: Start) -> None:
    first = shop.crown()
    bundle = shop.release(seed=78)
    sound = bundle.read("model.onnx")
    shop.trial(shop.version(bundle))
    (bundle.folder / "model.onnx").write_bytes(sound[:-1])
    client = start(serving={"poll_seconds": 0.02})
    second = shop.promote()
    wait(client, lambda state: state["trial"] is None)
    state = client.get("/readyz").json()
    assert state["champion"] == {"version": 1, "digest": first, "epoch": 1}
    assert state["problems"][0].startswith("champion 2: ")
    assert ask(client)["model"]["digest"] == first
    row = shop.logged("exposures")[-1]
    assert (row["variant"], row["assignment_reason"], row["digest"]) == ("champion", "fallback", first)
    (bundle.folder / "model.onnx").write_bytes(sound)  # restored from a backup: found without a restart
    assert wait(client, serves(second))["problems"] == []


def test_a_first_champion_that_does_not_load_leaves_popularity(shop: Any, start: Start) -> None:
    shop.publish(*shop.items)
    bundle = shop.release()
    shop.crown(shop.version(bundle))
    (bundle.folder / "extra").write_text("x")
    client = start()
    assert ask(client)["model"] == {"version": 0, "digest": "popularity", "arm": "champion", "trial": None}
    assert shop.logged("exposures")[0]["assignment_reason"] == "fallback"


class Unplugged:
    """A ledger whose database can be taken away."""

    def __init__(self, ledger: Any) -> None:
        self.ledger, self.down = ledger, False

    def serving_state(self) -> Any:
        if self.down:
            raise DependencyFailed("connection refused")
        return self.ledger.serving_state()


def test_a_ledger_out_of_reach_changes_nothing_but_the_report(shop: Any) -> None:
    digest = shop.crown()
    shop.trial(shop.version())
    ledger = Unplugged(shop.ledger)
    watching = shop.watcher(ledger)
    watching.refresh()
    before = watching.current
    ledger.down = True
    watching.refresh()
    assert watching.current.problems == ("ledger: connection refused",)
    assert (watching.current.state, watching.current.champion) == (before.state, before.champion)
    assert before.champion is not None
    assert before.champion.digest == digest
    ledger.down = False
    watching.refresh()
    assert watching.current.problems == ()


def test_a_damaged_popularity_list_keeps_the_former_one(shop: Any) -> None:
    shop.publish("a", "b")
    watching = shop.watcher(shop.ledger)
    watching.refresh()
    shop.home.popularity.write_text("{")
    watching.refresh()
    assert watching.current.popular == ("a", "b")
    assert "popularity.json" in watching.current.problems[0]
    shop.publish("c")
    watching.refresh()
    assert (watching.current.popular, watching.current.problems) == (("c",), ())


def test_only_a_few_former_champions_stay_in_memory(shop: Any) -> None:
    shop.crown()
    watching = shop.watcher(shop.ledger)
    watching.refresh()
    for number in range(5):
        shop.trial(shop.version(), name=f"t{number}", salt=str(number))
        watching.refresh()
        shop.promote(f"t{number}")
        watching.refresh()
    assert watching.current.champion is not None
    assert watching.current.champion.version == 6
    assert len(watching.engines.digests) == 3


def test_no_answer_mixes_versions_while_champions_change_under_load(shop: Any, start: Start) -> None:
    """Each model knows its own items only, so that an answer tells by itself which model made it."""
    vocabularies = [tuple(f"v{version}-{n}" for n in range(20)) for version in range(1, 9)]
    digests = {1: shop.crown(items=vocabularies[0])}
    client = start(serving={"poll_seconds": 0.01})
    failed: list[str] = []
    served: set[int] = set()
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            answer = client.post("/v1/recommend", json={"user_id": "u", "k": 5}, headers={"X-Ratchet-Now": T})
            if answer.status_code != 200:
                failed.append(answer.text)
                continue
            stated = answer.json()
            version = stated["model"]["version"]
            served.add(version)
            if {item["item_id"].split("-")[0] for item in stated["items"]} != {f"v{version}"}:
                failed.append(answer.text)

    loader = threading.Thread(target=load)
    loader.start()
    for version in range(2, 9):
        shop.trial(shop.version(items=vocabularies[version - 1], seed=version), name=f"t{version}", salt="s")
        digests[version] = shop.promote(f"t{version}")
        wait(client, serves(digests[version]))
    stop.set()
    loader.join()
    assert failed == []
    assert len(served) >= 4
    for row in shop.logged("exposures"):
        version = int(row["item_id"][1])
        assert (row["model_version"], row["digest"]) == (version, digests[version])


def test_a_lost_user_state_costs_the_history_and_not_the_answer(shop: Any, start: Start) -> None:
    shop.crown()
    client = start()
    ask(client)
    with closing(sqlite3.connect(client.app.state.service.user_state.path)) as other:  # type: ignore[attr-defined]
        other.execute("DROP TABLE events")
    assert len(ask(client)["items"]) == 3
    *before, after = [row["error"] for row in shop.logged("exposures") if row["position"] == 1]
    assert before == [None]
    assert "user state cannot be read: no such table: events" in after


def test_two_who_look_at_once_take_turns(shop: Any) -> None:
    """Beside one another each would take the other's half-made lists for its own former ones, and lose them."""
    shop.crown()
    inside, most = 0, 0

    class Slow:
        def serving_state(self) -> Any:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            time.sleep(0.05)
            inside -= 1
            return shop.ledger.serving_state()

    watching = shop.watcher(Slow())
    looking = [threading.Thread(target=watching.refresh) for _ in range(4)]
    for thread in looking:
        thread.start()
    for thread in looking:
        thread.join()
    assert most == 1
    assert watching.current.champion is not None
