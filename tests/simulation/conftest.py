"""A stub of the Recommend API over real HTTP: it shows what a test tells it to, and keeps what it was sent."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from simulation.marketplace import Marketplace
from simulation.parameters import Parameters

Show = Callable[[dict[str, Any]], list[str]]


class Stub:
    def __init__(self) -> None:
        self.show: Show = lambda body: []
        self.requests: list[tuple[str, dict[str, Any], str | None]] = []
        """(path, body, X-Ratchet-Now), in the order of arrival."""
        self.connections = 0
        self.status = 200
        self.url = ""

    def recommended(self) -> list[dict[str, Any]]:
        return [body for path, body, _ in self.requests if path == "/v1/recommend"]

    def events(self) -> list[dict[str, Any]]:
        return [event for path, body, _ in self.requests if path == "/v1/feedback" for event in body["events"]]

    def answer(self, path: str, body: dict[str, Any], place: int | None = None) -> dict[str, Any]:
        """`place`: of the request in its batch."""
        if path == "/v1/feedback":
            return {"accepted": len(body["events"]), "duplicate": 0, "refused": []}
        if path == "/v1/recommend/batch":
            return {
                "answers": [self.answer("/v1/recommend", each, place) for place, each in enumerate(body["requests"])]
            }
        number = f"r{len(self.requests)}{'' if place is None else f'.{place}'}"
        items = [
            {"item_id": item, "score": 0.0, "position": place, "propensity": 1.0, "token": f"{number}:{place}"}
            for place, item in enumerate(self.show(body), start=1)
        ]
        model = {"version": 1, "digest": "d", "arm": "champion", "trial": None}
        return {"request_id": number, "items": items, "model": model}


@pytest.fixture
def stub() -> Iterator[Stub]:
    state = Stub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            state.connections += 1

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.requests.append((self.path, body, self.headers["X-Ratchet-Now"]))
            content = json.dumps(state.answer(self.path, body)).encode()
            head = f"HTTP/1.1 {state.status} OK\r\nContent-Length: {len(content)}\r\n\r\n".encode()
            self.wfile.write(head + content)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield state
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def marketplace() -> Marketplace:
    """The default marketplace, seed 0."""
    return Marketplace(seed=0)


@pytest.fixture(scope="session")
def village() -> Marketplace:
    """A small one for tests that send every request over HTTP."""
    return Marketplace(Parameters(users=400, items=300, new_users_per_day=2, bots=2, horizon_days=30), seed=1)
