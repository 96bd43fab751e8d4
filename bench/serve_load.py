"""A load on a recommend API from a process of its own: `python -m bench.serve_load` reads what to do from stdin.

Open loop: requests are due at times drawn beforehand (Poisson), whatever the server does, and a latency counts from the
time a request was due, so that a server that falls behind is charged for it. Closed loop (`rate` 0): each of
`connections` sends its next request when it has its answer, and waits a second after a refusal, as it is told to:
clients that ask again at once would measure refusals. HTTP/1.1 on kept connections, written by hand: the load
must cost a fraction of what it measures.
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import uvloop

_RETRY_SECONDS = 1.0  # what a refusal says in Retry-After


@dataclass(frozen=True)
class Load:
    """`rate`: requests a second, 0 for a closed loop. `bodies` are sent in turn, over at most `connections`, as a proxy
    in front of a server would; what waits for one is charged for the waiting."""

    port: int
    bodies: list[str]
    seconds: float
    rate: float = 0.0
    connections: int = 64
    path: str = "/v1/recommend"
    seed: int = 0
    timeout_seconds: float = 30.0
    keep_ids: bool = False


@dataclass
class Outcome:
    """Of one load. `statuses`: by status, 0 for a broken connection."""

    seconds: float = 0.0
    ok_ms: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    done_at: list[float] = field(default_factory=list)
    """Seconds from the start at which each good answer was there."""
    statuses: dict[int, int] = field(default_factory=dict)
    without_retry_after: int = 0
    mixed: int = 0
    """Answers whose items are of another model than they say."""
    digests: dict[str, int] = field(default_factory=dict)
    request_ids: list[str] = field(default_factory=list)
    """Of good answers, where the load keeps them."""


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._buffer = b""
        self._answer: asyncio.Future[tuple[int, bytes, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((0, b"", b""))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator or self._answer is None:
            return
        low = head.lower()
        at = low.index(b"content-length:") + 15
        length = int(low[at:].split(b"\r\n", 1)[0])
        if len(body) >= length:
            self._buffer = body[length:]
            if not self._answer.done():
                self._answer.set_result((int(head[9:12]), low, body[:length]))

    async def ask(self, request: bytes) -> tuple[int, bytes, bytes]:
        if self.transport is None:
            return 0, b"", b""
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answer


async def apply(load: Load) -> Outcome:
    """Do it. Connections that a server closes are opened again."""
    loop = asyncio.get_running_loop()
    requests = [_request(load, body) for body in load.bodies]
    outcome, statuses, digests = Outcome(), Counter[int](), Counter[str]()
    free: asyncio.LifoQueue[_Connection] = asyncio.LifoQueue()

    async def connect() -> _Connection:
        return (await loop.create_connection(_Connection, "127.0.0.1", load.port))[1]

    async def one(number: int, due: float) -> int:
        connection = await free.get()
        try:
            if connection.transport is None:
                connection = await connect()
            status, head, body = await asyncio.wait_for(
                connection.ask(requests[number % len(requests)]), load.timeout_seconds
            )
        except (OSError, TimeoutError):
            statuses[0] += 1
            if connection.transport is not None:
                connection.transport.abort()  # its answer may still come
            return 0
        finally:
            free.put_nowait(connection)  # a broken one is opened again by whom it serves next
        done = time.perf_counter()
        statuses[status] += 1
        if status == 200:
            outcome.ok_ms.append((done - due) * 1e3)
            outcome.done_at.append(done - begun)
            _look_into(body, outcome, digests)
            if load.keep_ids:
                outcome.request_ids.append(body[15:47].decode())
        else:
            outcome.refused_ms.append((done - due) * 1e3)
            outcome.without_retry_after += status == 503 and b"\r\nretry-after:" not in head
        return status

    for _ in range(load.connections):
        free.put_nowait(await connect())
    begun = time.perf_counter()
    if load.rate:
        drawn, at, number, tasks = random.Random(load.seed), 0.0, 0, set()
        while at < load.seconds:
            wait = begun + at - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            task = loop.create_task(one(number, begun + at))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
            at += drawn.expovariate(load.rate)
        await asyncio.gather(*tasks)
    else:

        async def go_on(first: int) -> None:
            number = first
            while time.perf_counter() - begun < load.seconds:
                if await one(number, time.perf_counter()) == 503:
                    await asyncio.sleep(_RETRY_SECONDS)
                number += load.connections

        await asyncio.gather(*(go_on(number) for number in range(load.connections)))
    outcome.seconds = time.perf_counter() - begun
    while not free.empty():
        if (transport := free.get_nowait().transport) is not None:
            transport.close()
    outcome.statuses, outcome.digests = dict(statuses), dict(digests)
    return outcome


def _request(load: Load, body: str) -> bytes:
    content = body.encode()
    head = f"POST {load.path} HTTP/1.1\r\nHost: 127.0.0.1:{load.port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def _look_into(body: bytes, outcome: Outcome, digests: Counter[str]) -> None:
    """Which model answered: as it says, and as each token says, where the digest's first characters stand."""
    at = body.find(b'"digest":"')
    if at < 0:
        return
    digest = body[at + 10 :].split(b'"', 1)[0].decode()
    digests[digest] += 1
    mark = f".{digest[:16]}.".encode()
    outcome.mixed += body.count(b'"token":"') != body.count(mark)


def main() -> None:
    stated: dict[str, Any] = json.load(sys.stdin)
    json.dump(asdict(uvloop.run(apply(Load(**stated)))), sys.stdout)


if __name__ == "__main__":
    main()
