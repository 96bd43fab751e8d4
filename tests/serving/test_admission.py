"""Who is let in: as many at once as were answered in time so far."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from serving.networks.batching import Batcher
from serving.web.admission import Admission, Headroom


def headroom(*, waits: float = 0.0, now: list[float] | None = None) -> Headroom:
    batcher = cast(Batcher, SimpleNamespace(wait_seconds=waits))
    return Headroom(batcher, budget_seconds=0.1, clock=lambda: now[0] if now else 0.0)


async def _ask(admission: Admission, path: str) -> int:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("a refused request must not be read")

    await admission({"type": "http", "path": path, "method": "POST", "headers": []}, receive, send)
    if sent[0]["status"] == 503:
        assert (b"retry-after", b"1") in sent[0]["headers"]
        assert (b"content-type", b"application/problem+json") in sent[0]["headers"]
    return int(sent[0]["status"])


async def _app(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


@pytest.mark.parametrize(("waits", "status"), [(0.0, 200), (0.1, 200), (0.11, 503)])
@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/recommend/batch"])
def test_what_would_wait_too_long_for_a_network_is_refused_unread(waits: float, status: int, path: str) -> None:
    room = headroom(waits=waits)
    assert asyncio.run(_ask(Admission(_app, headroom=lambda: room), path)) == status
    assert (room.refused, room.under_way) == (int(status == 503), 0)


def test_feedback_and_probes_are_never_refused_for_load() -> None:
    room = headroom(waits=9.0)
    for path in ("/v1/feedback", "/readyz", "/metrics"):
        assert asyncio.run(_ask(Admission(_app, headroom=lambda: room), path)) == 200


def test_a_request_that_fails_makes_room_too() -> None:
    room = headroom()

    async def broken(_scope: Any, _receive: Any, _send: Any) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        asyncio.run(_ask(Admission(broken, headroom=lambda: room), "/v1/recommend"))
    assert room.under_way == 0


def test_no_more_are_under_way_than_the_limit() -> None:
    room = headroom()
    assert [room.enter() for _ in range(40)] == [True] * 32 + [False] * 8
    assert (room.under_way, room.refused) == (32, 8)
    room.leave(seconds=0.01)
    assert room.enter()


def test_the_limit_grows_while_all_of_it_is_used_in_time() -> None:
    room = headroom()
    for _ in range(32):
        assert room.enter()
    room.leave(seconds=0.01)
    assert room.limit == 32 + 4 / 32
    for _ in range(20):
        room.leave(seconds=0.01)
    assert room.limit == pytest.approx(32 + 4 / 32, abs=0.2)  # half empty: nothing was learnt


def test_late_answers_cut_the_limit_once_for_all_that_were_late_together() -> None:
    now = [10.0]
    room = headroom(now=now)
    for _ in range(32):
        room.enter()
    for _ in range(5):
        room.leave(seconds=0.5)
    assert room.limit == pytest.approx(32 * 0.8)
    now[0] = 10.2
    room.leave(seconds=0.5)
    assert room.limit == pytest.approx(32 * 0.64)
    for second in range(60):
        now[0] = 11.0 + second
        room.enter()
        room.leave(seconds=0.5)
    assert room.limit == 4  # a server that is late with everything still tries some


def test_the_limit_finds_what_a_server_can_do() -> None:
    # One that answers a request each 5 ms: within .1 s it can have 20 under way, and with more it is late.
    now = [0.0]
    room = headroom(now=now)
    under_way: list[float] = []
    for _ in range(20_000):
        now[0] += 0.005
        under_way += [now[0] for _ in range(3) if room.enter()]  # three times what it can do
        if under_way:
            room.leave(seconds=now[0] - under_way.pop(0))
    assert 12 <= room.limit <= 24
    assert room.refused == pytest.approx(40_000, rel=0.02)
