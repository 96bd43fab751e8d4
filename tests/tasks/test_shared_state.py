"""Users' state in Redis, as flows keep it: rebuilt from the lake, forgotten, renamed; and Redis down meanwhile."""

import asyncio
import logging
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from relations.errors import DependencyFailed
from stores.delivery import ingest_lock
from stores.home import Home
from stores.popularity import read
from stores.preferences import NO_PREFERENCES, Preferences
from stores.pseudonyms import Keys
from stores.settings import Settings
from stores.user_states import open_user_state
from tasks.forgetting import forget_users
from tasks.ingesting import ingest_file
from tasks.refreshing import refresh_serving
from tasks.rotating import rotate_keys

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def settings(redis_server: Any) -> Settings:
    return Settings.model_validate({"serving": {"user_state": redis_server.url, "poll_seconds": 0.01}})


@pytest.fixture
def stocked(home: Home, settings: Settings, tmp_path: Path) -> Home:
    """Users u0 and u1 with three events each, in the lake and in Redis."""
    ingested(home, settings, tmp_path / "first.csv", [f"u{n % 2},i{n}" for n in range(6)])
    assert refresh_serving(home, settings) == 6
    return home


def ingested(home: Home, settings: Settings, path: Path, rows: list[str]) -> None:
    lines = [f"{row},view,{(NOW + timedelta(hours=n)).isoformat()}" for n, row in enumerate(rows)]
    path.write_text("\n".join(["user_id,item_id,behaviour,event_time", *lines]) + "\n")
    ingest_file(path, home=home, settings=settings, now=NOW)


def remembered(home: Home, settings: Settings, user: str) -> list[str]:
    with closing(open_user_state(home, settings)) as state:
        return [event.item_id for event in state.newest(Keys.load(home.keys).user(user), 9)]


def prefer(home: Home, settings: Settings, user: str) -> None:
    async def told() -> None:
        state = open_user_state(home, settings)
        await state.set_preferences(Keys.load(home.keys).user(user), Preferences(personalised=False))
        await state.aclose()

    asyncio.run(told())


def preferred(home: Home, settings: Settings, user: str) -> Preferences:
    with closing(open_user_state(home, settings)) as state:
        return state.preferences(user)


def test_a_redis_that_lost_all_is_filled_from_the_lake(stocked: Home, settings: Settings, redis_server: Any) -> None:
    assert remembered(stocked, settings, "u0") == ["i0", "i2", "i4"]
    assert refresh_serving(stocked, settings) == 0
    redis_server.kill()
    redis_server.start()
    assert remembered(stocked, settings, "u0") == []
    assert refresh_serving(stocked, settings) == 6
    assert remembered(stocked, settings, "u1") == ["i1", "i3", "i5"]


def test_an_ingest_does_without_redis(
    stocked: Home, settings: Settings, redis_server: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ingested(stocked, settings, tmp_path / "more.csv", ["u2,i9"] * 9)
    redis_server.kill()
    with caplog.at_level(logging.WARNING):
        assert refresh_serving(stocked, settings) == 0
    assert "the next ingest makes up for it" in caplog.text
    assert read(stocked.popularity)[0] == "i9"  # the list is as new as the lake
    redis_server.start()
    assert refresh_serving(stocked, settings) == 15  # it came back empty, and is told all of the lake
    assert remembered(stocked, settings, "u2") == ["i9"] * 9


def test_a_forgotten_user_is_gone_and_not_before_redis_said_so(
    stocked: Home, settings: Settings, redis_server: Any
) -> None:
    names = Keys.load(stocked.keys).history("u0")
    prefer(stocked, settings, "u0")

    def forget() -> Any:
        return forget_users(stocked, settings, ["u0"], actor="ada", reason="letter", now=NOW)

    redis_server.kill()
    with pytest.raises(DependencyFailed, match="user state"):
        forget()
    assert (stocked.staging / "order.json").exists()
    redis_server.start()
    refresh_serving(stocked, settings)  # takes the lock, and so finishes the order first
    assert not (stocked.staging / "order.json").exists()
    assert remembered(stocked, settings, "u0") == []
    assert preferred(stocked, settings, names[0]) == NO_PREFERENCES
    assert remembered(stocked, settings, "u1") == ["i1", "i3", "i5"]
    assert [path for path in stocked.root.rglob("*") if names[0] in path.name] == []


def test_a_rotation_renames_in_redis(stocked: Home, settings: Settings) -> None:
    old = Keys.load(stocked.keys).user("u0")
    prefer(stocked, settings, "u0")
    rotate_keys(stocked, settings, actor="ada", reason="yearly", now=NOW)
    new = Keys.load(stocked.keys).user("u0")
    assert new.startswith("p2_")
    assert remembered(stocked, settings, "u0") == ["i0", "i2", "i4"]
    assert not preferred(stocked, settings, new).personalised
    assert preferred(stocked, settings, old) == NO_PREFERENCES
    with ingest_lock(stocked), closing(open_user_state(stocked, settings)) as state:
        assert state.newest(old, 9) == []
