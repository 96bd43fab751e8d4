"""Who may ask what: every route with every kind of key, and without any."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from serving.web.access import is_this_machine
from stores.api_keys import Role, add_key, revoke_key

Start = Callable[..., TestClient]

BODIES: dict[str, Any] = {
    "/v1/recommend": {"user_id": "u"},
    "/v1/recommend/batch": {"requests": [{"user_id": "u"}]},
    "/v1/feedback": {"events": []},
    "/v1/users/preferences": {"user_id": "u", "personalised": True, "hidden_items": [], "hidden_categories": []},
    "/v1/users/preferences/read": {"user_id": "u"},
    "/v1/admin/kill": {"trial": "t1", "reason": "a rehearsal"},
}
# Route, the roles that are let in, whether it is open without a key although the home has some.
TABLE = [
    ("GET", "/healthz", set(Role), True),
    ("GET", "/readyz", set(Role), True),
    ("GET", "/docs", set(Role), True),
    ("GET", "/docs/start.js", set(Role), True),
    ("GET", "/docs/swagger-ui.css", set(Role), True),
    ("GET", "/openapi.json", set(Role), True),
    ("POST", "/v1/recommend", {Role.RECOMMEND}, False),
    ("POST", "/v1/recommend/batch", {Role.RECOMMEND}, False),
    ("POST", "/v1/feedback", {Role.FEEDBACK}, False),
    ("PUT", "/v1/users/preferences", {Role.FEEDBACK}, False),
    ("POST", "/v1/users/preferences/read", {Role.FEEDBACK}, False),
    ("POST", "/v1/admin/kill", {Role.ADMIN}, False),
    ("GET", "/metrics", {Role.ADMIN}, False),
]
CLOSED = [(method, path, roles) for method, path, roles, open_ in TABLE if not open_]
LIFE = timedelta(days=1)


def furnish(shop: Any, path: str) -> None:
    """What a route needs to answer with 200."""
    shop.publish("a", "b")
    if path == "/v1/admin/kill":
        shop.crown()
        shop.trial(shop.version())


def key(shop: Any, *roles: Role, name: str = "k", lifetime: timedelta | None = None, ago: timedelta = LIFE) -> str:
    made = datetime.now(UTC) - ago
    return add_key(shop.home.api_keys, name=name, roles=roles, lifetime=lifetime, now=made)[1]


def ask(client: TestClient, method: str, path: str, shown: str | None = None, **headers: str) -> Any:
    if shown is not None:
        headers["Authorization"] = f"Bearer {shown}"
    return client.request(method, path, json=BODIES.get(path), headers=headers)


def refused(answer: Any, status: int, kind: str) -> dict[str, Any]:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    problem: dict[str, Any] = answer.json()
    assert problem["type"] == f"urn:ratchet:problem:{kind}"
    return problem


@pytest.mark.parametrize("role", [None, *Role])
@pytest.mark.parametrize(("method", "path", "roles", "is_open"), TABLE)
def test_each_route_with_each_role(
    shop: Any, start: Start, method: str, path: str, roles: set[Role], is_open: bool, role: Role | None
) -> None:
    furnish(shop, path)
    shown = None if role is None else key(shop, role)
    if role is None:
        key(shop, *Role)  # the home has one, the request has none
    answer = ask(start(), method, path, shown)
    if is_open or role in roles:
        assert answer.status_code == 200, answer.text
    elif role is None:
        assert "ratchet keys add" in refused(answer, 401, "unauthenticated")["detail"]
        assert answer.headers["www-authenticate"] == 'Bearer realm="ratchet"'
    else:
        (needed,) = roles
        assert f"needs the role {needed}" in refused(answer, 403, "wrong-role")["detail"]
        challenge = f'Bearer realm="ratchet", error="insufficient_scope", scope="{needed}"'
        assert answer.headers["www-authenticate"] == challenge


def test_the_table_has_every_route(shop: Any, start: Start) -> None:
    routes = {
        (method, route.path) for route in start().app.routes if isinstance(route, APIRoute) for method in route.methods
    }
    stated = {(method, path) for method, path, _, _ in TABLE}
    stated.add(("GET", "/docs/{name}"))
    assert routes | {("GET", "/openapi.json"), ("GET", "/docs/swagger-ui.css")} == stated, "state who may ask"


@pytest.mark.parametrize(("method", "path", "roles"), CLOSED)
def test_a_key_may_have_several_roles(shop: Any, start: Start, method: str, path: str, roles: set[Role]) -> None:
    furnish(shop, path)
    assert ask(start(), method, path, key(shop, *Role)).status_code == 200


@pytest.mark.parametrize(("method", "path", "is_open"), [(method, path, o) for method, path, _, o in TABLE])
def test_a_home_without_keys_is_open_to_its_own_machine_only(
    shop: Any, start: Start, method: str, path: str, is_open: bool
) -> None:
    furnish(shop, path)
    client = start()
    assert ask(client, method, path).status_code == 200
    assert ask(client, method, path, "rk_00000000_nonsense").status_code == 200
    answer = ask(client, method, path, Host="rebound.example.org")
    if path in ("/healthz", "/readyz"):  # a supervisor names the machine as it likes
        assert answer.status_code == 200
    else:
        refused(answer, 403, "foreign-host")
    key(shop, Role.ADMIN)
    with_keys = ask(start(), method, path, Host="api.example.org")
    assert with_keys.status_code == (200 if is_open else 401)


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("", "ratchet keys add"),
        ("Bearer", "ratchet keys add"),
        ("Bearer ", "ratchet keys add"),
        ("Basic dTpw", "ratchet keys add"),
        ("{key}", "ratchet keys add"),
        ("Bearer x{key}", "no key of this server"),
        ("Bearer {key}0", "no key of this server"),
        ("Bearer {key} {key}", "no key of this server"),
        ("Bearer rk_1_2", "no key of this server"),
    ],
)
def test_what_is_no_bearer_key_is_refused(shop: Any, start: Start, header: str, told: str) -> None:
    shown = key(shop, *Role)
    answer = start().post("/v1/recommend", json={"user_id": "u"}, headers={"Authorization": header.format(key=shown)})
    problem = refused(answer, 401, "unauthenticated")
    assert told in problem["detail"]
    assert shown.rpartition("_")[2] not in answer.text
    invalid = told == "no key of this server"
    assert answer.headers["www-authenticate"] == 'Bearer realm="ratchet"' + ', error="invalid_token"' * invalid


def test_the_schemes_name_has_no_case(shop: Any, start: Start) -> None:
    shop.publish("a")
    shown = key(shop, Role.RECOMMEND)
    client = start()
    for scheme in ("bearer", "BEARER", "Bearer "):
        headers = {"Authorization": f"{scheme} {shown}"}
        assert client.post("/v1/recommend", json={"user_id": "u"}, headers=headers).status_code == 200


def test_ended_keys_are_refused_with_their_reason(shop: Any, start: Start) -> None:
    old = key(shop, *Role, name="old", lifetime=LIFE, ago=2 * LIFE)
    lost = key(shop, *Role, name="lost")
    revoke_key(shop.home.api_keys, "lost", now=datetime.now(UTC))
    client = start()
    assert "expired" in refused(ask(client, "POST", "/v1/recommend", old), 401, "unauthenticated")["detail"]
    assert "revoked" in refused(ask(client, "POST", "/v1/recommend", lost), 401, "unauthenticated")["detail"]
    guess = f"{lost[:12]}{'0' * 48}"  # who has only the id is not told that it was one
    assert "no key" in refused(ask(client, "POST", "/v1/recommend", guess), 401, "unauthenticated")["detail"]


def test_the_first_key_closes_a_running_server_and_a_lost_file_does_not_open_it(shop: Any, start: Start) -> None:
    shop.publish("a")
    client = start()  # poll_seconds = 0.05

    def eventually(status: int, shown: str | None = None) -> bool:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if ask(client, "POST", "/v1/recommend", shown).status_code == status:
                return True
            time.sleep(0.02)
        return False

    assert eventually(200)
    shown = key(shop, Role.RECOMMEND)
    assert eventually(401)
    assert eventually(200, shown)
    shop.home.api_keys.unlink()
    time.sleep(0.3)
    assert ask(client, "POST", "/v1/recommend").status_code == 401
    assert ask(client, "POST", "/v1/recommend", shown).status_code == 200


def test_an_unknown_path_asks_for_a_key_too(shop: Any, start: Start) -> None:
    shown = key(shop, Role.ADMIN)
    client = start()
    refused(ask(client, "GET", "/nowhere"), 401, "unauthenticated")
    refused(ask(client, "GET", "/nowhere", shown), 404, "not-found")
    for path in ("/v1/recommend/", "//v1/recommend", "/v1/../metrics", "/METRICS", "/healthz/"):
        assert ask(client, "POST", path).status_code == 401


def test_a_key_does_not_open_another_time(shop: Any, start: Start) -> None:
    shop.publish("a")
    shown = key(shop, *Role)
    then = {"X-Ratchet-Now": "2026-01-01T00:00:00Z"}
    assert ask(start(), "POST", "/v1/recommend", shown, **then).status_code == 200  # a simulation home
    real = start(home={"clock": "wall"})
    refused(ask(real, "POST", "/v1/recommend", shown, **then), 403, "simulated-time")


def test_a_request_is_refused_before_its_body_is_read(shop: Any, start: Start) -> None:
    key(shop, Role.RECOMMEND)
    body = b"x" * 20_000_000
    answer = start().post("/v1/recommend", content=body, headers={"Content-Type": "application/json"})
    refused(answer, 401, "unauthenticated")


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:8890", True),
        ("127.8.8.8:1", True),
        ("localhost", True),
        ("LocalHost:8890", True),
        ("[::1]", True),
        ("[::1]:8890", True),
        ("", False),
        (":8890", False),
        ("0.0.0.0", False),
        ("localhost.example.org", False),
        ("127.0.0.1.example.org:8890", False),
        ("example.org", False),
        ("192.168.1.5:8890", False),
        ("127.0.0.1:8890:8890", False),
        ("localhost:evil", False),
        ("2130706433", False),
        ("127.1", False),
    ],
)
def test_the_machines_own_names(host: str, own: bool) -> None:
    assert is_this_machine(host) is own
