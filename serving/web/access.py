"""Who may ask what: the first thing that a request meets, before its body is read.

A home without API keys is open to its own machine: nothing listens beyond loopback, and a browser's page must not
reach it through a name of its own (DNS rebinding), so the Host header has to name this machine. As soon as the home has
a key, every route but the probes asks for one, on loopback too: other users of the machine are not the key's owner. A
page of another site does not have the key, so the Host no longer matters then, and a proxy may give it any.

What a route needs is stated here and nowhere else; one that is not stated needs admin.
"""

import functools
import ipaddress
from collections.abc import Callable
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.web.problems import FOREIGN_HOST, problem
from stores.api_keys import KeyRefused, KeyRing, Role

PROBES = frozenset({"/healthz", "/readyz"})
"""Asked by who supervises the process, which holds no key."""
PAGES = frozenset({"/openapi.json", "/docs"})
"""The same in every installation: they say nothing of this home."""
ROLES = {
    "/v1/recommend": Role.RECOMMEND,
    "/v1/recommend/batch": Role.RECOMMEND,
    "/v1/feedback": Role.FEEDBACK,
    "/v1/users/preferences": Role.FEEDBACK,
    "/v1/users/preferences/read": Role.FEEDBACK,
    "/v1/admin/kill": Role.ADMIN,
    "/metrics": Role.ADMIN,
}
ANY = frozenset(Role)


class Access:
    """ASGI middleware: 401, 403, or the app, which finds the key at `request.state.key` where one was asked for."""

    def __init__(self, app: ASGIApp, *, ring: Callable[[], KeyRing], open_pages: bool) -> None:
        """`open_pages`: documentation needs no key, as a browser cannot show one when it opens a page."""
        self._app = app
        self._ring = ring
        self._open_pages = open_pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refusal = self._refusal(Request(scope))
            if refusal is not None:
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, request: Request) -> ASGIApp | None:
        needed = needs(request.scope["path"])
        if not needed:
            return None
        ring = self._ring()
        if ring.open:
            if is_this_machine(request.headers.get("host", "")):
                return None
            return problem(
                403,
                "without API keys only this machine is answered: use 127.0.0.1 or localhost, or make a key",
                kind=FOREIGN_HOST,
            )
        if needed is ANY and self._open_pages:
            return None
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not shown.strip():
            return _unauthenticated("send `Authorization: Bearer rk_…`; keys are made with `ratchet keys add`", "")
        try:
            key = ring.check(shown.strip(), now=datetime.now(UTC))
        except KeyRefused as error:
            return _unauthenticated(str(error), ', error="invalid_token"')
        if key.roles & needed:
            request.state.key = key
            return None
        scope = " ".join(sorted(needed))
        challenge = f'Bearer realm="ratchet", error="insufficient_scope", scope="{scope}"'
        detail = f"this needs the role {scope}; key {key.id} has {', '.join(sorted(key.roles))}"
        return problem(403, detail, headers={"WWW-Authenticate": challenge})


def needs(path: str) -> frozenset[Role]:
    """The roles of which a key must have one; none where no key is asked for."""
    if path in PROBES:
        return frozenset()
    if path in PAGES or path.startswith("/docs/"):
        return ANY
    return frozenset({ROLES.get(path, Role.ADMIN)})


@functools.lru_cache(maxsize=64)  # clients repeat themselves, and reading an address costs more than all the rest here
def is_this_machine(host: str) -> bool:
    """Whether a Host header, with or without a port, names the machine itself."""
    name, separator, port = host.rpartition(":")
    if not separator or not port.isdigit():  # no port; the colons of a bare IPv6 address are in brackets
        name = host
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def _unauthenticated(detail: str, error: str) -> ASGIApp:
    # RFC 6750: without credentials the challenge names no error.
    return problem(401, detail, headers={"WWW-Authenticate": f'Bearer realm="ratchet"{error}'})
