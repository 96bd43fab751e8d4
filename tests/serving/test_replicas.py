"""Two servers as processes on one home and one Redis: they know the same of each user, and count feedback once."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relations.errors import UsageError
from serving.run import run
from stores.home import Home
from stores.settings import Settings
from stores.user_states import open_user_state

REPOSITORY = Path(__file__).parents[2]
NOBODY = "nobody was told of"
Launch = Callable[[], "Replica"]
pytestmark = pytest.mark.servers


class Replica:
    """One server process, asked through one connection a thread."""

    def __init__(self, process: subprocess.Popen[bytes], announcement: Path) -> None:
        self.process = process
        self.announcement = announcement
        self.port = int(json.loads(announcement.read_text())["port"])
        self._connections = threading.local()

    def ask(self, method: str, path: str, body: Any) -> Any:
        connection = getattr(self._connections, "one", None)
        if connection is None:
            connection = self._connections.one = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        return json.loads(content)

    def recommend(self, user: str = "u", **body: Any) -> Any:
        return self.ask("POST", "/v1/recommend", {"user_id": user, "k": 3, **body})

    def items(self, user: str = "u", **body: Any) -> list[str]:
        return [item["item_id"] for item in self.recommend(user, **body)["items"]]

    def tell(self, *events: Any) -> Any:
        return self.ask("POST", "/v1/feedback", {"events": events})

    def close(self) -> None:
        connection = getattr(self._connections, "one", None)
        if connection is not None:
            connection.close()


def click(item: str, *, user: str = "u", second: int = 0) -> dict[str, Any]:
    time_ = f"2026-01-01T00:{second // 60:02d}:{second % 60:02d}Z"
    return {"user_id": user, "item_id": item, "behaviour": "click", "event_time": time_}


def eye(n: int = 20) -> dict[str, np.ndarray]:
    """A network whose best item after a history ending in row r is row r + 1, the next one r + 2, …"""
    distance = (np.arange(n)[None, :] - np.arange(n)[:, None] - 1) % n
    return {"embedding_IxD": np.vstack([np.zeros(n), np.eye(n)]), "output_DxV": -distance.astype(np.float32)}


@pytest.fixture
def store(shop: Any, tmp_path: Path, hire: Callable[..., str]) -> Any:
    """As `shop`, but a home that is no simulation: only such a home has several servers."""
    made = type(shop)(Home.create(tmp_path / "wall"), tmp_path / "wall-scratch", Settings())
    hire(made.home, "ada", "approver")
    hire(made.home, "flow", "submitter")
    return made


@pytest.fixture
def launch(store: Any, redis_server: Any) -> Iterator[Launch]:
    started: list[subprocess.Popen[bytes]] = []
    replicas: list[Replica] = []
    stated = {
        "SERVING__USER_STATE": redis_server.url,
        "SERVING__USER_STATE_TIMEOUT_MS": "2000",  # the machine may be busy
        "SERVING__QUEUE_MS": "10000",
        "SERVING__TIMEOUT_MS": "10000",
        "SERVING__POLL_SECONDS": "0.1",
        "POLICY__EXPLORATION": "0",
    }

    def launch() -> Replica:
        process = subprocess.Popen(
            [sys.executable, "-m", "serving.run", "--home", str(store.home.root), "--port", "0"],
            cwd=REPOSITORY,
            env={**os.environ, **{f"RATCHET_{key}": value for key, value in stated.items()}},
            stderr=subprocess.DEVNULL,
        )
        started.append(process)
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and process.poll() is None:
            for announcement in store.home.run.glob("serving*.json"):
                if json.loads(announcement.read_text())["pid"] == process.pid:
                    replicas.append(Replica(process, announcement))
                    return replicas[-1]
            time.sleep(0.05)
        raise AssertionError("the server announced nothing")

    yield launch
    for replica in replicas:
        replica.close()
    for process in started:
        process.kill()
        process.wait()


def test_two_replicas_are_one(store: Any, launch: Launch) -> None:
    store.crown(**eye())
    store.trial(store.version(seed=5), allocation=0.5)
    with ThreadPoolExecutor(2) as both:
        one, other = both.map(lambda _: launch(), range(2))

        # One user gets one answer and one arm, whoever gives it; what one was told the other knows at once.
        arms = set()
        for n in range(20):
            user, teller, asked = f"u{n}", *((one, other) if n % 2 else (other, one))
            assert teller.tell(click(f"item-{n:02d}", user=user))["accepted"] == 1
            told = [replica.recommend(user) for replica in (asked, teller)]
            assert told[0]["model"] == told[1]["model"]
            seen = [[(item["item_id"], item["score"]) for item in answer["items"]] for answer in told]
            assert seen[0] == seen[1]
            assert f"item-{n:02d}" not in [item for item, _ in seen[0]]
            arms.add(told[0]["model"]["arm"])
        assert arms == {"champion", "challenger"}

        # Feedback told to both, at the same moment or one after the other, with a token of either, is counted once.
        shown = one.recommend("w", k=10)["items"]
        for place, item in enumerate(shown):
            outcome = {"user_id": "w", "item_id": item["item_id"], "behaviour": "click", "token": item["token"]}
            told = list(both.map(lambda replica, event=outcome: replica.tell(event), (one, other)))
            assert sorted(each["accepted"] for each in told) == [0, 1], place
            assert sorted(each["duplicate"] for each in told) == [0, 1]
            assert [replica.tell(outcome)["duplicate"] for replica in (one, other)] == [1, 1]

    # What a user controls holds on the other one at the next request.
    path = "/v1/users/preferences"
    wishes = {"user_id": "u3", "personalised": False, "hidden_items": ["item-07"], "hidden_categories": []}
    set_ = one.ask("PUT", path, wishes)
    assert other.ask("POST", f"{path}/read", {"user_id": "u3"}) == set_
    assert "item-07" not in other.items("u3", k=20)
    assert len(other.items("u3", k=20)) == 19  # what u3 clicked is no longer left out

    # Each has an announcement of its own; the first one's lock dies with it.
    first, second = sorted((one, other), key=lambda each: len(each.announcement.name))
    assert first.announcement.name == "serving.json"
    assert second.announcement.name == f"serving-{socket.gethostname()}-{second.port}.json"
    first.process.kill()
    first.process.wait()
    second.close()  # a connection that idles while the next one starts would be closed by the server
    third = launch()
    assert third.announcement.name == "serving.json"
    assert third.items("u4") == second.items("u4")
    second.process.send_signal(signal.SIGTERM)
    assert second.process.wait(timeout=30) == 0
    assert not second.announcement.exists()


def test_redis_killed_and_back_costs_no_answer(store: Any, launch: Launch, redis_server: Any) -> None:
    store.crown(**eye())
    with ThreadPoolExecutor(3) as pool:
        one, other = pool.map(lambda _: launch(), range(2))
        one.tell(click("item-03"))
        assert one.items() == other.items() == ["item-04", "item-05", "item-06"]
        wishes = {"user_id": "u", "personalised": True, "hidden_items": ["item-05"], "hidden_categories": []}
        one.ask("PUT", "/v1/users/preferences", wishes)
        running = True

        def keep_asking(replica: Replica) -> int:
            asked = 0
            while running:
                assert "item-05" not in replica.items()  # a wish outlives Redis
                asked += 1
            replica.close()
            return asked

        asking = [pool.submit(keep_asking, replica) for replica in (one, other)]
        time.sleep(0.5)
        redis_server.kill()
        time.sleep(0.5)
        assert one.items(NOBODY) == one.items()  # who the user is, is not known; who answers is
        assert one.recommend()["model"]["version"] == 1
        assert one.tell(click("item-10", user="v", second=1))["accepted"] == 1
        time.sleep(0.5)
        redis_server.start()  # empty
        deadline = time.monotonic() + 30
        back = ["item-11", "item-12", "item-13"]  # what one was told meanwhile, from the other too
        while [replica.items("v") for replica in (one, other)] != [back, back]:  # each tries Redis once a second
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert one.items("v") == other.items("v")
        # The lake's events come back with the next ingest; until then both know equally little.
        state = open_user_state(store.home, Settings.model_validate({"serving": {"user_state": redis_server.url}}))
        assert state.absorbed() == -1
        state.close()
        assert one.items() == other.items()
        assert other.tell(click("item-14", second=2))["accepted"] == 1
        assert one.items() == other.items() == ["item-15", "item-16", "item-17"]
        running = False
        answers = sum(each.result() for each in asking)
    assert answers > 20
    logged = [row["item_id"] for row in store.logged("feedback")]
    assert sorted(logged) == ["item-03", "item-10", "item-14"]


def test_a_simulation_has_one_server(shop: Any, redis_server: Any) -> None:
    """Its request ids follow from user and time: a second server would give the same ones to other answers."""
    from filelock import FileLock

    shared = Settings.model_validate({"home": {"clock": "request"}, "serving": {"user_state": redis_server.url}})
    with FileLock(shop.home.run / "serving.lock"), pytest.raises(UsageError, match="a simulation cannot"):
        run(shop.home, shared, port=0)
