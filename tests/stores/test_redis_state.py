"""What only Redis can do: be down, stall, come back empty, be full, let keys expire."""

import asyncio
import logging
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from relations.errors import DependencyFailed
from stores.breaker import Breaker
from stores.preferences import NO_PREFERENCES, PreferenceFiles, Preferences
from stores.redis_rows import packed, unpacked
from stores.redis_state import RedisState
from stores.user_states import PastEvent, Row

QUIET = Preferences(personalised=False)


def row(user: str, event_id: str, time_us: int) -> Row:
    return (user, event_id, "i", "click", time_us)


def open_state(server: Any, folder: Path, *, name: str = "home", timeout_seconds: float = 0.1) -> RedisState:
    record = PreferenceFiles(folder / name)
    options = {"options": {}, "namespace": "n", "timeout_seconds": timeout_seconds, "days": 30.0}
    return RedisState(server.url, record=record, **options)


async def timed(read: Any) -> tuple[Any, float]:
    started = time.perf_counter()
    return await read, time.perf_counter() - started


def test_a_breaker_lets_one_try_a_second() -> None:
    now = [0.0]
    breaker = Breaker(seconds=1.0, clock=lambda: now[0])
    assert breaker.allows()
    assert breaker.allows()
    breaker.failed()
    assert (breaker.is_open, breaker.allows()) == (True, False)
    now[0] = 1.0
    assert [breaker.allows() for _ in range(3)] == [True, False, False]  # one tries, the others go without
    now[0] = 2.0
    assert breaker.allows()
    breaker.succeeded()
    assert (breaker.is_open, breaker.allows(), breaker.allows()) == (False, True, True)


def test_a_member_says_all_of_an_event() -> None:
    events = [PastEvent("e\0", "", "\0\0", -5), PastEvent("", "i\x01", "b", 2**63 - 1)]
    assert unpacked(b"".join(packed(("u", *event)) for event in events)) == events
    assert unpacked(b"") == []


@pytest.mark.parametrize("how", ["killed", "stalled"])
def test_a_redis_that_is_gone_costs_one_timeout_a_second(
    redis_server: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    async def told() -> None:
        state = open_state(redis_server, tmp_path)
        await state.admit([row("u", "a", 1)])
        await state.set_preferences("u", QUIET)
        (redis_server.kill if how == "killed" else redis_server.stall)()
        waited = 0.0
        for _ in range(50):
            remembered, seconds = await timed(state.read("u"))
            waited += seconds
            assert remembered.item_ids == ()
            assert not remembered.preferences.personalised  # the home's files know
            assert "redis.sock: user state:" in remembered.error
        assert waited < 0.1 + 50 * 0.02  # one timeout, and next to nothing for the others
        with pytest.raises(DependencyFailed, match="asked again soon"):
            await state.admit([row("u", "b", 2)])
        assert (await state.set_preferences("v", QUIET)).set_us > 0
        assert sum("user state" in record.message for record in caplog.records) <= 3  # not one a request
        if how == "killed":
            redis_server.start()  # empty
        else:
            redis_server.go_on()
        await asyncio.sleep(1.05)
        await state.read("u")  # one tries: it is back, and is told what it missed
        assert state._settling is not None
        await state._settling
        held = ["a", "b"] if how == "stalled" else ["b"]
        other = open_state(redis_server, tmp_path, name="elsewhere")  # its files have no preferences
        assert [event.event_id for event in other.newest("u", 9)] == held
        assert not (await other.read("v")).preferences.personalised
        assert await other.admit([row("u", "b", 2)]) == set()
        await state.aclose()
        await other.aclose()

    with caplog.at_level(logging.WARNING):
        asyncio.run(told())


def test_a_late_answer_is_never_taken_for_the_next(redis_server: Any, tmp_path: Path) -> None:
    """A connection whose answer was not waited for is closed: the answer would come to the next who asks."""

    async def told() -> None:
        state = open_state(redis_server, tmp_path)
        await state.admit([row("u", "of u", 1), row("v", "of v", 2)])
        redis_server.stall()
        assert (await state.read("u")).error
        redis_server.go_on()
        await asyncio.sleep(1.05)
        for user in "vuvu":
            assert (await state.read(user)).times_us == [{"u": 1, "v": 2}[user]]
        await state.aclose()

    asyncio.run(told())


def test_preferences_set_before_redis_was_lost_are_no_older_than_those_in_it(redis_server: Any, tmp_path: Path) -> None:
    """What was owed does not replace what somebody else set later."""

    async def told() -> None:
        state, other = open_state(redis_server, tmp_path), open_state(redis_server, tmp_path, name="elsewhere")
        redis_server.kill()
        await state.set_preferences("u", QUIET)
        redis_server.start()
        later = await other.set_preferences("u", Preferences(hidden_items=frozenset({"x"})))
        await asyncio.sleep(1.05)
        await state.read("u")
        assert state._settling is not None
        await state._settling
        assert (await other.read("u")).preferences == (await state.read("u")).preferences == later
        await state.aclose()
        await other.aclose()

    asyncio.run(told())


def test_a_full_redis_refuses_what_is_new_and_tells_what_it_has(redis_server: Any, tmp_path: Path) -> None:
    async def told() -> None:
        state = open_state(redis_server, tmp_path, timeout_seconds=2.0)
        await state.admit([row("u", "a", 1)])
        with redis.Redis.from_url(redis_server.url) as client:
            client.config_set("maxmemory", 1)
            with pytest.raises(DependencyFailed, match="maxmemory"):
                await state.admit([row("u", "b", 2)])
            assert len((await state.read("u")).item_ids) == 1
            client.config_set("maxmemory", 0)
        await state.read("u")
        assert state._settling is not None
        await state._settling
        assert len((await state.read("u")).item_ids) == 2
        await state.aclose()

    asyncio.run(told())


def test_scripts_are_loaded_again(redis_server: Any, tmp_path: Path) -> None:
    async def told() -> None:
        state = open_state(redis_server, tmp_path, timeout_seconds=2.0)
        await state.read("u")
        with redis.Redis.from_url(redis_server.url) as client:
            client.script_flush()
        assert (await state.read("u")).error is None
        await state.aclose()

    asyncio.run(told())


def test_nothing_of_a_forgotten_user_is_in_redis(redis_server: Any, tmp_path: Path) -> None:
    state = open_state(redis_server, tmp_path)
    state.absorb(row(user, f"{user}{n}", n) for user in ("p1_canary", "p1_other") for n in range(10))
    state._record.keep("p1_canary", replace(QUIET, set_us=1))
    with redis.Redis.from_url(redis_server.url) as client:

        def mentions() -> int:
            members = [member for key in client.keys("n:g:*") for member in client.zrange(key, 0, -1)]
            return sum(b"canary" in said for said in [*client.keys(), *members])

        assert mentions() == 2  # the events' key, and the index of users
        client.config_set("aof-use-rdb-preamble", "no")  # text, so that it can be searched
        client.config_set("appendonly", "yes")
        assert state.forget(["p1_canary"]) == 10
        assert mentions() == 0
        assert client.ttl("n:u:p1_other") > 29 * 86_400
        while client.info("persistence")["aof_rewrite_in_progress"]:
            time.sleep(0.01)
    kept = b"".join(path.read_bytes() for path in redis_server.folder.rglob("*.aof*"))
    assert b"other" in kept
    assert b"canary" not in kept
    state.close()


def test_users_whose_events_expired_leave_the_index(redis_server: Any, tmp_path: Path) -> None:
    state = open_state(redis_server, tmp_path)
    state.absorb([row("p1_a", "a", 1), row("p1_b", "b", 1)])

    async def told() -> None:
        other = open_state(redis_server, tmp_path, timeout_seconds=2.0)
        await other.set_preferences("p1_c", QUIET)
        await other.aclose()

    asyncio.run(told())
    with redis.Redis.from_url(redis_server.url) as client:
        client.zadd("n:g:p1_", {"p1_a": time.time() - 31 * 86_400})
        state.absorb([])
        assert client.zrange("n:g:p1_", 0, -1) == [b"p1_b", b"p1_c"]
    state.close()


def test_a_flow_is_told_that_redis_is_down(redis_server: Any, tmp_path: Path) -> None:
    state = open_state(redis_server, tmp_path)
    redis_server.kill()
    for ask in (
        lambda: state.absorb([row("u", "a", 1)]),
        lambda: state.newest("u", 1),
        lambda: state.forget(["u"]),
        state.absorbed,
        lambda: state.rename("p2_", list),
    ):
        with pytest.raises(DependencyFailed, match="check \\[serving\\] user_state"):
            ask()
    assert state._recorded("u", None) == NO_PREFERENCES
    state.close()


def test_a_password_comes_from_the_environment_and_is_never_told(
    redis_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.config_set("requirepass", "hunter2-of-redis")
    monkeypatch.setenv("REDIS_SECRET", "hunter2-of-redis")
    stated = {"namespace": "n", "record": PreferenceFiles(tmp_path), "timeout_seconds": 2.0, "days": 30.0}

    async def told() -> None:
        known = RedisState(redis_server.url, options={"password": "env:REDIS_SECRET"}, **stated)
        assert await known.admit([row("u", "a", 1)]) == {"a"}
        assert known.newest("u", 9)[0].event_id == "a"
        await known.aclose()
        for options, said in (({}, "Authentication required"), ({"password": "hunter2-or-not"}, "WRONGPASS|invalid")):
            unknown = RedisState(redis_server.url, options=options, **stated)
            error = (await unknown.read("u")).error
            assert error is not None
            assert re.search(said, error)
            assert "hunter2" not in error
            await unknown.aclose()

    asyncio.run(told())
