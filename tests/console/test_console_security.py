"""The console as somebody meets it who means harm: odd bytes, other people's cookies, markup in every name."""

import logging
import re
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest

from bench.console_world import AWAY, PASSWORD, World
from relations.errors import UsageError
from stores.people import Role

MARKUP = '"><script>window.pwned=1</script><img src=x onerror="window.pwned=2"><a href="javascript:pwned()">\u202ex'


def say(address: str, request: bytes) -> tuple[int, str]:
    """Raw bytes to the console's socket; the status, 0 where it hangs up, and all that came back."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as line:
        line.sendall(request)
        came = b""
        while chunk := line.recv(65_536):
            came += chunk
    found = re.match(rb"HTTP/1\.[01] (\d{3})", came)
    return int(found[1]) if found else 0, came.decode("utf-8", "replace")


def asked(path: str, *, cookie: str = "", method: str = "GET", host: str = "", more: str = "") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
    lines += [f"Cookie: ratchet_session={cookie}"] if cookie else []
    return ("\r\n".join([*lines, *([more] if more else []), "", ""])).encode("utf-8", "surrogateescape")


@pytest.fixture(scope="module")
def ada(console_for_all: Any) -> str:
    """The secret of an approver's session."""
    secret: str = console_for_all.world.ledger.sign_in("ada", PASSWORD, now=datetime.now(UTC))
    return secret


@pytest.fixture(autouse=True)
def _nothing_has_changed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever is tried on the console that all share, its ledger stays as it was."""
    if "console_for_all" not in request.fixturenames:
        yield
        return
    ledger = request.getfixturevalue("console_for_all").world.ledger
    before = ledger.audit()[-1].hash
    yield
    assert ledger.audit()[-1].hash == before


PATHS = [
    "/trials/..%2f..%2fledger.db", "/trials/../../ledger.db", "/static/../ledger.db", "/static/%2e%2e/%2e%2e/home.json",
    "/static/console.css/../../keys", "/static//etc/passwd", "//evil.example/", "/\\evil.example", "/trials/%00",
    "/trials/trial-7%00.html", "/trials/%0d%0aSet-Cookie:%20x=1", "/trials/%0aX: y", "/trials/%ff%fe", "/trials/%c0%ae",
    "/trials/" + "9" * 5_000, "/trials/" + "%F0%9F%92%A5" * 300, "/trials/trial-7;a=b", "/trials/trial-7/evidence/..",
    "/trials/trial-7/approve?reason=x&evidence=y", "/trials/%3Cscript%3Ealert(1)%3C%2Fscript%3E", "/compare?a=1e3&b=2",
    "/compare?a=99999999999999999999&b=1", "/compare?a=-1&b=1", "/compare?a=1&a=2&b=%D9%A1", "/compare?a=v1'--&b=v2",
    "/data/docs/..%2f..%2fledger.db", "/data/docs/%2e%2e", "/data/docs/home.json", "/people/../", "/?x=" + "a" * 9_000,
    "/trials?state=%3Cb%3E", "/trials?state=PROMOTED&state=x%00", "/healthz/../people", "/%2e/people", "/TRIALS",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=[path[:40] for path in PATHS])
def test_no_address_breaks_out(console_for_all: Any, ada: str, path: str) -> None:
    host = console_for_all.address.removeprefix("http://")
    status, told = say(console_for_all.address, asked(path, cookie=ada, host=host))
    assert status in (200, 400, 401, 403, 404, 405, 409, 414, 422), told[:500]
    head, _, body = told.partition("\r\n\r\n")
    assert "Traceback" not in told
    assert "set-cookie: x=1" not in head.lower()
    assert not re.search(r"(?im)^(x: y|location: (?!/))", head)
    assert "SQLite format" not in body
    assert "<script" not in body
    # Nothing of a home that is no page: neither its marker nor what hides people's secrets.
    assert '"simulation":' not in body
    if status == 200 and path.startswith("/trials/"):
        assert "trial-" in body


BROKEN = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
    b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-Host: evil.example\r\nConnection: close\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    b"Cookie: ratchet_session=\xff\xfe\x00; =;;; ratchet_session\r\n\r\n",
    b"POST /sign-in HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\nConnection: close\r\n\r\n",
    b"POST /sign-in HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n"
    b"Connection: close\r\n\r\n0\r\n\r\nGET /people HTTP/1.1\r\n\r\n",
    b"POST /sign-in HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999\r\nConnection: close\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"BREW / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_no_bytes_get_a_page_or_take_the_console_down(console_for_all: Any, number: int) -> None:
    host, port = console_for_all.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as line:
        line.sendall(BROKEN[number])
        line.shutdown(socket.SHUT_WR)
        came = b""
        with_reset = False
        try:
            while chunk := line.recv(65_536):
                came += chunk
        except ConnectionResetError:
            with_reset = True
    assert with_reset or not came or re.match(rb"HTTP/1\.1 (400|401|403|404|405|411|413|415|501|505)", came), came[:300]
    assert b"Traceback" not in came
    assert b"trial-7" not in came
    assert httpx.get(f"{console_for_all.address}/healthz", trust_env=False).status_code == 200


def test_a_step_is_never_taken_by_reading(console_for_all: Any, ada: str) -> None:
    """Neither by GET with the fields in the address, nor by a method that a header or a field names."""
    trial = console_for_all.world.trial
    evidence = console_for_all.world.ledger.trial(trial).evidence[-1].sha256
    client = httpx.Client(base_url=console_for_all.address, cookies={"ratchet_session": ada}, trust_env=False)
    with client:
        page = client.get(f"/trials/{trial}")
        token = re.search(r'name="csrf" value="(\w+)"', page.text)
        assert token is not None
        fields = {"csrf": token[1], "reason": "r", "evidence": evidence}
        own = {"Origin": console_for_all.address}
        for action in ("approve", "reject", "kill", "stop"):
            path = f"/trials/{trial}/{action}"
            assert client.get(path, params=fields, headers=own).status_code == 405
            assert client.get(path, params=fields, headers={**own, "X-HTTP-Method-Override": "POST"}).status_code == 405
            assert client.get(path, params={**fields, "_method": "POST"}, headers=own).status_code == 405
            # The form's fields are read from the form alone.
            assert client.post(path, params=fields, headers=own).status_code in (403, 415)
            assert client.post(path, params=fields, data={"x": "y"}, headers=own).status_code == 403
            assert client.post(path, json=fields, headers=own).status_code == 415
            assert client.post(path, files={"csrf": (None, token[1])}, headers=own).status_code == 415
            twice = f"csrf={token[1]}&reason=a&reason=b&evidence={evidence}"
            kind = {"Content-Type": "application/x-www-form-urlencoded"}
            assert client.post(path, content=twice, headers=own | kind).status_code == 400


def test_a_cookie_that_was_touched_opens_nothing(console_for_all: Any, ada: str) -> None:
    touched = [
        ada[:-1], ada + "0", ada.upper() + "x", ada[::-1], "", " ", "0" * len(ada), "x" * 3_900, f'"{ada}"x',
        ada.replace(ada[0], "0" if ada[0] != "0" else "1"), "' OR 1=1 --", "../" * 9, "%00", f"{ada}%00",
    ]  # fmt: skip
    host = console_for_all.address.removeprefix("http://")
    assert say(console_for_all.address, asked("/", cookie=ada, host=host))[0] == 200
    for secret in touched:
        status, told = say(console_for_all.address, asked("/", cookie=secret or "none", host=host))
        assert status == 401, secret
        assert console_for_all.world.trial not in told
    # What was planted beside the real one is not taken for it, and a header of that name is no cookie.
    assert say(console_for_all.address, asked("/", host=host, more=f"ratchet_session: {ada}"))[0] == 401
    assert say(console_for_all.address, asked("/", host=host, more=f"Authorization: Bearer {ada}"))[0] == 401
    assert say(console_for_all.address, asked(f"/?ratchet_session={ada}", host=host))[0] == 401


def test_the_ledgers_secrets_do_not_open_a_session(console_for_all: Any, ada: str) -> None:
    """A token is for shells, a code for one step, and a hash that somebody read in the database for nothing."""
    world = console_for_all.world
    host = console_for_all.address.removeprefix("http://")
    with world.ledger._database.read() as tx:
        hashes = [row[0] for row in tx.exec_driver_sql("select secret_sha256 from console_session")]
    assert hashes
    for shown in (*hashes, f"rt_00000000_{ada}", f"rc_{ada}"):
        assert say(console_for_all.address, asked("/", cookie=shown, host=host))[0] == 401


class Tags(HTMLParser):
    """What of a page could act."""

    def __init__(self) -> None:
        super().__init__()
        self.flaws: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "img", "iframe", "object", "embed", "base", "link"):
            self.flaws.append(tag)
        for name, text in attrs:
            if name.startswith("on") or (name in ("href", "src", "action") and not self.own(text or "")):
                self.flaws.append(f"{tag} {name}={text}")

    @staticmethod
    def own(address: str) -> bool:
        """Of the console itself, or of the MLflow that the home's settings name."""
        return address.startswith(("/", "#", f"{AWAY}/")) and not address.startswith("//")


def test_markup_in_every_name_and_reason_stays_text(
    world_of: Callable[..., World], console_on: Callable[..., Any], visit: Callable[..., Any]
) -> None:
    world, now = world_of("canary"), datetime.now(UTC)
    ledger, name = world.ledger, '<img src=x onerror="pwned()">'
    ledger.add_person(name, roles=frozenset(Role), password=PASSWORD, actor="ben", now=now)
    running = console_on(world)
    visitor = visit(running, name)
    page = f"/trials/{world.trial}"
    assert visitor.send(visitor.form(page, f"{page}/kill"), reason=MARKUP).status_code == 303
    assert visitor.send(visitor.form(page, f"{page}/reject"), reason=MARKUP).status_code == 303
    refused = visitor.post("/rollback", {"csrf": visitor.csrf, "reason": MARKUP, "epoch": "7"})
    assert refused.status_code == 409
    refusals = [
        refused,
        visitor.post("/trials/%3Cimg%20src=x%3E/reject", {"csrf": visitor.csrf, "reason": MARKUP}),
        visitor.post("/sign-in", {"csrf": "x", "name": name}),
        visitor.get("/trials/%22%3E%3Cscript%3E"),
        visitor.get("/compare", params={"a": '"><script>', "b": "2"}),
    ]
    pages = [visitor.get(path) for path in ("/", "/trials", page, "/champions", "/compare?a=1&b=2", "/people", "/data")]
    assert all(answer.status_code == 200 for answer in pages)
    assert sum("&lt;script&gt;" in answer.text for answer in (*pages, *refusals)) >= 2
    for answer in (*pages, *refusals):
        tags = Tags()
        tags.feed(re.sub(r'<link rel="(icon|stylesheet)" href="[^"]*">', "", answer.text))
        assert tags.flaws == [], answer.url
        assert "style=" not in re.sub(r"<svg.*?</svg>", "", answer.text, flags=re.DOTALL), answer.url
        assert "set-cookie" not in answer.headers or "pwned" not in answer.headers["set-cookie"]
    evidence = visitor.get(f"{page}/evidence")
    assert "<script" not in evidence.text
    assert evidence.headers["content-security-policy"].startswith("sandbox")


def test_nobody_writes_lines_into_the_log(
    world_of: Callable[..., World], console_on: Callable[..., Any], visit: Callable[..., Any], caplog: Any
) -> None:
    running = console_on(world_of("canary"))
    visitor = visit(running)
    with caplog.at_level(logging.INFO):
        for name in ("ada\nWARNING everything is fine", "ada\r\n\x1b[2J", "\u2028ada\u202e", "x" * 5_000):
            assert visitor.sign_in(name).status_code in (401, 422, 429)
    ours = [record for record in caplog.records if record.name.startswith("serving.")]
    assert len(ours) >= 3
    for record in ours:
        told = record.getMessage()
        assert told.isprintable(), told
        assert len(told) < 1_000


def test_signing_in_does_the_same_work_for_names_that_there_are_not(
    world_of: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, now = world_of("canary").ledger, datetime.now(UTC)
    from stores import people_ledger

    checked: list[str] = []
    matches = people_ledger.matches

    def counted(kept: str, password: str) -> bool:
        checked.append(password)
        return matches(kept, password)

    monkeypatch.setattr(people_ledger, "matches", counted)
    told = set()
    for name in ("ada", "nobody", "erin", "", "ada\x00", "deployment learn/scheduled", "gate"):
        with pytest.raises(UsageError) as refused:
            ledger.sign_in(name, "not the password", now=now)
        told.add(str(refused.value))
    with pytest.raises(UsageError) as refused:
        ledger.sign_in("erin", PASSWORD, now=now)  # disabled: the right one says no more
    told.add(str(refused.value))
    assert len(checked) == 8
    assert len(told) == 1


@pytest.mark.servers
def test_no_other_page_can_frame_the_console_or_keep_its_pages(
    console_for_all: Any, browser: Any, tmp_path: Any
) -> None:
    browser.open(console_for_all.address, "ada")
    trap = tmp_path / "trap.html"
    trap.write_text(
        f'<!doctype html><title>t</title><iframe src="{console_for_all.address}/" width="800" height="600"></iframe>'
    )
    browser.driver.get(trap.as_uri())
    browser.driver.switch_to.frame(0)
    assert console_for_all.world.trial not in browser.words
    browser.driver.switch_to.default_content()
    browser.go("/champions")
    assert "Who served when" in browser.words
    browser.press("/sign-out")
    browser.driver.back()
    assert "Who served when" not in browser.words
