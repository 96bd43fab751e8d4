"""What every handler needs: the place, the cookies, and a way to answer with a page."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from relations.errors import DependencyFailed
from serving.console import csrf
from serving.console.access import route_of
from serving.console.cookies import Cookies
from serving.console.place import Place
from serving.console.reach import Reach
from serving.console.refusals import Refused
from serving.console.rendering import Frame, Problem, render
from stores.people import Person
from tasks.asking import ask_servers

RETRY_SECONDS = 5


@dataclass(frozen=True)
class Desk:
    place: Place
    reach: Reach

    @property
    def cookies(self) -> Cookies:
        return Cookies(self.reach.secure)

    def page(
        self,
        request: Request,
        template: str,
        *,
        status: int = 200,
        problem: Problem | None = None,
        typed: Mapping[str, str] | None = None,
        **content: Any,
    ) -> Response:
        """A page for who has signed in; the last step's message is told on the first one that is no refusal."""
        secret, message = secret_of(request), ""
        if problem is None:
            message = self.cookies.message(request, secret=secret)
        frame = Frame(
            person=person_of(request),
            csrf=csrf.token_of(secret),
            path=request.scope["path"],
            simulation=self.place.home.simulation,
            now=self.place.now(),
            message=message,
            problem=problem,
            typed=typed or {},
        )
        response = HTMLResponse(render(template, frame=frame, **content), status_code=status)
        if message:
            self.cookies.drop_message(response)
        return response

    def done(self, request: Request, then: str, message: str) -> Response:
        """What a step that was taken is answered with. `then`: a path of ours."""
        response = RedirectResponse(then, status_code=303)
        self.cookies.say(response, message, secret=secret_of(request))
        return response

    def refusal(self, request: Request, refused: Refused, *, headers: Mapping[str, str] | None = None) -> Response:
        """A page of the refusal alone. May wait for the disk and for servers: call it in a thread."""
        details = self._night(refused) if refused.status == 503 else []
        response = self.page(
            request,
            "problem.html",
            status=refused.status,
            problem=refused.problem,
            details=details,
        )
        response.headers.update(_of_status(refused.status) | dict(headers or {}))
        return response

    def sign_in(
        self, request: Request, *, status: int = 200, problem: Problem | None = None, name: str = "", then: str = "/"
    ) -> Response:
        """The page that asks who is there. `then`: where a person wanted to go."""
        anybody = self.place.home.simulation or any(p.disabled is None for p in self.place.ledger.people())
        secret = self.cookies.before(request) or csrf.new_secret()
        frame = Frame(
            person=None,
            csrf=csrf.token_of(secret),
            path="/sign-in",
            simulation=self.place.home.simulation,
            problem=problem,
            typed={"name": name},
        )
        page = render("sign_in.html", frame=frame, anybody=anybody, then=own_path(then), root=self.place.home.root)
        response = HTMLResponse(page, status_code=status, headers=_of_status(status))
        self.cookies.set_before(response, secret)
        return response

    def _night(self, refused: Refused) -> list[str]:
        """What somebody at 3 a.m. can do without the ledger."""
        told = [
            "What serves goes on serving: servers keep the champion that they saw last.",
            "A challenger is taken off all users without the ledger by "
            "`ratchet trial kill TRIAL --as NAME --reason TEXT` on a server's machine.",
        ]
        try:
            states = ask_servers(self.place.home)
        except (OSError, DependencyFailed):
            states = ()
        for state in states:
            champion = state.get("champion")
            version = champion.get("version") if isinstance(champion, dict) else None
            if version is not None:
                told.append(f"A server on this machine answers and serves version {version}.")
            else:
                told.append("A server on this machine runs; it does not say what it serves.")
        return told if states else [*told, "No server runs on this machine; others may run elsewhere."]


def _of_status(status: int) -> dict[str, str]:
    if status == 401:
        return {"WWW-Authenticate": 'Cookie realm="ratchet", form-action="/sign-in"'}
    return {"Retry-After": str(RETRY_SECONDS)} if status in (429, 503) else {}


def own_path(stated: str) -> str:
    """`stated` where it is a page of ours that a person can be sent to, else the queue: never another site."""
    route = route_of("GET", stated)
    return stated if route is not None and route.roles is not None and stated.isprintable() else "/"


def person_of(request: Request) -> Person | None:
    """Who has signed in."""
    found: Person | None = getattr(request.state, "person", None)
    return found


def secret_of(request: Request) -> str:
    """Of the session; empty where nobody has signed in."""
    return str(getattr(request.state, "secret", ""))
