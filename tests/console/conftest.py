"""Homes full of history for the console's tests, the console on them, and who visits it: by HTTP and by browser."""

import contextlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from bench.console_world import PASSWORD, Story, World, make_world
from serving.console import csrf
from serving.console.app import create_console
from stores.clock import home_now
from stores.home import Home
from stores.ledger import Ledger
from stores.people import Role
from stores.settings import Settings


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., World]:
    """Each story once; nobody may change these homes."""
    known: dict[tuple[Any, ...], World] = {}

    def tell(story: Story, *, simulation: bool, ago: timedelta) -> World:
        key = (story, simulation, ago)
        if key not in known:
            folder = tmp_path_factory.mktemp("told")
            known[key] = make_world(folder, story=story, simulation=simulation, now=datetime.now(UTC) - ago)
        return known[key]

    return tell


@pytest.fixture
def world_of(told: Callable[..., World], tmp_path: Path) -> Callable[..., World]:
    """`world_of("protected")`: a copy of that story's home, see `bench.console_world.make_world`. `ago`: how long the
    story lies back."""

    def make(story: Story = "waiting", *, simulation: bool = False, ago: timedelta = timedelta(0)) -> World:
        original = told(story, simulation=simulation, ago=ago)
        root = tmp_path / f"{story}-{'simulation' if simulation else 'home'}"
        shutil.copytree(original.home.root, root)
        return replace(original, home=Home(root, simulation))

    return make


@dataclass
class Clock:
    """The machine's, moved."""

    ahead: timedelta = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass
class Running:
    """A console that answers at `address`. `clock`: of trials, unless the home is a simulation; `wall`: of sessions."""

    address: str
    world: World
    clock: Clock
    wall: Clock


class Consoles:
    """Starts consoles, each in a thread of the test, and stops them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._stops: list[Callable[[], None]] = []
        self._clocks: dict[Path, Clock] = {}
        patch.setattr("serving.console.place.home_now", self._now)

    def serve(self, world: World) -> Running:
        clock, wall = Clock(), Clock()
        self._clocks[world.home.root] = clock
        app = create_console(world.home, world.settings, wall=wall)
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, access_log=False, server_header=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        self._stops.append(lambda: _stop(server, thread))
        until = time.monotonic() + 60
        while not server.started:
            assert thread.is_alive(), "the console ended"
            assert time.monotonic() < until, "the console does not come up"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        return Running(f"http://127.0.0.1:{port}", world, clock, wall)

    def stop(self) -> None:
        for stop in self._stops:
            stop()

    def _now(self, home: Home, settings: Settings) -> datetime:
        moved = None if home.simulation else self._clocks.get(home.root)
        return home_now(home, settings) if moved is None else moved()


@pytest.fixture
def console_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[World], Running]]:
    """`console_on(world)`: the console as it listens."""
    consoles = Consoles(monkeypatch)
    yield consoles.serve
    consoles.stop()


@pytest.fixture(scope="module")
def console_for_all(told: Callable[..., World], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One console a module on the story "waiting", whose ledger nobody changes."""
    original, root = told("waiting", simulation=False, ago=timedelta(0)), tmp_path_factory.mktemp("for-all") / "home"
    shutil.copytree(original.home.root, root)
    with pytest.MonkeyPatch.context() as patch:
        consoles = Consoles(patch)
        yield consoles.serve(replace(original, home=Home(root)))
        consoles.stop()


def _stop(server: uvicorn.Server, thread: threading.Thread) -> None:
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive()


@dataclass
class Form:
    """A form of a page, with what it would send as it stands."""

    action: str
    fields: dict[str, str]


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[Form] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        stated = {name: text or "" for name, text in attrs}
        if tag == "form" and stated.get("method", "").lower() == "post":
            self.found.append(Form(stated.get("action", ""), {}))
        elif tag in ("input", "textarea") and self.found and stated.get("name"):
            self.found[-1].fields[stated["name"]] = stated.get("value", "")


def forms_of(page: str) -> list[Form]:
    reader = _Forms()
    reader.feed(page)
    return reader.found


@dataclass
class Visitor:
    """A browser without eyes: keeps cookies, follows nothing, sends the forms that it was shown."""

    address: str
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=self.address, trust_env=False, timeout=60)

    def get(self, path: str, **given: Any) -> httpx.Response:
        return self.client.get(path, **given)

    def post(self, path: str, fields: dict[str, str], **headers: str) -> httpx.Response:
        """As a browser sends a form of a page of this console."""
        return self.client.post(path, data=fields, headers={"Origin": self.address, **headers})

    def form(self, path: str, action: str) -> Form:
        """The form of the page at `path` that goes to `action`."""
        answer = self.get(path)
        found = next((form for form in forms_of(answer.text) if form.action == action), None)
        assert found is not None, f"{path} ({answer.status_code}) has no form for {action}"
        return found

    def send(self, form: Form, **changed: str) -> httpx.Response:
        return self.post(form.action, {**form.fields, **changed})

    def sign_in(self, name: str, password: str = PASSWORD) -> httpx.Response:
        form = self.form("/sign-in", "/sign-in")
        typed = {"name": name, "password": password} if "password" in form.fields else {"name": name}
        return self.send(form, **typed)

    @property
    def csrf(self) -> str:
        """What forms of this session's pages carry."""
        return next(form.fields["csrf"] for form in forms_of(self.get("/").text) if "csrf" in form.fields)


@pytest.fixture
def visit() -> Iterator[Callable[..., Visitor]]:
    """`visit(running, "ada")`: somebody at the console; signed in where a name is given."""
    visitors: list[Visitor] = []

    def come(running: Running, name: str | None = None) -> Visitor:
        visitor = Visitor(running.address)
        visitors.append(visitor)
        if name is not None:
            answer = visitor.sign_in(name)
            assert answer.status_code == 303, answer.text
        return visitor

    yield come
    for visitor in visitors:
        visitor.client.close()


def words_of(page: str) -> str:
    """A page's text, roughly as read."""
    return " ".join(re.sub(r"<style.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL).split())


PENDING = 90.0
"""Seconds that something may take on a machine that has others to serve."""


class Browser:
    """Chromium on one console at a time; a person at a keyboard sees and does no more than these."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.address = ""

    def scripts(self, allowed: bool) -> None:
        """Whether pages may run scripts; ours have none. What the tests ask of the page goes through DevTools."""
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not allowed})

    def open(self, address: str, name: str | None = None) -> None:
        """Come anew, without cookies; sign in where a name is given."""
        self.driver.delete_all_cookies()
        self.address = address
        self.go("/sign-in")
        if name is not None:
            self.type("/sign-in", "name", name)
            if self.all('input[name="password"]'):
                self.type("/sign-in", "password", PASSWORD)
            self.press("/sign-in")

    def go(self, path: str) -> None:
        self.driver.get(f"{self.address}{path}")

    def all(self, selector: str) -> list[Any]:
        found: list[Any] = self.driver.find_elements("css selector", selector)
        return found

    def one(self, selector: str) -> Any:
        (found,) = self.all(selector)
        return found

    def type(self, action: str, field: str, text: str) -> None:
        """Into a field of the form that goes to `action`."""
        place = self.one(f'form[action="{action}"] [name="{field}"]')
        closed = self.run(
            "const d = arguments[0].closest('details'); return d && !d.open ? d.querySelector('summary') : null", place
        )
        if closed is not None:
            closed.click()
        place.clear()
        place.send_keys(text)

    def choose(self, action: str, field: str, value: str) -> None:
        """One of the list of a form."""
        self.one(f'form[action="{action}"] [name="{field}"] option[value="{value}"]').click()

    def press(self, action: str) -> None:
        """The button of the form that goes to `action`; returns when the answer is there."""
        self.click(self.one(f'form[action="{action}"] button'))

    def click(self, place: Any) -> None:
        """On what leads to another page; returns when that is there."""
        self.leave(place.click)

    def leave(self, step: Callable[[], Any]) -> None:
        """Do what leads to another page; returns when that is there."""
        from selenium.common.exceptions import WebDriverException

        self.run("window.left = false")
        step()
        until = time.monotonic() + PENDING
        while True:
            with contextlib.suppress(WebDriverException):  # between two pages there is none to ask
                if self.run("return window.left === undefined && document.readyState === 'complete'"):
                    return
            assert time.monotonic() < until, "no other page came"
            time.sleep(0.02)

    def act(self, action: str, reason: str) -> None:
        self.type(action, "reason", reason)
        self.press(action)

    def run(self, script: str, *given: Any) -> Any:
        return self.driver.execute_script(script, *given)

    @property
    def status(self) -> int:
        return int(self.run("return performance.getEntriesByType('navigation')[0].responseStatus"))

    @property
    def path(self) -> str:
        return str(self.driver.current_url).removeprefix(self.address)

    @property
    def words(self) -> str:
        return str(self.one("body").text)

    @property
    def problem(self) -> str:
        """What a refusal says; empty on a page without one."""
        return " ".join(found.text for found in self.all('[role="alert"]'))

    @property
    def message(self) -> str:
        return " ".join(found.text for found in self.all('[role="status"]'))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Headless Chromium, one a module. On CI it must be there; elsewhere its absence is said and skipped."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        missing = "needs Chromium and its driver: apt-get install chromium chromium-driver"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = program
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    profile = tmp_path_factory.mktemp("chromium")
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-sync",
        "disable-background-networking",
        "disable-component-update",
        "force-prefers-reduced-motion",
        f"user-data-dir={profile}",
    ):
        options.add_argument(f"--{flag}")
    page = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield Browser(page)
    finally:
        page.quit()


ADDRESS = "http://127.0.0.1:8891"
ROLES = {"ada": Role.APPROVER, "carl": Role.SUBMITTER, "ben": Role.ADMIN}


@dataclass
class Small:
    """A home with three people of one role each and nothing else, and its console without a port."""

    home: Home
    settings: Settings
    app: FastAPI
    address: str = ADDRESS

    @property
    def ledger(self) -> Ledger:
        return Ledger.of(self.home, self.settings)

    def client(self, name: str | None = None) -> TestClient:
        """A browser; with a session of `name`."""
        client = TestClient(self.app, base_url=self.address, follow_redirects=False, headers={"Origin": self.address})
        if name is not None:
            client.cookies.set("ratchet_session", self.session(name))
        return client

    def session(self, name: str) -> str:
        """Without the password's quarter of a second."""
        return Ledger(self.home.ledger_url).open_session(name, now=datetime.now(UTC))

    def post(self, client: TestClient, path: str, fields: dict[str, str], **headers: str) -> Any:
        """As a page of this session would send it."""
        token = csrf.token_of(client.cookies["ratchet_session"])
        return client.post(path, data={"csrf": token, **fields}, headers=headers)


@pytest.fixture(scope="session")
def peopled(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Hashing passwords takes a moment, on purpose: once."""
    home = Home.create(tmp_path_factory.mktemp("small") / "home")
    ledger, now = Ledger.of(home, Settings()), datetime.now(UTC)
    ledger.add_first_admin("ben", password=PASSWORD, now=now, roles=frozenset({Role.ADMIN}))
    for name in ("ada", "carl"):
        ledger.add_person(name, roles=frozenset({ROLES[name]}), password=PASSWORD, actor="ben", now=now)
    return home


@pytest.fixture
def small(peopled: Home, tmp_path: Path) -> Small:
    root = tmp_path / "small"
    shutil.copytree(peopled.root, root)
    home = Home(root)
    return Small(home, Settings(), create_console(home, Settings()))
