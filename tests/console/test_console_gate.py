"""What a request meets before any handler: the host, the session, the role, the origin, the token, the size."""

import asyncio
import logging
import re
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.requests import Request
from starlette.responses import Response

from serving.console import csrf, gatekeeper
from serving.console.access import ROUTES, actions_of, methods_of, route_of
from serving.console.app import create_console
from serving.console.cookies import MOST_MESSAGE, Cookies
from serving.console.forms import MAX_BODY, MAX_REASON, read_form, reason_of
from serving.console.headers import ALONE, HEADERS, POLICY
from serving.console.refusals import Refused, refusal_of
from stores.home import Home
from stores.people import Role
from stores.settings import Settings

FORM = "application/x-www-form-urlencoded"


def words(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_every_answer_has_every_header(small: Any) -> None:
    client, ada = small.client(), small.client("ada")
    asked = [
        client.get("/healthz"),
        client.get("/static/console.css"),
        client.get("/sign-in"),
        client.get("/"),  # 401
        client.get("/", headers={"Host": "evil.example"}),  # 403
        ada.get("/"),
        ada.get("/people"),  # 403
        ada.get("/nothing"),  # 404
        ada.get("/trials/t9"),  # 404 from a handler
        ada.put("/trials"),  # 405
        ada.post("/sign-out", content=b"x" * (MAX_BODY + 1), headers={"Content-Type": FORM}),  # 413
        ada.get("/compare?a=x"),  # 422
        small.post(ada, "/sign-out", {}),  # 303
    ]
    assert [answer.status_code for answer in asked] == [200, 200, 200, 401, 403, 200, 403, 404, 404, 405, 413, 422, 303]
    for answer in asked:
        told = {name: answer.headers.get(name) for name in HEADERS if name != "Cache-Control"}
        assert told == {name: text for name, text in HEADERS.items() if name != "Cache-Control"}
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Strict-Transport-Security" not in answer.headers
        assert "Server" not in answer.headers


def test_the_policy_lets_no_script_run_and_nothing_be_fetched_from_elsewhere() -> None:
    for policy in (POLICY, ALONE):
        stated = dict(part.strip().partition(" ")[::2] for part in policy.split(";"))
        assert stated["default-src"] == "'none'"
        assert "script-src" not in stated
        assert stated["base-uri"] == "'none'"
        assert stated["frame-ancestors"] == "'none'"
        assert not re.search(r"https?:|\*", policy)
    assert "allow-scripts" not in ALONE
    assert "allow-same-origin" not in ALONE
    assert "unsafe" not in POLICY


def test_the_style_sheet_may_be_kept_for_good_at_its_own_address_alone(small: Any) -> None:
    client = small.client()
    address = re.search(r'href="(/static/console\.css\?v=\w+)"', client.get("/sign-in").text)
    assert address is not None
    assert "immutable" in client.get(address[1]).headers["Cache-Control"]
    assert client.get("/static/console.css?v=0").headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8891", 200),
        ("localhost", 200),
        ("[::1]:8891", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example:8891", 403),
        ("", 403),
    ],
)
def test_only_this_machines_names_are_answered(small: Any, host: str, status: int) -> None:
    assert small.client("ada").get("/", headers={"Host": host}).status_code == status
    assert small.client().get("/sign-in", headers={"Host": host}).status_code == status
    assert small.client().get("/healthz", headers={"Host": host}).status_code == 200


def test_without_a_session_every_page_asks_who_is_there(small: Any) -> None:
    for secret in (None, "", "0" * 48, "not a secret", "é"):
        client = small.client()
        sent = {} if secret is None else {"Cookie": f"ratchet_session={secret}".encode()}
        answer = client.get("/trials", headers=sent)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Cookie ")
        assert 'name="password"' in answer.text
        assert 'name="then" value="/trials"' in answer.text


def test_a_role_that_is_missing_is_named_with_who_has_it(small: Any) -> None:
    answer = small.client("ada").get("/people")
    assert answer.status_code == 403
    assert "It needs the role admin; you have approver" in words(answer.text)
    assert "ben can" in words(answer.text)


def test_what_is_not_in_the_table_is_there_for_nobody_but_admins(small: Any) -> None:
    @small.app.get("/forgotten")  # type: ignore[untyped-decorator]
    def forgotten() -> Response:
        return Response("a secret")

    assert small.client().get("/forgotten").status_code == 401
    for name in ("ada", "carl"):
        answer = small.client(name).get("/forgotten")
        assert answer.status_code == 404
        assert "secret" not in answer.text
    assert small.client("ben").get("/forgotten").text == "a secret"
    assert small.client("ben").get("/nothing").status_code == 404


def test_routes_are_found_by_their_whole_path() -> None:
    assert route_of("GET", "/trials/t1").path == "/trials/{trial}"  # type: ignore[union-attr]
    for path in ("/trials/", "/trials//evidence", "/people\n", "/people/", "//people", "/trials/a/b", "/PEOPLE"):
        assert route_of("GET", path) is None, path
    assert methods_of("/sign-in") == ("GET", "POST")
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)
    assert len({route.action for route in ROUTES}) == len(ROUTES)


def test_what_pages_offer_follows_from_the_table() -> None:
    assert {"approve", "reject", "stop", "rollback", "confirm", "kill"} <= actions_of({Role.APPROVER})
    assert not {"approve", "reject", "rollback", "confirm", "people"} & actions_of({Role.SUBMITTER})
    assert not {"approve", "reject", "stop", "confirm"} & actions_of({Role.ADMIN})
    assert "queue" not in actions_of([])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 303),
        ({"Sec-Fetch-Site": "same-origin"}, 303),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Origin": "https://127.0.0.1:8891"}, 403),
        ({"Origin": ""}, 403),
    ],
)
def test_a_form_comes_from_a_page_of_ours(small: Any, headers: dict[str, str], status: int) -> None:
    client = small.client("ada")
    assert small.post(client, "/sign-out", {}, **headers).status_code == status
    if status == 403:
        assert client.get("/").status_code == 200, "the session has not ended"


def test_a_browser_that_says_nothing_of_where_a_form_comes_from_is_not_believed(small: Any) -> None:
    client = small.client("ada")
    del client.headers["Origin"]
    assert small.post(client, "/sign-out", {}).status_code == 403


def test_signing_in_needs_a_page_of_ours_too(small: Any) -> None:
    client = small.client()
    client.cookies.set("ratchet_before", "known to nobody else")
    token = csrf.token_of("known to nobody else")
    typed = {"name": "ada", "password": "wrong", "csrf": token}
    assert client.post("/sign-in", data=typed, headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.post("/sign-in", data={**typed, "csrf": csrf.token_of("another")}).status_code == 403
    assert client.post("/sign-in", data=typed).status_code == 401
    client.cookies.clear()
    assert client.post("/sign-in", data=typed).status_code == 403, "a token without its cookie"
    assert client.post("/sign-in", data={**typed, "csrf": csrf.token_of("")}).status_code == 403


def test_a_token_is_its_sessions_own(small: Any) -> None:
    ada, carl = small.client("ada"), small.client("carl")
    another = small.client("ada")
    foreign = [csrf.token_of(each.cookies["ratchet_session"]) for each in (carl, another)]
    for token in ("", "x", "é", *foreign):
        assert ada.post("/sign-out", data={"csrf": token}).status_code == 403
    assert ada.post("/sign-out", data={"other": "x"}).status_code == 403
    own = csrf.token_of(ada.cookies["ratchet_session"])
    secret = ada.cookies["ratchet_session"]
    assert ada.post("/sign-out", data={"csrf": own}).status_code == 303
    # Replayed after signing out: the cookie opens nothing, and a new session's does not fit it.
    ada.cookies.set("ratchet_session", secret)
    assert ada.post("/sign-out", data={"csrf": own}).status_code == 401
    assert small.client("ada").post("/sign-out", data={"csrf": own}).status_code == 403


def test_refusals_do_not_reach_handlers(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*_args: Any, **_given: Any) -> None:
        raise AssertionError("a refused step was taken")

    monkeypatch.setattr("serving.console.decisions.kill_trial", reached)
    client = small.client("ada")
    answer = small.post(client, "/trials/t1/kill", {"reason": "r"}, Origin="http://evil.example")
    assert answer.status_code == 403
    assert client.post("/trials/t1/kill", data={"reason": "r", "csrf": "0" * 64}).status_code == 403


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"csrf=x", "multipart/form-data; boundary=x", 415),
        (b"{}", "application/json", 415),
        (b"csrf=x", "text/plain", 415),
        (b"a=" + b"x" * MAX_BODY, FORM, 413),
        (b"&".join(b"f%d=1" % n for n in range(17)), FORM, 400),
        (b"a=1&a=2", FORM, 400),
        (b"a=%ff", FORM, 400),
        (b"a=\xff", FORM, 400),
        (b"", FORM, 403),
        (b"&" * 1000, FORM, 400),
    ],
)
def test_what_is_no_small_form_is_refused(small: Any, body: bytes, kind: str, status: int) -> None:
    client = small.client("ada")
    assert client.post("/sign-out", content=body, headers={"Content-Type": kind}).status_code == status


def request_of(chunks: list[bytes], *, length: str | None = None, pause: float = 0.0) -> Request:
    waiting = list(chunks)

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.sleep(3600 if pause else 0)
        body = waiting.pop(0) if waiting else b""
        return {"type": "http.request", "body": body, "more_body": bool(waiting) or bool(pause)}

    headers = [(b"content-type", FORM.encode())] + ([(b"content-length", length.encode())] if length else [])
    return Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)


def test_a_form_is_read_to_its_limit_whatever_it_says_of_its_length() -> None:
    read = asyncio.run(read_form(request_of([b"a=1&b=", b"%C3%A4+2"])))
    assert read == {"a": "1", "b": "ä 2"}
    for request in (request_of([b"x" * 40_000] * 2), request_of([b"x" * 40_000] * 2, length="3")):
        with pytest.raises(Refused) as caught:
            asyncio.run(read_form(request))
        assert caught.value.status == 413


def test_a_form_that_does_not_arrive_is_not_waited_for() -> None:
    with pytest.raises(Refused) as caught:
        asyncio.run(read_form(request_of([b"a=1"], pause=1), seconds=0.01))
    assert caught.value.status == 400


@pytest.mark.parametrize("text", ["", "  \r\n ", "x" * (MAX_REASON + 1), "a\x00b", "a\x1b[31mb"])
def test_a_reason_that_cannot_be_kept_is_refused(text: str) -> None:
    with pytest.raises(Refused) as caught:
        reason_of({"reason": text})
    assert caught.value.status == 422


def test_a_reason_is_kept_as_it_was_written() -> None:
    assert reason_of({"reason": " wins on <b>new</b> users\r\nand جديد "}) == "wins on <b>new</b> users\nand جديد"


def test_too_many_at_once_are_told_to_come_back(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gatekeeper, "MOST_AT_ONCE", 0)
    answer = small.client("ada").get("/")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert small.client().get("/healthz").status_code == 200


def test_a_defect_is_a_page_without_a_trace(
    small: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_args: Any, **_given: Any) -> dict[str, Any]:
        raise RuntimeError("a secret detail")

    client = small.client("ada")
    monkeypatch.setattr("serving.console.showing.queue_view", broken)
    with caplog.at_level(logging.ERROR):
        answer = client.get("/")
    assert answer.status_code == 500
    assert "secret detail" not in answer.text
    assert "Traceback" not in answer.text
    assert answer.headers["Content-Security-Policy"] == POLICY
    assert "secret detail" in caplog.text
    # Not even what makes pages is needed for that.
    monkeypatch.setattr("serving.console.desk.render", broken)
    answer = client.get("/")
    assert (answer.status_code, answer.text[:8]) == (500, "A defect")


def test_without_the_ledger_a_page_says_what_holds_and_how_to_kill(small: Any) -> None:
    client = small.client("ada")
    (small.home.root / "ledger.db").write_bytes(b"not a database at all" * 500)
    answer = client.get("/")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    told = words(answer.text)
    assert "ratchet trial kill TRIAL --as NAME --reason TEXT" in told
    assert "servers keep the champion that they saw last" in told
    assert "No server runs on this machine" in told
    assert "Traceback" not in answer.text
    assert small.client().get("/healthz").status_code == 200
    assert small.client().get("/sign-in").status_code == 503


def test_a_server_that_runs_is_named_when_the_ledger_is_down(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said = ({"champion": {"version": 7}}, {})
    monkeypatch.setattr("serving.console.desk.ask_servers", lambda home: said)
    client = small.client("ada")
    (small.home.root / "ledger.db").write_bytes(b"not a database at all" * 500)
    told = words(client.get("/").text)
    assert "answers and serves version 7" in told
    assert "does not say what it serves" in told


def test_a_message_is_its_sessions_own_and_told_once(small: Any) -> None:
    client = small.client("ada")
    secret = client.cookies["ratchet_session"]
    left = Response()
    Cookies(secure=False).say(left, "done: <b>ünï</b>", secret=secret)
    cookie = left.headers["set-cookie"].partition(";")[0].partition("=")[2].strip('"')
    client.cookies.set("ratchet_message", cookie)
    answer = client.get("/")
    assert "done: &lt;b&gt;ünï&lt;/b&gt;" in answer.text
    assert 'ratchet_message=""' in answer.headers["set-cookie"]
    for forged in (cookie[:-1] + ("0" if cookie[-1] != "0" else "1"), "eA==.0", "é.é", "....", ""):
        client.cookies.clear()
        sent = {"Cookie": f"ratchet_session={secret}; ratchet_message={forged}".encode()}
        assert 'class="message"' not in client.get("/", headers=sent).text
    other = small.client("ada")
    other.cookies.set("ratchet_message", cookie)
    assert 'class="message"' not in other.get("/").text


def test_a_long_message_still_fits_a_cookie(small: Any) -> None:
    left = Response()
    client = small.client("ada")
    Cookies(secure=False).say(left, "€" * 5000, secret=client.cookies["ratchet_session"])
    assert len(left.headers["set-cookie"]) < 4000
    client.cookies.set("ratchet_message", left.headers["set-cookie"].partition(";")[0].partition("=")[2])
    assert "€" * (MOST_MESSAGE // 3) + "…" in client.get("/").text


def test_our_errors_are_told_as_what_why_and_remedy() -> None:
    from relations.errors import DataRejected, DependencyFailed, GateRefused, UsageError

    refused = refusal_of(GateRefused("trial t1: ada submitted it; and cannot approve it; ask someone else"))
    assert (refused.status, refused.problem.remedy) == (409, "ask someone else")
    assert refused.problem.why == "trial t1: ada submitted it; and cannot approve it"
    assert [refusal_of(kind("x")).status for kind in (DataRejected, DependencyFailed, UsageError)] == [409, 503, 422]


def https(home: Home) -> TestClient:
    settings = Settings.model_validate({"console": {"url": "https://review.example.com/"}})
    app = create_console(home, settings)
    address = "https://review.example.com"
    return TestClient(app, base_url=address, follow_redirects=False, headers={"Origin": address})


def test_behind_a_proxy_that_speaks_https(small: Any) -> None:
    client = https(small.home)
    answer = client.get("/sign-in")
    assert "max-age=" in answer.headers["Strict-Transport-Security"]
    (cookie,) = answer.headers.get_list("set-cookie")
    assert cookie.startswith("__Host-ratchet_before=")
    assert {"HttpOnly", "Secure", "Path=/", "SameSite=lax"} <= {part.strip() for part in cookie.split(";")}
    assert "domain" not in cookie.lower()
    for host in ("127.0.0.1:8891", "localhost", "review.example.com:8891", "review.example.com.evil.example"):
        assert client.get("/sign-in", headers={"Host": host}).status_code == 403
    assert client.get("/sign-in", headers={"Host": "Review.Example.com"}).status_code == 200
    # What else a proxy, or somebody in its place, says of itself is not listened to.
    forged = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "http", "Forwarded": "host=evil.example"}
    assert client.get("/sign-in", headers=forged).status_code == 200
    secret = small.session("ada")
    client.cookies.set("__Host-ratchet_session", secret)
    assert client.get("/").status_code == 200
    typed = {"csrf": csrf.token_of(secret)}
    assert client.post("/sign-out", data=typed, headers={"Origin": "http://review.example.com"}).status_code == 403
    assert client.post("/sign-out", data=typed).status_code == 303


def test_a_plain_cookie_opens_nothing_where_people_come_by_https(small: Any) -> None:
    client = https(small.home)
    client.cookies.set("ratchet_session", small.session("ada"))
    assert client.get("/").status_code == 401


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def noted(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(csrf.hmac, "compare_digest", noted)
    assert csrf.fits(csrf.token_of("s"), secret="s")
    assert not csrf.fits("x", secret="s")
    assert len(compared) == 2
