"""A person at a browser without scripts walks the whole approval: real console, real server, one home.

Then what must be refused is refused on the page that the person is at, with its reason, and changes nothing.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bench.console_world import World
from gate.states import TrialState
from stores.people import Role

ROOT = Path(__file__).parents[2]
PENDING = 90.0
"""Seconds that something may take on a machine that has others to serve."""

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module", autouse=True)
def _without_scripts(browser: Any) -> None:
    browser.scripts(allowed=False)


@contextlib.contextmanager
def process(world: World, module: str, announced: str) -> Iterator[str]:
    """A program of ours on the world's home, in a process of its own; gives its address."""
    log = world.home.root / f"{announced}.log"
    with log.open("wb") as out:
        started = subprocess.Popen(
            [sys.executable, "-m", module, "--home", str(world.home.root), "--port", "0"],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=out,
            stderr=out,
        )
    announcement = world.home.run / f"{announced}.json"

    def port() -> int | None:
        assert started.poll() is None, log.read_text()
        with contextlib.suppress(FileNotFoundError, ValueError):
            stated = json.loads(announcement.read_text())
            return int(stated["port"]) if stated["pid"] == started.pid else None
        return None

    try:
        yield f"http://127.0.0.1:{eventually(port)}"
    finally:
        started.terminate()
        assert started.wait(PENDING) == 0, log.read_text()


def eventually(look: Callable[[], Any]) -> Any:
    until = time.monotonic() + PENDING
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < until, "it does not come about"
        time.sleep(0.05)


def served(server: str) -> str:
    """The digest that a server says it serves."""
    with urllib.request.urlopen(f"{server}/readyz", timeout=30) as answer:
        return str(json.load(answer)["champion"]["digest"])


def test_a_whole_approval_and_back(world_of: Callable[..., World], browser: Any) -> None:
    world = world_of()
    trial = world.ledger.trial(world.trial)
    page, approve = f"/trials/{trial.id}", f"/trials/{trial.id}/approve"
    with (
        process(world, "serving.run", "serving") as server,
        process(world, "serving.console.run", "console") as console,
    ):
        assert eventually(lambda: served(server)) == trial.champion_digest
        browser.open(console, "ada")
        assert browser.path == "/"
        assert trial.id in browser.words
        browser.click(browser.all(f'main a[href="{page}"]')[0])
        assert browser.path == page
        for word in ("PROMOTE", "clicks", "purchases", "new users", "v7", "v2"):
            assert word in browser.words, word
        pictures = browser.run(
            "return [...document.querySelectorAll('main svg[role=img]')].filter(s => s.checkVisibility())"
            ".map(s => [s.getBoundingClientRect().width, s.getBoundingClientRect().height,"
            " s.querySelectorAll('path,line,rect,circle,polyline,polygon').length])"
        )
        assert len(pictures) >= 4
        assert all(width > 200 and height > 60 and marks >= 4 for width, height, marks in pictures), pictures
        browser.act(approve, "clicks up 9 %, guardrails hold")
        assert browser.problem == ""
        assert browser.path == page
        # On a busy machine the page may come before the server has swapped, and says so.
        assert browser.message.startswith("Approved. v7 is champion, epoch 5. The servers of this machine ")
        assert eventually(lambda: served(server) == trial.challenger_digest)
        decided = world.ledger.trial(trial.id)
        assert decided.decided_by == "ada"
        assert decided.state is (TrialState.BAKING if "serve it." in browser.message else TrialState.PROMOTING)
        assert decided.reason == "clicks up 9 %, guardrails hold"
        browser.go("/champions")
        assert "clicks up 9 %, guardrails hold" in browser.words
        assert browser.message == "", "a message is told once"
        browser.act("/rollback", "the app shows empty lists")
        assert browser.message.startswith("Rolled back. v2 is champion, epoch 6. The servers of this machine ")
        assert eventually(lambda: served(server) == trial.champion_digest)
        assert world.ledger.trial(trial.id).state is TrialState.ROLLED_BACK
        browser.press("/sign-out")
        assert browser.path == "/sign-in"
        browser.driver.back()
        browser.go("/champions")
        assert browser.status == 401
    assert world.ledger.verify() == []


def test_two_people_approve_where_a_slice_is_protected(
    world_of: Callable[..., World], console_on: Callable[..., Any], browser: Any
) -> None:
    world = world_of("protected")
    running, page = console_on(world), f"/trials/{world.trial}"
    browser.open(running.address, "ada")
    browser.go(page)
    assert "0 of 2" in browser.words
    browser.act(f"{page}/approve", "new users gain too")
    assert "1 of 2" in browser.message
    assert world.ledger.trial(world.trial).state is TrialState.AWAIT_APPROVAL
    browser.go(page)
    assert "1 of 2" in browser.words
    browser.open(running.address, "ben")
    browser.go(page)
    assert "ada" in browser.words
    browser.act(f"{page}/approve", "seen the slices as well")
    assert browser.message.startswith("Approved. v2 is champion, epoch 2.")
    assert world.ledger.trial(world.trial).state is TrialState.PROMOTING


def test_two_people_break_the_glass_and_one_of_them_ends_it(
    world_of: Callable[..., World], console_on: Callable[..., Any], browser: Any
) -> None:
    world = world_of("canary")
    running, page = console_on(world), "/break-glass"
    browser.open(running.address, "ada")
    browser.go("/champions")
    browser.click(browser.one(f'main a[href="{page}"]'))
    assert browser.path == page
    browser.choose(page, "version", "2")
    browser.type(page, "hours", "3")
    browser.act(page, "the champion shows nothing")
    assert browser.message.startswith("Break-glass 1 is asked for: v2 for 3 hours. Nothing has changed yet.")
    assert browser.all(f'form[action="{page}/1/confirm"]') == []
    assert "you asked for it" in browser.words
    forge(browser, f"{page}/1/confirm")
    assert browser.status == 409
    assert "another person confirms" in browser.problem
    browser.open(running.address, "ben")
    assert "Waits for ben or dana to confirm it" in browser.words
    browser.click(browser.one(f'main a.button[href="{page}"]'))
    browser.act(f"{page}/1/confirm", "seen on my phone")
    assert browser.message.startswith("Confirmed, without evidence, until its hours are over. v2 is champion, epoch 2.")
    assert "v2 serves without evidence" in browser.words
    browser.go("/")
    browser.click(browser.one(f'main a[href="{page}"]'))
    browser.act(f"{page}/1/end", "the client is fixed")
    assert browser.message.startswith("Break-glass 1 is ended. v1 is champion, epoch 3.")
    assert world.ledger.trial(world.trial).state is TrialState.STALE
    assert world.ledger.verify() == []


def test_a_kill_takes_the_challenger_off_everybody(
    world_of: Callable[..., World], console_on: Callable[..., Any], browser: Any
) -> None:
    world = world_of("canary")
    running, page = console_on(world), f"/trials/{world.trial}"
    browser.open(running.address, "carl")
    browser.go(page)
    browser.act(f"{page}/kill", "it shows adult items to children")
    assert browser.message.startswith(f"{world.trial} is killed: no server shows its challenger any more.")
    killed = world.ledger.trial(world.trial).killed
    assert killed is not None
    assert (killed.actor, killed.reason) == ("carl", "it shows adult items to children")
    assert "it shows adult items to children" in browser.words
    browser.act(f"{page}/stop", "after the kill")
    assert world.ledger.trial(world.trial).state is TrialState.ABORTED


def test_what_is_refused_is_refused_on_the_page_with_its_reason(
    world_of: Callable[..., World], console_on: Callable[..., Any], browser: Any
) -> None:
    """A look since the page was opened; no reason, whatever the browser lets through."""
    world = world_of()
    ledger = world.ledger
    running, page = console_on(world), f"/trials/{world.trial}"
    approve = f"{page}/approve"
    browser.open(running.address, "ada")

    browser.go(page)
    newest = ledger.trial(world.trial).evidence[-1]
    again = {**newest.evidence, "look": newest.number + 1, "data_versions": {"events": 99, "exposures": 199}}
    ledger.record_evidence(world.trial, again, now=datetime.now(UTC))
    browser.act(approve, "as I saw it")
    assert browser.status == 409
    assert "newest look is 10" in browser.problem
    assert browser.one(f'form[action="{approve}"] textarea').get_attribute("value") == "as I saw it"
    assert ledger.trial(world.trial).state is TrialState.AWAIT_APPROVAL

    browser.go(page)
    browser.run("document.querySelector(`form[action='${arguments[0]}'] textarea`).required = false", approve)
    browser.press(approve)
    assert browser.status == 422
    assert "reason" in browser.problem
    browser.type(approve, "reason", "    ")
    browser.press(approve)
    assert browser.status == 422


def test_what_waited_too_long_has_expired_and_what_was_rejected_stays_so(
    world_of: Callable[..., World], console_on: Callable[..., Any], browser: Any
) -> None:
    world = world_of()
    ledger = world.ledger
    running, page = console_on(world), f"/trials/{world.trial}"
    browser.open(running.address, "ada")
    browser.go(page)
    running.clock.ahead = timedelta(hours=80)
    browser.act(f"{page}/approve", "after a long weekend")
    assert browser.status == 409
    assert "EXPIRED" in browser.problem
    assert ledger.trial(world.trial).state is TrialState.EXPIRED
    other = ledger.trial("trial-3")
    assert other.state is TrialState.REJECTED
    browser.go("/trials/trial-3")
    assert browser.all('form[action="/trials/trial-3/approve"]') == []
    forge(browser, "/trials/trial-3/approve", evidence=other.evidence[-1].sha256)
    assert browser.status == 409
    assert "REJECTED" in browser.problem
    champion = ledger.champion()
    assert champion is not None
    assert (champion.version, champion.epoch) == (2, 4)


def test_a_trial_that_somebody_else_has_decided_cannot_be_rejected(
    world_of: Callable[..., World], console_on: Callable[..., Any], browser: Any
) -> None:
    world = world_of()
    running, page = console_on(world), f"/trials/{world.trial}"
    browser.open(running.address, "ada")
    browser.go(page)
    world.ledger.approve(world.trial, actor="ben", reason="I was faster", now=datetime.now(UTC))
    browser.act(f"{page}/reject", "too late")
    assert browser.status == 409
    assert "PROMOTING" in browser.problem
    assert "rollback" in browser.problem
    assert "I was faster" in browser.words
    assert world.ledger.trial(world.trial).decided_by == "ben"


def test_who_submitted_does_not_approve_whatever_roles_they_have(
    world_of: Callable[..., World], console_on: Callable[..., Any], browser: Any
) -> None:
    world = world_of()
    ledger = world.ledger
    running, page = console_on(world), f"/trials/{world.trial}"
    approve = f"{page}/approve"
    browser.open(running.address, "carl")
    browser.go(page)
    assert browser.all(f'form[action="{approve}"]') == []
    forge(browser, approve)
    assert browser.status == 403
    assert "It needs the role approver; you have submitter." in browser.problem
    ledger.set_roles("carl", roles=frozenset(Role), actor="ben", now=datetime.now(UTC))
    browser.open(running.address, "carl")  # other roles, another session
    forge(browser, approve, evidence=ledger.trial(world.trial).evidence[-1].sha256)
    assert browser.status == 409
    assert "submitted" in browser.problem
    assert ledger.trial(world.trial).approvals == ()


def forge(browser: Any, action: str, **fields: str) -> None:
    """What a person at the developer tools can do: any step from any form of the page, with the session's own token."""
    browser.go("/trials")
    browser.run(
        "const form = document.querySelector('form.who'); form.action = arguments[0];"
        "for (const [name, value] of Object.entries(arguments[1])) {"
        " const field = document.createElement('input'); field.name = name; field.value = value; form.append(field); }",
        action,
        {"reason": "because I can", **fields},
    )
    browser.click(browser.one("form.who button"))


@contextlib.contextmanager
def elsewhere(page: str) -> Iterator[int]:
    """Another site on this machine, with one page."""

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = page.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Site)  # a browser opens connections that it then does not use
    listening.daemon_threads = True
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield listening.server_port
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


def test_another_site_cannot_send_our_forms(
    world_of: Callable[..., World], console_on: Callable[..., Any], visit: Callable[..., Any], browser: Any
) -> None:
    world = world_of()
    running = console_on(world)
    trial = world.ledger.trial(world.trial)
    approve = f"/trials/{trial.id}/approve"
    browser.open(running.address, "ada")
    token = browser.one('form.who input[name="csrf"]').get_attribute("value")
    fields = {"csrf": token, "evidence": trial.evidence[-1].sha256, "reason": "forged"}
    inputs = "".join(f'<input name="{name}" value="{value}">' for name, value in fields.items())
    form = f'<form method="post" action="{running.address}{approve}">{inputs}<button>Win a prize</button></form>'
    with elsewhere(f"<!doctype html><title>prize</title>{form}") as port:
        # Even a page that knew the token: a neighbour on another port gets the cookie along, and is told by its origin.
        browser.driver.get(f"http://127.0.0.1:{port}/")
        browser.click(browser.one("button"))
        assert browser.status == 403
        assert "not sent from a page of the console" in browser.problem
        # Another site gets no cookie along.
        browser.driver.get(f"http://localhost:{port}/")
        browser.click(browser.one("button"))
        assert browser.status in (401, 403)
    other = visit(running, "ben").csrf
    assert other != token
    browser.go(f"/trials/{trial.id}")
    browser.run("document.querySelectorAll('[name=csrf]').forEach(f => f.value = arguments[0])", other)
    browser.act(approve, "with the token of ben's session")
    assert browser.status == 403
    assert "another session" in browser.problem
    assert world.ledger.trial(trial.id).approvals == ()


def test_a_simulation_asks_for_a_name_alone_and_says_so(
    world_of: Callable[..., World], console_on: Callable[..., Any], browser: Any
) -> None:
    world = world_of("canary", simulation=True)
    running = console_on(world)
    browser.open(running.address)
    assert browser.all('input[type="password"]') == []
    assert "simulation" in browser.words.lower()
    browser.open(running.address, "zoë")
    assert "simulation" in browser.words.lower()
    assert "zoë" in browser.words


def test_a_home_without_people_tells_how_the_first_is_made(
    world_of: Callable[..., World], console_on: Callable[..., Any], browser: Any
) -> None:
    running = console_on(world_of("empty"))
    browser.open(running.address)
    assert "ratchet people first" in browser.words
    assert browser.all("form") == []
