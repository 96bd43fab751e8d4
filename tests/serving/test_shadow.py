"""When the shadow keeps quiet: answers waiting for a network, a disk behind, a trial that was killed meanwhile."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from serving.choosing.shadow import Shadow, ShadowRequest
from serving.web.metrics import Metrics, ShadowFate


class Chooser:
    def __init__(self) -> None:
        self.asked = 0

    async def ask(self, loaded: Any, wish: Any) -> Any:
        self.asked += 1
        raise RuntimeError("no network here")


class Log:
    waiting = 0


def shadow(chooser: Any, log: Any, **other: Any) -> Shadow:
    quiet: dict[str, Callable[..., bool]] = {"busy": lambda: False, "stopped": lambda trial: False}
    return Shadow(
        chooser=chooser, log=log, metrics=Metrics(), most=3, most_rows=10, patience_seconds=0.1, **quiet | other
    )


def request() -> Any:
    class Loaded:
        version = 2

    return ShadowRequest("t1", "challenger", Loaded(), None, 3, frozenset(), {"request_id": "r"})  # type: ignore[arg-type]


def fates(made: Shadow, *, offers: int) -> dict[str, int]:
    async def run() -> None:
        for _ in range(offers):
            made.offer(request())
        while made._task is not None and not made._task.done():
            await asyncio.sleep(0.005)

    asyncio.run(run())
    return {str(fate): count for fate, count in made.fates("t1").items() if count}


@pytest.mark.parametrize(
    ("other", "rows", "found", "asked"),
    [
        ({}, 0, {"failed": 2}, 2),
        ({"busy": lambda: True}, 0, {"dropped": 2}, 0),
        ({"stopped": lambda trial: True}, 0, {"dropped": 2}, 0),
        ({}, 11, {"dropped": 2}, 0),
    ],
)
def test_what_keeps_a_challenger_from_being_asked(
    other: dict[str, Any], rows: int, found: dict[str, int], asked: int
) -> None:
    chooser, log = Chooser(), Log()
    log.waiting = rows
    made = shadow(chooser, log, **other)
    assert fates(made, offers=2) == found
    assert chooser.asked == asked
    name = next(iter(found))
    assert f'ratchet_shadow_requests_total{{fate="{name}"}} 2.0' in made._metrics.text().decode()


def test_there_is_room_for_a_few_and_a_later_one_starts_it_again() -> None:
    chooser = Chooser()
    made = shadow(chooser, Log())
    assert fates(made, offers=5) == {ShadowFate.DROPPED: 2, ShadowFate.FAILED: 3}
    assert fates(made, offers=1) == {ShadowFate.DROPPED: 2, ShadowFate.FAILED: 4}


def test_the_fates_of_one_trial_are_not_anothers() -> None:
    made = shadow(Chooser(), Log())
    assert fates(made, offers=2) == {"failed": 2}
    assert set(made.fates("t2").values()) == {0}


def test_a_burst_is_asked_when_the_networks_are_idle_again() -> None:
    busy = iter([True, True, False, False, False])
    chooser = Chooser()
    assert fates(shadow(chooser, Log(), busy=lambda: next(busy)), offers=1) == {ShadowFate.FAILED: 1}
    assert chooser.asked == 1
