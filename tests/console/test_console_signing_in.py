"""Signing in and out: what it takes, what it leaves in the browser, and what it never gives away."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from bench.console_world import PASSWORD
from serving.console import csrf
from serving.console.app import create_console
from stores.home import Home
from stores.ledger import Ledger
from stores.settings import Settings


def send(client: TestClient, **typed: str) -> Any:
    """As the sign-in page's form does, after the page was opened."""
    page = client.get("/sign-in").text
    token = re.search(r'name="csrf" value="(\w+)"', page)
    assert token is not None
    return client.post("/sign-in", data={"csrf": token[1], **typed})


def test_a_name_and_its_password_open_a_session(small: Any) -> None:
    client = small.client()
    answer = send(client, name="Ada ", password=PASSWORD)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    session, before = sorted(answer.headers.get_list("set-cookie"), reverse=True)
    assert session.startswith("ratchet_session=")
    parts = {part.strip() for part in session.split(";")[1:]}
    assert parts == {"HttpOnly", "Path=/", "SameSite=lax"}
    assert "Max-Age=0" in before, "what stood for the session is gone"
    page = client.get("/")
    assert page.status_code == 200
    assert "ada" in page.text


@pytest.mark.parametrize(
    "typed", [("ada", "wrong one"), ("nobody", PASSWORD), ("ada", ""), ("<b>ada", "xyzzy1"), ("a\u202eda", "xyzzy2")]
)
def test_a_wrong_one_says_no_more_than_that(small: Any, typed: tuple[str, str]) -> None:
    client = small.client()
    answer = send(client, name=typed[0], password=typed[1])
    assert answer.status_code == 401
    assert "name or password is wrong" in answer.text
    assert "<b>ada" not in answer.text
    assert "ratchet_session" not in str(answer.headers.get_list("set-cookie"))
    if typed[1]:
        assert typed[1] not in answer.text, "a password is never sent back"


def test_nothing_at_all_is_asked_for_again(small: Any) -> None:
    for typed in (
        {},
        {"name": " ", "password": "x"},
        {"name": "a" * 201, "password": "x"},
        {"name": "a", "password": "x" * 1025},
    ):
        assert send(small.client(), **typed).status_code == 422


def test_a_session_is_new_at_each_signing_in(small: Any) -> None:
    """A session that somebody else put into the browser gets nobody in: it ends, and another begins."""
    planted, own = small.session("carl"), small.client()
    own.cookies.set("ratchet_session", planted, domain="127.0.0.1")
    assert send(own, name="ada", password=PASSWORD).status_code == 303
    fresh = own.cookies["ratchet_session"]
    assert fresh != planted
    assert small.ledger.session(planted, now=datetime.now(UTC)) is None
    person = small.ledger.session(fresh, now=datetime.now(UTC))
    assert person.name == "ada"
    # Nor does one that was made up become a session.
    made_up = small.client()
    made_up.cookies.set("ratchet_session", "f" * 48, domain="127.0.0.1")
    assert send(made_up, name="ada", password=PASSWORD).status_code == 303
    assert made_up.cookies["ratchet_session"] != "f" * 48


def test_signing_out_ends_the_session_on_the_server(small: Any) -> None:
    client = small.client("ada")
    secret = client.cookies["ratchet_session"]
    answer = small.post(client, "/sign-out", {})
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
    assert client.get("/").status_code == 401
    client.cookies.set("ratchet_session", secret)
    assert client.get("/").status_code == 401
    assert small.ledger.session(secret, now=datetime.now(UTC)) is None


def test_a_session_ends_by_itself(small: Any) -> None:
    later = timedelta()
    app = create_console(small.home, small.settings, wall=lambda: datetime.now(UTC) + later)
    client = TestClient(app, base_url=small.address)
    client.cookies.set("ratchet_session", small.session("ada"))
    assert client.get("/").status_code == 200
    later = timedelta(hours=8, minutes=1)
    answer = client.get("/")
    assert answer.status_code == 401
    assert "Your session has ended" in answer.text


def test_who_wanted_a_page_comes_to_it(small: Any) -> None:
    answer = small.client().get("/trials/t%201")
    assert answer.status_code == 401
    assert 'name="then" value="/trials/t 1"' in answer.text
    answer = send(small.client(), name="ada", password=PASSWORD, then="/trials/t1")
    assert answer.headers["location"] == "/trials/t1"


@pytest.mark.parametrize(
    "then",
    [
        "https://evil.example/",
        "//evil.example/trials/t1",
        "/\\evil.example",
        "\\/evil.example",
        "/trials/..//evil.example",
        "/sign-out",
        "/sign-in",
        "/healthz",
        "/trials/a\r\nSet-Cookie: x=y",
        "javascript:alert(1)",
        "",
        "trials",
    ],
)
def test_nobody_is_sent_to_another_site(small: Any, then: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "sign_in", lambda self, name, password, *, now: "0" * 48)
    answer = send(small.client(), name="ada", password=PASSWORD, then=then)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert "x" not in answer.cookies


def test_guessing_is_slowed_down(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def wrong(self: Ledger, name: str, password: str, *, now: datetime) -> str:
        from relations.errors import UsageError

        asked.append(password)
        raise UsageError("name or password is wrong")

    monkeypatch.setattr(Ledger, "sign_in", wrong)
    monkeypatch.setattr("serving.console.signing_in.time.monotonic", lambda: 1000.0)
    client = small.client()
    statuses = [send(client, name="ada", password=f"guess {n}").status_code for n in range(8)]
    assert statuses == [401] * 5 + [429] * 3
    assert len(asked) == 5, "a guess too many costs no hashing"
    answer = send(client, name=" ADA", password="x")
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "5")
    assert re.search(r"Wait \d+ s", answer.text)


def test_few_passwords_are_checked_side_by_side(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.console.signing_in.AT_ONCE", 0)
    monkeypatch.setattr("serving.console.signing_in.PATIENCE_SECONDS", 0.01)
    app = create_console(small.home, small.settings)
    client = TestClient(app, base_url=small.address, headers={"Origin": small.address})
    assert send(client, name="ada", password=PASSWORD).status_code == 429


def test_who_was_disabled_is_out_at_once(small: Any) -> None:
    client = small.client("ada")
    assert client.get("/").status_code == 200
    small.ledger.disable_person("ada", actor="ben", reason="left", now=datetime.now(UTC))
    assert client.get("/").status_code == 401


def test_without_anybody_the_page_tells_how_to_begin(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "home")
    client = TestClient(create_console(home, Settings()), base_url="http://localhost")
    page = client.get("/sign-in")
    assert page.status_code == 200
    assert f"ratchet people first NAME --home {home.root}" in page.text
    assert 'name="password"' not in page.text
    assert client.get("/").status_code == 401


def test_in_a_simulation_a_name_is_enough_and_the_page_says_so(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "home", simulation=True)
    address = "http://127.0.0.1"
    client = TestClient(
        create_console(home, Settings()), base_url=address, headers={"Origin": address}, follow_redirects=False
    )
    page = client.get("/sign-in").text
    assert "This is a simulation: choose who you are" in page
    assert 'name="password"' not in page
    assert send(client, name="Mira").status_code == 303
    queue = client.get("/")
    assert queue.status_code == 200
    assert "Mira" in queue.text
    assert "names are not checked here" in queue.text
    ledger = Ledger(home.ledger_url)
    assert (ledger.people(), ledger.audit()) == ((), ()), "nobody was created"
    assert send(client, name="gate").status_code == 401
    assert send(client, name="\u202e").status_code == 401


def test_the_form_of_the_page_is_bound_to_the_browser_that_got_it(small: Any) -> None:
    client = small.client()
    page = client.get("/sign-in")
    secret = client.cookies["ratchet_before"]
    assert csrf.token_of(secret) in page.text
    assert client.get("/sign-in").cookies.get("ratchet_before") == secret, "two tabs share one"
    assert small.client().get("/sign-in").cookies["ratchet_before"] != secret
