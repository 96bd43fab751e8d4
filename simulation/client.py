"""A client of the Recommend API, as an app would have one: JSON over one kept-alive HTTP connection.

A socket and `http.client`'s parser: a request costs a fraction of what a full-featured client library takes, and the
simulation's own cost must not hide the server's.
"""

import http.client
import json
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from relations.errors import DependencyFailed, UsageError

IDLE_SECONDS = 2.0
"""A connection that was idle for longer is opened anew: servers close idle ones (uvicorn after 5 seconds), and a
request that runs into the closing is lost without anybody's fault."""


class RequestFailed(DependencyFailed):
    """One request got no usable answer: connection, status or body."""


@dataclass(frozen=True)
class Slate:
    """One answer of /v1/recommend, by position."""

    request_id: str
    item_ids: tuple[str, ...]
    tokens: tuple[str, ...]
    propensities: tuple[float, ...]
    arm: str
    trial: str | None
    digest: str
    version: int


@dataclass(frozen=True)
class Receipt:
    """One answer of /v1/feedback."""

    accepted: int
    duplicate: int
    refused: tuple[str, ...]
    """A reason for each refused event."""


@dataclass
class Counts:
    """What a client has done so far."""

    requests: int = 0
    """Requests sent, /v1/recommend and /v1/feedback together."""
    failures: int = 0
    """Requests without a usable answer."""
    recommendations: int = 0
    feedbacks: int = 0
    events_accepted: int = 0
    events_duplicate: int = 0
    events_refused: int = 0
    last_failure: str = ""


class RecommendClient:
    """Speaks to one server, one request at a time. Not for several threads at once; make one each."""

    _connection: socket.socket | None = None

    def __init__(self, url: str, *, timeout_seconds: float = 10.0) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise UsageError(f"{url}: not the address of a Recommend API; expected http://HOST:PORT")
        self._host, self._port = parts.hostname, parts.port or 80
        self._prefix = parts.path.rstrip("/")
        self._timeout = timeout_seconds
        self._used = 0.0
        self.counts = Counts()

    def recommend(
        self,
        user_id: str,
        *,
        k: int,
        now: str | None = None,
        exclude: Sequence[str] = (),
        surface: str | None = None,
        events: Sequence[Mapping[str, Any]] | None = None,
    ) -> Slate:
        """`now`: the simulation's time, ISO 8601 (header X-Ratchet-Now). `events` (item_id, behaviour, event_time)
        stand for the user's newest history. Raises RequestFailed."""
        body: dict[str, Any] = {"user_id": user_id, "k": k}
        if events is not None:
            body["events"] = list(events)
        if exclude:
            body["exclude"] = list(exclude)
        if surface is not None:
            body["surface"] = surface
        answer = self._post("/v1/recommend", body, now)
        try:
            slate = _slate(answer)
        except (KeyError, TypeError) as error:
            raise self._failed(f"/v1/recommend: answer lacks {error}") from error
        self.counts.recommendations += 1
        return slate

    def recommend_many(self, requests: Sequence[Mapping[str, Any]], *, now: str | None = None) -> list[Slate]:
        """Up to 64 bodies of /v1/recommend in one request; their answers in this order.

        Raises RequestFailed where one of them was refused: its users were shown nothing, the others were.
        """
        answer = self._post("/v1/recommend/batch", {"requests": list(requests)}, now)
        try:
            slates = [_slate(each) for each in answer["answers"]]
        except (KeyError, TypeError) as error:
            raise self._failed(f"/v1/recommend/batch: an answer lacks {error}: {str(answer)[:200]}") from error
        if len(slates) != len(requests):
            raise self._failed(f"/v1/recommend/batch: {len(slates)} answers to {len(requests)} requests")
        self.counts.recommendations += len(slates)
        return slates

    def feedback(self, events: Sequence[Mapping[str, Any]], *, now: str | None = None) -> Receipt:
        """Send events (token?, event_id?, user_id, item_id, behaviour, value?, event_time). Raises RequestFailed."""
        answer = self._post("/v1/feedback", {"events": events}, now)
        try:
            receipt = Receipt(
                accepted=answer["accepted"],
                duplicate=answer["duplicate"],
                refused=tuple(str(refusal["reason"]) for refusal in answer["refused"]),
            )
        except (KeyError, TypeError) as error:
            raise self._failed(f"/v1/feedback: answer lacks {error}") from error
        self.counts.feedbacks += 1
        self.counts.events_accepted += receipt.accepted
        self.counts.events_duplicate += receipt.duplicate
        self.counts.events_refused += len(receipt.refused)
        return receipt

    def __enter__(self) -> "RecommendClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _post(self, path: str, body: Mapping[str, Any], now: str | None) -> Any:
        payload = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        head = f"POST {self._prefix}{path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n"
        if now is not None:
            head += f"X-Ratchet-Now: {now}\r\n"
        self.counts.requests += 1
        try:
            connection = self._open()
            connection.sendall(f"{head}\r\n".encode() + payload)
            response = http.client.HTTPResponse(connection, method="POST")
            response.begin()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._failed(f"{path}: {type(error).__name__}: {error}") from error
        if response.will_close:
            self.close()
        self._used = time.monotonic()
        if response.status != 200:
            raise self._failed(f"{path}: status {response.status}: {content[:200].decode(errors='replace')}")
        try:
            return json.loads(content)
        except ValueError as error:
            raise self._failed(f"{path}: not JSON: {content[:200].decode(errors='replace')}") from error

    def _open(self) -> socket.socket:
        if self._connection is not None and time.monotonic() - self._used > IDLE_SECONDS:
            self.close()
        if self._connection is None:
            self._connection = socket.create_connection((self._host, self._port), timeout=self._timeout)
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._connection

    def _failed(self, message: str) -> RequestFailed:
        self.counts.failures += 1
        self.counts.last_failure = message
        self.close()
        return RequestFailed(f"http://{self._host}:{self._port}{message}; is `ratchet serve` running there?")


def _slate(answer: Mapping[str, Any]) -> Slate:
    """Raises KeyError or TypeError for what is no answer."""
    shown, model = answer["items"], answer["model"]
    return Slate(
        request_id=answer["request_id"],
        item_ids=tuple(item["item_id"] for item in shown),
        tokens=tuple(item["token"] for item in shown),
        propensities=tuple(item["propensity"] for item in shown),
        arm=model["arm"],
        trial=model["trial"],
        digest=model["digest"],
        version=model["version"],
    )
