"""Every route of the console × everybody who may come. The answers stand here by hand, not in the console's own table.

A route that is not in `EXPECTED` fails the first test. A refused step leaves the ledger exactly as it was.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from bench.console_world import PASSWORD, World
from serving.console import csrf
from serving.console.access import ROUTES
from serving.console.app import create_console
from stores.home import Home
from stores.people import Role

ADDRESS = "http://127.0.0.1"
HELD_WHOLE = "000270617274"
"""The story's delivery that has a page."""
PEOPLE = ("nobody", "submitter", "approver", "admin", "disabled", "expired")
"""`disabled`: the session of an approver who was disabled afterwards; `expired`: an approver's of 25 hours ago."""

PAGE, GONE_ON, WHO, NOT_YOURS, NOTHING = 200, 303, 401, 403, 404
REACHED = 422
"""The step's own handler answered: the form that it got states no reason."""

EVERYBODY = (PAGE,) * 6
SIGNED_IN = (WHO, PAGE, PAGE, PAGE, WHO, WHO)
EXPECTED: dict[tuple[str, str], tuple[int, ...]] = {
    ("GET", "/healthz"): EVERYBODY,
    ("GET", "/static/console.css"): EVERYBODY,
    ("GET", "/sign-in"): EVERYBODY,
    ("POST", "/sign-in"): (GONE_ON,) * 6,
    ("POST", "/sign-out"): (WHO, GONE_ON, GONE_ON, GONE_ON, WHO, WHO),
    ("GET", "/"): SIGNED_IN,
    ("GET", "/trials"): SIGNED_IN,
    ("GET", "/trials/{trial}"): SIGNED_IN,
    ("GET", "/trials/{trial}/evidence"): SIGNED_IN,
    ("GET", "/champions"): SIGNED_IN,
    ("GET", "/compare"): SIGNED_IN,
    ("GET", "/data"): SIGNED_IN,
    ("GET", "/data/docs/{page}"): SIGNED_IN,
    ("GET", "/people"): (WHO, NOT_YOURS, NOT_YOURS, PAGE, WHO, WHO),
    ("POST", "/trials/{trial}/approve"): (WHO, NOT_YOURS, REACHED, NOT_YOURS, WHO, WHO),
    ("POST", "/trials/{trial}/reject"): (WHO, NOT_YOURS, REACHED, NOT_YOURS, WHO, WHO),
    ("POST", "/trials/{trial}/stop"): (WHO, REACHED, REACHED, NOT_YOURS, WHO, WHO),
    ("POST", "/trials/{trial}/kill"): (WHO, REACHED, REACHED, REACHED, WHO, WHO),
    ("POST", "/trials/{trial}/code"): (WHO, NOT_YOURS, REACHED, NOT_YOURS, WHO, WHO),
    ("POST", "/rollback"): (WHO, NOT_YOURS, REACHED, REACHED, WHO, WHO),
    ("POST", "/rollback/code"): (WHO, NOT_YOURS, PAGE, PAGE, WHO, WHO),
    ("GET", "/break-glass"): SIGNED_IN,
    ("POST", "/break-glass"): (WHO, NOT_YOURS, REACHED, NOT_YOURS, WHO, WHO),
    ("POST", "/break-glass/{number}/end"): (WHO, NOT_YOURS, REACHED, NOT_YOURS, WHO, WHO),
    ("POST", "/break-glass/{number}/confirm"): (WHO, NOT_YOURS, REACHED, NOT_YOURS, WHO, WHO),
}
CELLS = [(*route, who, status) for route, row in EXPECTED.items() for who, status in zip(PEOPLE, row, strict=True)]


@dataclass(frozen=True)
class Place:
    """One console for the whole table: no cell changes the ledger."""

    world: World
    app: FastAPI
    secrets: dict[str, str]

    def open_session(self, who: str) -> str:
        """A secret that only the caller uses."""
        ledger, now = self.world.ledger, datetime.now(UTC)
        if who in ("submitter", "approver", "admin"):
            return ledger.sign_in(NAMES[who], PASSWORD, now=now)
        if who == "expired":
            return ledger.sign_in("ada", PASSWORD, now=now - timedelta(hours=25))
        return ""

    def ask(self, method: str, path: str, *, secret: str, fields: dict[str, str] | None = None) -> Any:
        client = TestClient(self.app, base_url=ADDRESS, follow_redirects=False)
        if secret:
            client.cookies.set("ratchet_session", secret)
        token = csrf.token_of(secret)
        if path == "/sign-in" and method == "POST":
            before = "b" * 40
            client.cookies.set("ratchet_before", before)
            token = csrf.token_of(before)
        if method == "GET":
            return client.get(path)
        return client.request(method, path, data={"csrf": token, **(fields or {})}, headers={"Origin": ADDRESS})

    def head(self) -> tuple[Any, ...]:
        """What nothing that was refused may change."""
        ledger = self.world.ledger
        return ledger.audit()[-1].hash, ledger.champion(), ledger.trial(self.world.trial).state


NAMES = {"submitter": "carl", "approver": "ada", "admin": "gina"}


@pytest.fixture(scope="module")
def place(told: Callable[..., World], tmp_path_factory: pytest.TempPathFactory) -> Place:
    original = told("canary", simulation=False, ago=timedelta(0))
    root = tmp_path_factory.mktemp("routes") / "home"
    shutil.copytree(original.home.root, root)
    world = replace(original, home=Home(root))
    ledger, now = world.ledger, datetime.now(UTC)
    ledger.add_person("gina", roles=frozenset({Role.ADMIN}), password=PASSWORD, actor="ben", now=now)
    ledger.add_person("fay", roles=frozenset({Role.APPROVER}), password=PASSWORD, actor="ben", now=now)
    made = Place(world, create_console(world.home, world.settings), {})
    for who in PEOPLE:
        made.secrets[who] = made.open_session(who)
    made.secrets["disabled"] = ledger.sign_in("fay", PASSWORD, now=now)
    assert ledger.session(made.secrets["disabled"], now=now) is not None
    ledger.disable_person("fay", actor="ben", reason="left", now=now)
    return made


def test_every_route_is_in_the_table_and_in_the_consoles_own(place: Place) -> None:
    assert all(isinstance(route, APIRoute) for route in place.app.routes)
    routed = {(method, route.path) for route in place.app.routes for method in route.methods}  # type: ignore[attr-defined]
    assert routed == set(EXPECTED)
    assert {(route.method, route.path) for route in ROUTES} == set(EXPECTED)


@pytest.mark.parametrize(("method", "path", "who", "status"), CELLS)
def test_who_may_ask_what(place: Place, method: str, path: str, who: str, status: int) -> None:
    world, secret = place.world, place.secrets[who]
    if path in ("/sign-in", "/sign-out") and method == "POST" and who != "disabled":
        secret = place.open_session(who)
    trial, champion = world.ledger.trial(world.trial), world.ledger.champion()
    assert champion is not None
    fields = {"evidence": trial.evidence[-1].sha256, "epoch": str(champion.epoch), "step": "approve"}
    if status in (WHO, NOT_YOURS):
        fields["reason"] = "with everything that the step asks for"
    elif path.endswith("/code"):
        fields["evidence"] = ""
    if path == "/sign-in":
        fields = {"name": "carl", "password": PASSWORD, "then": "/"}
    before = place.head()
    answer = place.ask(method, path.format(trial=world.trial, number=1, page=HELD_WHOLE), secret=secret, fields=fields)
    assert answer.status_code == status, answer.text
    assert place.head() == before
    if status == WHO:
        assert 'action="/sign-in"' in answer.text
        assert world.trial not in answer.text.replace(f"/trials/{world.trial}", "")  # where to go on, and no more
    if status == NOT_YOURS:
        assert "It needs the role" in answer.text
    if status == REACHED:
        assert "Something is missing" in answer.text or "A reason is missing" in answer.text


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/redoc", "/admin", "/trials/", "/static/", "/people/ada"])
def test_what_is_not_there_is_there_for_nobody(place: Place, path: str) -> None:
    found = [place.ask("GET", path, secret=place.secrets[who]).status_code for who in PEOPLE]
    assert found == [WHO, NOTHING, NOTHING, NOTHING, WHO, WHO]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD", "PROPFIND"])
def test_other_methods_are_refused_on_every_route(place: Place, method: str) -> None:
    before = place.head()
    for path in {path for _, path in EXPECTED}:
        for who in ("nobody", "approver"):
            answer = place.ask(
                method, path.format(trial=place.world.trial, number=1, page="x"), secret=place.secrets[who]
            )
            # What needs no session says so to everybody; the rest does not even tell that to who has none.
            open_ = EXPECTED.get(("GET", path)) == EVERYBODY
            expected = {405} if who == "approver" else {405, WHO} if open_ else {WHO}
            assert answer.status_code in expected, (method, path, who)
    assert place.head() == before
