"""What user state promises, held on SQLite and on a real Redis."""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relations.errors import SettingsError, UsageError
from stores.home import Home
from stores.preferences import NO_PREFERENCES, PreferenceFiles, Preferences
from stores.redis_state import RedisState
from stores.settings import Settings, load_settings
from stores.sqlite_state import SqliteState
from stores.user_states import PastEvent, Row, UserState, open_user_state

Open = Callable[..., UserState]
Run = Callable[[Coroutine[Any, Any, Any]], Any]
QUIET = Preferences(False, frozenset({"i", "ü\n"}), frozenset({"Horror & co"}))


def row(user: str, event_id: str, time_us: int, item: str = "i") -> Row:
    return (user, event_id, item, "click", time_us)


def ids(state: UserState, user: str, n: int = 999, **also: str) -> list[str]:
    return [event.event_id for event in state.newest(user, n, **also)]


@pytest.fixture
def run() -> Iterator[Run]:
    """Coroutines of one test in one event loop, as in a server."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(params=["sqlite", "redis"])
def open_state(request: pytest.FixtureRequest, tmp_path: Path, run: Run) -> Iterator[Open]:
    """`open_state(keep=…, name=…)` opens one more view of the state of that name."""
    opened: list[UserState] = []
    server = request.getfixturevalue("redis_server") if request.param == "redis" else None

    def open_state(*, keep: int = 200, name: str = "state") -> UserState:
        state: UserState
        if server is None:
            state = SqliteState(tmp_path / f"{name}.db", keep=keep)
        else:
            state = redis_state(server.url, record=PreferenceFiles(tmp_path / name), keep=keep, namespace=name)
        opened.append(state)
        return state

    yield open_state
    for state in opened:
        run(state.aclose())


def redis_state(url: str, **stated: Any) -> RedisState:
    # Two seconds: these tests are about answers, and the machine may be busy.
    return RedisState(url, **{"options": {}, "timeout_seconds": 2.0, "days": 30.0, "namespace": "state", **stated})


def test_newest_is_the_tail_in_time_then_id_order(open_state: Open) -> None:
    state = open_state()
    assert state.absorb([row("u", "c", 5), row("u", "b", 5), row("v", "x", 9), row("u", "a", 7), row("u", "z", 1)]) == 5
    assert ids(state, "u", 3) == ["b", "c", "a"]
    assert state.newest("u", 1) == [PastEvent("a", "i", "click", 7)]
    assert state.newest("nobody", 3) == []


def test_an_event_counts_once_whoever_delivers_it_again(open_state: Open) -> None:
    state = open_state()
    assert state.absorb([row("u", "a", 1), row("u", "a", 1)]) == 1
    assert state.absorb([row("u", "a", 99, item="other"), row("u", "b", 2)]) == 1
    assert state.newest("u", 9) == [PastEvent("a", "i", "click", 1), PastEvent("b", "i", "click", 2)]


def test_only_the_newest_events_are_kept(open_state: Open) -> None:
    state = open_state(keep=3)
    state.absorb([row("u", f"e{n}", n) for n in range(10)])
    state.absorb([row("u", "late", 2), row("u", "new", 11)])
    assert ids(state, "u") == ["e8", "e9", "new"]


def test_any_text_and_any_time(open_state: Open, run: Run) -> None:
    """Zero bytes at every edge of an id, one id the beginning of another, times that no double holds."""
    state = open_state()
    texts = ["a", "a\0", "a\0b", "\0", "\0\0", "\x01", "ab", "é\x00'\"", "日本", "👩‍👩‍👧"]
    times = [-(2**62), -1, 0, 2**53 + 1, 2**53 + 2, 2**62]
    rows = [("ü👩‍👩‍👧", f"{text}{time_us}", text, "x\0", time_us) for text in texts for time_us in times]
    assert state.absorb(rows) == 60
    expected = sorted(rows, key=lambda each: (each[4], each[1].encode()))
    assert state.newest("ü👩‍👩‍👧", 99) == [PastEvent(*each[1:]) for each in expected]
    columns = [list(column) for column in zip(*(each[2:] for each in expected), strict=True)]
    assert list(run(state.read("ü👩‍👩‍👧"))[:3]) == columns
    assert state.absorb(rows) == 0


def test_of_two_servers_one_is_told_that_an_event_is_new(open_state: Open, run: Run) -> None:
    first, second = open_state(), open_state()
    rows = [row(f"u{n % 3}", f"e{n}", n) for n in range(30)]

    async def tell() -> list[set[str]]:
        return await asyncio.gather(*(state.admit(rows[:20]) for state in (first, second, first, second)))

    told = run(tell())
    assert sorted(event_id for fresh in told for event_id in fresh) == sorted(f"e{n}" for n in range(20))

    async def ask() -> tuple[set[str], set[str]]:
        return await second.known(rows), await second.admit(rows)

    known, fresh = run(ask())
    assert (known, fresh) == ({f"e{n}" for n in range(20)}, {f"e{n}" for n in range(20, 30)})
    assert ids(first, "u0") == ids(second, "u0") == [f"e{n}" for n in range(0, 30, 3)]


def test_what_the_lake_delivered_is_known_too(open_state: Open, run: Run) -> None:
    state = open_state()
    state.absorb([row("u", "a", 1)])
    assert run(state.known([row("u", "a", 1), row("u", "b", 1)])) == {"a"}
    assert run(state.admit([row("u", "a", 1)])) == set()
    assert run(state.admit([])) == run(state.known([])) == set()


def test_preferences_hold_for_the_next_reader_and_the_last_ones_stand(open_state: Open, run: Run) -> None:
    one, other = open_state(), open_state()
    assert run(other.read("u")) == ([], [], [], NO_PREFERENCES, None)
    one.absorb([row("u", "a", 1)])
    kept = run(one.set_preferences("u", QUIET))
    assert kept == replace(QUIET, set_us=kept.set_us)
    assert abs(kept.set_us / 1e6 - time.time()) < 60
    assert run(other.read("u")) == (["i"], ["click"], [1], kept, None)
    # Set by a clock that is far ahead: the next ones stand all the same.
    ahead = run(one.set_preferences("u", replace(QUIET, set_us=kept.set_us + 10**12)))
    assert run(other.set_preferences("u", kept)) == ahead  # earlier ones replace nothing
    last = run(other.set_preferences("u", Preferences()))
    assert last.set_us > ahead.set_us
    assert run(one.read("u")).preferences == last
    assert (last.personalised, last.hidden_items) == (True, frozenset())
    assert other.preferences("v") == NO_PREFERENCES


def test_a_user_who_is_renamed_between_two_reads_is_found_by_one(open_state: Open, run: Run) -> None:
    state = open_state()
    state.absorb([row("p1_a", "e1", 1), row("p2_a", "e2", 2), row("p1_b", "e3", 3)])
    run(state.set_preferences("p1_a", QUIET))
    assert ids(state, "p2_a", formerly="p1_a") == ["e1", "e2"]
    assert ids(state, "p2_a", 1, formerly="p1_a") == ["e2"]
    assert ids(state, "p2_b", formerly="p1_b") == ["e3"]
    remembered = run(state.read("p2_a", formerly="p1_a"))
    assert (remembered.times_us, remembered.preferences.personalised) == ([1, 2], False)


def renamed(users: Any) -> list[str]:
    return [user.replace("p1_", "p2_") for user in users]


def test_users_are_renamed_where_their_id_is_an_older_one(open_state: Open, run: Run) -> None:
    state = open_state(keep=3)
    state.absorb(row(user, f"{user}-{n}", n) for user in ("p1_a", "p1_b", "p2_b", "p3_x", "z") for n in range(3))
    run(state.set_preferences("p1_only", QUIET))  # who has no events
    run(state.set_preferences("p1_b", QUIET))
    run(state.set_preferences("p2_b", Preferences(hidden_items=frozenset({"x"}))))
    # Every old id, whichever side of "p2_" it sorts to, and b's newest three of the six rows of both its ids.
    assert 1 < state.rename("p2_", renamed) <= 3
    assert state.newest("p1_a", 9) == []
    assert ids(state, "p2_a") == ["p1_a-0", "p1_a-1", "p1_a-2"]
    assert ids(state, "p2_b") == ["p2_b-1", "p1_b-2", "p2_b-2"]
    assert len(state.newest("p3_x", 9)) == len(state.newest("z", 9)) == 3
    assert state.preferences("p2_b").hidden_items == {"x"}  # set under both names: the later ones
    assert not state.preferences("p2_only").personalised
    assert state.preferences("p1_only") == state.preferences("p1_b") == NO_PREFERENCES
    assert state.rename("p2_", renamed) == 0
    run(state.set_preferences("p1_a", QUIET))  # a request that had begun before
    assert state.rename("p2_", renamed) > 0
    assert not state.preferences("p2_a").personalised


def test_a_forgotten_user_is_gone(open_state: Open, run: Run) -> None:
    state = open_state(keep=3)
    state.absorb(row(user, f"{user}{n}", n) for user in ("p1_canary", "p1_other") for n in range(10))
    run(state.set_preferences("p1_canary", QUIET))
    assert state.forget(["p1_canary", "p1_unknown"]) == 3
    assert run(state.read("p1_canary")) == ([], [], [], NO_PREFERENCES, None)
    assert len(state.newest("p1_other", 9)) == 3
    assert state.forget(["p1_canary"]) == state.forget([]) == 0
    assert state.absorb([row("p1_canary", "p1_canary9", 9)]) == 1  # who comes again is remembered again


def test_the_mark_is_unknown_at_first_and_stays(open_state: Open) -> None:
    state = open_state()
    assert state.absorbed() == -1
    state.mark_absorbed(0)
    state.mark_absorbed(7)
    assert open_state().absorbed() == 7


def test_more_rows_than_a_batch(open_state: Open) -> None:
    state = open_state(keep=3)
    assert state.absorb(row(f"u{number % 2}", f"e{number:05d}", number) for number in range(10_001)) == 10_001
    assert [event.event_time_us for event in state.newest("u0", 9)] == [9_996, 9_998, 10_000]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(st.sampled_from("uvw"), st.integers(0, 30)), max_size=60),
    cuts=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    seed=st.integers(0, 99),
    keep=st.integers(1, 6),
)
def test_both_stores_give_the_newest_events_of_any_interleaving(
    redis_server: Any,
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, int]],
    cuts: list[int],
    seed: int,
    keep: int,
) -> None:
    """As sorted(…)[-keep:] does, whatever came in which order, how often, through the log or from the lake."""
    events = {f"{user}{number}": row(user, f"{user}{number}", number % 7, f"{user}{number}") for user, number in rows}
    expected = {
        user: [each[1] for each in sorted(events.values(), key=lambda e: (e[4], e[1])) if each[0] == user][-keep:]
        for user in "uvw"
    }
    draw = random.Random(seed)
    shuffled = [*events.values(), *events.values()]
    draw.shuffle(shuffled)
    folder = tmp_path_factory.mktemp("law")
    states: list[UserState] = [
        SqliteState(folder / "sqlite.db", keep=keep),
        redis_state(redis_server.url, record=PreferenceFiles(folder), keep=keep, namespace=folder.name),
    ]

    async def tell(state: UserState) -> None:
        coin, start = random.Random(seed), 0
        while start < len(shuffled):
            part = shuffled[start : start + cuts[start % len(cuts)]]
            start += len(part)
            if coin.random() < 0.5:
                await state.admit(part)
            else:
                await asyncio.to_thread(state.absorb, part)
        for user, tail in expected.items():
            assert [event.event_id for event in await asyncio.to_thread(state.newest, user, keep)] == tail
            assert list((await state.read(user)).item_ids) == tail  # an item's name is its event's here
        await state.aclose()

    for state in states:
        asyncio.run(tell(state))


def test_the_settings_say_where(home: Home, redis_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_USER", "default")
    options = {"username": "env:CACHE_USER"}
    redis = Settings.model_validate({"serving": {"user_state": redis_server.url, "user_state_options": options}})
    for stated, shared in ((Settings(), False), (redis, True)):
        state, again = open_user_state(home, stated), open_user_state(home, stated)
        assert state.shared is shared
        state.absorb([row("u", "e", 1)])
        assert ids(again, "u") == ["e"]
        state.close()
        again.close()


def test_a_bad_url_is_told_without_its_password(home: Home) -> None:
    for bad, told in (
        ({"user_state": "rediss://:hunter2@cache:notaport"}, "not understood"),
        ({"user_state": "redis://:hunter2@cache", "user_state_options": {"hunter": "x"}}, "hunter is not an option"),
        ({"user_state": "redis://c", "user_state_options": {"password": "env:HUNTER2_UNSET"}}, "HUNTER2_UNSET is not"),
        ({"user_state": "redis://:hunter2@c", "user_state_options": {"ssl_certfile": "x"}}, "not understood"),
    ):
        with pytest.raises(UsageError, match=told) as raised:
            open_user_state(home, Settings.model_validate({"serving": bad}))
        assert "hunter2" not in str(raised.value)
        assert raised.value.__cause__ is None
    for variable, said in (("USER_STATE", "http://:hunter2@cache"), ("USER_STATE_OPTIONS", "hunter2")):
        with pytest.raises(SettingsError, match=variable) as refused:
            load_settings(None, environment={f"RATCHET_SERVING__{variable}": said})
        assert "hunter2" not in str(refused.value)
