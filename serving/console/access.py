"""Who may ask the console what. Routes and roles are stated in `ROUTES` and nowhere else.

Authentication comes first: every route but the probe, the style sheet and signing in asks for a session. A route that
is not stated here is there for administrators alone; to others it does not exist.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from stores.people import Role

ANY = frozenset(Role)
"""Whoever has signed in."""


@dataclass(frozen=True)
class Route:
    """`path` as FastAPI writes it. `roles`: a person needs one of them; None: asked without a session too.

    `action`: what pages call it, to show a button only to who may press it.
    """

    method: str
    path: str
    roles: frozenset[Role] | None
    action: str
    pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        literal = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(self.path))
        object.__setattr__(self, "pattern", re.compile(literal))


ROUTES = (
    Route("GET", "/healthz", None, "probe"),
    Route("GET", "/static/console.css", None, "style"),
    Route("GET", "/sign-in", None, "sign-in page"),
    Route("POST", "/sign-in", None, "sign in"),
    Route("POST", "/sign-out", ANY, "sign out"),
    Route("GET", "/", ANY, "queue"),
    Route("GET", "/trials", ANY, "trials"),
    Route("GET", "/trials/{trial}", ANY, "trial"),
    Route("GET", "/trials/{trial}/evidence", ANY, "evidence"),
    Route("GET", "/champions", ANY, "champions"),
    Route("GET", "/compare", ANY, "compare"),
    Route("GET", "/data", ANY, "data"),
    Route("GET", "/data/docs/{page}", ANY, "data docs"),
    Route("GET", "/people", frozenset({Role.ADMIN}), "people"),
    Route("POST", "/trials/{trial}/approve", frozenset({Role.APPROVER}), "approve"),
    Route("POST", "/trials/{trial}/reject", frozenset({Role.APPROVER}), "reject"),
    Route("POST", "/trials/{trial}/stop", frozenset({Role.SUBMITTER, Role.APPROVER}), "stop"),
    Route("POST", "/trials/{trial}/kill", ANY, "kill"),
    Route("POST", "/trials/{trial}/code", frozenset({Role.APPROVER}), "code"),
    Route("POST", "/rollback", frozenset({Role.APPROVER, Role.ADMIN}), "rollback"),
    Route("POST", "/rollback/code", frozenset({Role.APPROVER, Role.ADMIN}), "rollback code"),
    Route("GET", "/break-glass", ANY, "break-glass"),
    Route("POST", "/break-glass", frozenset({Role.APPROVER}), "ask"),
    Route("POST", "/break-glass/{number}/end", frozenset({Role.APPROVER}), "end"),
    Route("POST", "/break-glass/{number}/confirm", frozenset({Role.APPROVER}), "confirm"),
)


def route_of(method: str, path: str) -> Route | None:
    """What is stated of a request; None: nothing."""
    return next((route for route in _at(path) if route.method == method), None)


def methods_of(path: str) -> tuple[str, ...]:
    """What may be asked of `path`; none: nothing is there."""
    return tuple(sorted(route.method for route in _at(path)))


def actions_of(roles: Iterable[Role]) -> frozenset[str]:
    """What a person of `roles` may do."""
    held = frozenset(roles)
    return frozenset(route.action for route in ROUTES if route.roles is None or route.roles & held)


def _at(path: str) -> Iterable[Route]:
    return (route for route in ROUTES if route.pattern.fullmatch(path))
