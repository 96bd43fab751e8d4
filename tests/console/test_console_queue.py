"""The queue: what waits for a person is first, and what there is nothing of is said in words."""

import re
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from bench.console_world import World
from relations.errors import DependencyFailed
from serving.console.alarms import Alarms
from serving.console.chores import Chores
from serving.console.pages.queue import queue_view
from serving.console.place import Place
from serving.console.rendering import Frame, lasting, render
from stores import kill_switch
from stores.kill_switch import Kill
from stores.ledger import Ledger
from tasks.mirroring import MirrorLoop

NOW = datetime(2026, 3, 4, 5, 6, tzinfo=UTC)


def words(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def queue_of(world: World, *, later: timedelta = timedelta(0), name: str = "ada") -> str:
    place = Place(world.home, world.settings, world.ledger)
    view = queue_view(place, now=place.now() + later)
    frame = Frame(person=world.ledger.person(name), csrf="c", path="/", simulation=False, now=place.now())
    return words(render("queue.html", frame=frame, **view))


def test_an_empty_home_says_so(small: Any) -> None:
    told = words(small.client("ada").get("/").text)
    assert "Nothing waits for anybody." in told
    assert "No trial runs. ratchet trial start opens one" in told
    assert "There is no champion yet; popularity answers." in told


def test_what_waits_is_told_with_its_time_and_approvals(world_of: Callable[..., World]) -> None:
    world = world_of("protected")
    told = queue_of(world)
    assert "Waits for an approver" in told
    assert "It expires in" in told
    assert "0 of 2 approvals given" in told
    assert "says PROMOTE: lift +" in told
    late = queue_of(world, later=timedelta(hours=100))
    assert "Its time is over" in late


def test_a_trial_that_runs_shows_how_far_it_is(world_of: Callable[..., World]) -> None:
    told = queue_of(world_of("canary"))
    assert "Nothing waits for anybody." in told
    assert "Stage canary" in told
    assert re.search(r"\d+ looks?, [\d,]+ matured users", told)


def test_a_promotion_that_is_watched_is_told_with_what_an_alarm_does(world_of: Callable[..., World]) -> None:
    told = queue_of(world_of("baking"))
    assert "was promoted and is watched" in told
    assert "by itself" in told


@pytest.mark.parametrize(
    ("span", "told"),
    [
        (timedelta(seconds=-5), "0 s"),
        (timedelta(seconds=59.4), "59 s"),
        (timedelta(minutes=5), "5 min"),
        (timedelta(hours=5, minutes=20), "5 h 20 min"),
        (timedelta(hours=7), "7 h"),
        (timedelta(days=3, hours=5), "3 days"),
    ],
)
def test_spans_have_their_largest_units(span: timedelta, told: str) -> None:
    assert lasting(span) == told


def test_an_alarm_stays_until_it_is_right_again() -> None:
    alarms = Alarms()
    alarms.tell("ledger", "a hash is wrong", now=NOW)
    alarms.tell("ledger", "two hashes are wrong", now=NOW + timedelta(minutes=1))
    alarms.tell("mirror", "MLflow does not answer", now=NOW - timedelta(minutes=1))
    assert [(each.source, each.text, each.since) for each in alarms.all()] == [
        ("mirror", "MLflow does not answer", NOW - timedelta(minutes=1)),
        ("ledger", "two hashes are wrong", NOW),
    ]
    alarms.tell("ledger", "", now=NOW)
    assert [each.source for each in alarms.all()] == ["mirror"]


def test_an_alarm_is_on_the_queue(small: Any) -> None:
    place = Place(small.home, small.settings, small.ledger)
    place.alarms.tell("ledger", "a <b>hash</b> is wrong", now=NOW)
    frame = Frame(person=None, csrf="c", path="/", simulation=False)
    page = render("queue.html", frame=frame, **queue_view(place))
    assert "a &lt;b&gt;hash&lt;/b&gt; is wrong" in page
    assert "ledger , since 2026-03-04 05:06 UTC" in words(page)


def test_the_background_tells_people_and_says_whom_it_could_not(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    place = Place(small.home, small.settings, small.ledger)
    monkeypatch.setattr("serving.console.chores.notify_new", lambda home, settings: told.append(home))
    monkeypatch.setattr("serving.console.chores.undelivered", lambda home, settings: ("trial waits: no answer",))
    Chores(place).round()
    assert told == [small.home]
    assert [(each.source, each.text) for each in place.alarms.all()] == [
        ("messages", "1 message(s) did not reach everybody; the newest: trial waits: no answer")
    ]


def test_a_kill_that_the_ledger_missed_is_told_to_it(world_of: Callable[..., World]) -> None:
    world = world_of("canary")
    kill_switch.add(world.home.kill_switch, Kill(world.trial, "carl", "empty", datetime.now(UTC)))
    Chores(Place(world.home, world.settings, world.ledger)).round()
    killed = world.ledger.trial(world.trial).killed
    assert killed is not None
    assert killed.actor == "carl"


def test_what_fails_in_the_background_is_an_alarm_and_stops_nothing(
    small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_args: Any, **_given: Any) -> None:
        raise DependencyFailed("ledger: out of reach; mend it")

    def broken(home: Any, settings: Any) -> None:
        raise RuntimeError("a defect")

    place = Place(small.home, small.settings, small.ledger)
    chores = Chores(place)
    with monkeypatch.context() as failing:
        failing.setattr("serving.console.chores.settle_kills", away)
        failing.setattr(MirrorLoop, "complaints", {"mirror": "MLflow is away", "expiry": "x"})
        failing.setattr("serving.console.chores.notify_new", broken)
        failing.setattr(Ledger, "verify", lambda self: ["entry 3: its hash is wrong", "entry 4: another"])
        chores.round()
        found = {each.source: each.text for each in place.alarms.all()}
    assert found["kill switch"] == "ledger: out of reach; mend it"
    assert found["MLflow and expiry"] == "expiry: x; mirror: MLflow is away"
    assert found["messages"].startswith("a defect in Ratchet")
    assert found["ledger"] == "entry 3: its hash is wrong and 1 more; see `ratchet ledger verify`"
    # The chain is read again when its time has come, the rest at each round.
    chores.round()
    assert [each.source for each in place.alarms.all()] == ["ledger"]
    Chores(place).round()
    assert place.alarms.all() == ()


def test_the_background_begins_and_ends_with_the_console(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    rounds = threading.Event()
    monkeypatch.setattr(Chores, "round", lambda self: rounds.set())
    monkeypatch.setattr(MirrorLoop, "start", lambda self: done.append("start"))
    monkeypatch.setattr(MirrorLoop, "stop", lambda self: done.append("stop"))
    with TestClient(small.app, base_url=small.address) as client:
        assert client.get("/healthz").status_code == 200
        assert rounds.wait(60)
        assert done == ["start"]
        (running,) = [thread for thread in threading.enumerate() if thread.name == "console-chores"]
    assert done == ["start", "stop"]
    running.join(60)
    assert not running.is_alive()


def test_the_background_is_no_part_of_an_answer(small: Any) -> None:
    """Startup and pages import neither MLflow nor anything of its weight; only the mirror's thread does."""
    code = """
import sys
from pathlib import Path
from fastapi.testclient import TestClient
from serving.console.app import create_console
from stores.home import Home
from stores.settings import Settings
client = TestClient(create_console(Home.open(Path(sys.argv[1])), Settings()), base_url="http://localhost")
assert client.get("/sign-in").status_code == 200
assert client.get("/").status_code == 401
print([name for name in ("mlflow", "torch", "prefect", "great_expectations") if name in sys.modules])
"""
    command = [sys.executable, "-c", code, str(small.home.root)]
    told = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert told.stdout.strip() == "[]", told.stderr
