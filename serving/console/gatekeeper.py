"""What a request meets first: is the host ours, who asks, may they, and does a form come from a page of ours?

All of it is here, before any handler: a handler that forgot one of these questions could not be told from one that did
not. Handlers find `request.state.person`, `.secret` and, with POST, `.form`.
"""

import asyncio
import logging

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relations.errors import RatchetError
from serving.console import csrf
from serving.console.access import Route, methods_of, route_of
from serving.console.desk import Desk
from serving.console.forms import read_form
from serving.console.refusals import Refused, refusal_of
from stores.people import Role

MOST_AT_ONCE = 64
_LOG = logging.getLogger(__name__)


class Gatekeeper:
    """ASGI middleware: a refusal as a page, or the app."""

    def __init__(self, app: ASGIApp, *, desk: Desk) -> None:
        self._app = app
        self._desk = desk
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def tell(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        request = Request(scope, receive)
        self._inside += 1
        try:
            refusal = await self._refusal(request)
            await (refusal or self._app)(scope, receive, tell)
        except Exception as error:
            if started:
                raise
            _LOG.error("a defect", exc_info=error)
            await (await self._defect(request))(scope, receive, tell)
        finally:
            self._inside -= 1

    async def _refusal(self, request: Request) -> Response | None:
        try:
            return await self._checked(request)
        except Refused as refused:
            return await self._page(request, refused)
        except RatchetError as error:
            return await self._page(request, refusal_of(error))

    async def _checked(self, request: Request) -> Response | None:
        """None where the app may answer; raises Refused, or answers with the sign-in page."""
        route = route_of(request.method, request.scope["path"])
        if route is not None and route.action == "probe":
            return None
        if self._inside > MOST_AT_ONCE:
            raise Refused(503, "Too many ask at once.", "Try again in a moment.", "The console is busy")
        host = request.headers.get("host", "")
        if not self._desk.reach.admits(host):
            where = self._desk.place.settings.console.url or "http://127.0.0.1"
            raise Refused(403, "The console does not answer to this name.", f"Go to {where}.", "Not a name of ours")
        if route is not None and route.roles is None:
            secret = self._desk.cookies.before(request)
        else:
            secret = self._desk.cookies.session(request)
            person = None
            if secret:
                ledger, now = self._desk.place.ledger, self._desk.place.wall()
                person = await asyncio.to_thread(ledger.session, secret, now=now)
            if person is None:
                return await self._asked_to_sign_in(request, had=bool(secret))
            request.state.person, request.state.secret = person, secret
            await self._check_role(request, route, person.roles)
        if request.method not in ("GET", "HEAD"):
            await self._read(request, secret)
        return None

    async def _asked_to_sign_in(self, request: Request, *, had: bool) -> Response:
        what = Refused(401, "Your session has ended.", "Sign in, and do it again.", "Sign in").problem if had else None
        then = request.scope["path"] if request.method == "GET" else "/"
        return await asyncio.to_thread(self._desk.sign_in, request, status=401, problem=what, then=then)

    async def _check_role(self, request: Request, route: Route | None, held: frozenset[Role]) -> None:
        if route is None:
            if others := methods_of(request.scope["path"]):
                raise Refused(405, f"Here one can {' or '.join(others)}.", "Use the pages' own links and buttons.")
            if Role.ADMIN not in held:
                raise Refused(404, "No page has this address.", "Begin at the queue.")
        elif route.roles is not None and not held & route.roles:
            needed = sorted(route.roles)
            people = await asyncio.to_thread(self._desk.place.ledger.people)
            having = [p.name for p in people if p.disabled is None and p.roles & route.roles]
            who = f"{', '.join(having)} can." if having else "Nobody has it yet; an administrator can give it."
            raise Refused(403, f"It needs the role {' or '.join(needed)}; you have {', '.join(sorted(held))}.", who)

    async def _read(self, request: Request, secret: str) -> None:
        if not csrf.is_own(request, origin=self._desk.reach.origin(request.headers.get("host", ""))):
            why = "Your browser says that this was not sent from a page of the console."
            raise Refused(403, why, "Open the page here, and do it again.", "Not from a page of ours")
        form = await read_form(request)
        if not csrf.fits(form.get("csrf", ""), secret=secret):
            why = "The form belongs to another session, or to one that has ended."
            raise Refused(403, why, "Open the page again, and do it again.", "Not a form of this session")
        request.state.form = form

    async def _defect(self, request: Request) -> Response:
        refused = Refused(500, "The console's log has the trace.", "Please report it.")
        try:
            return await self._page(request, refused)
        except Exception as error:  # in what pages are made with
            _LOG.error("a defect on the page of a defect", exc_info=error)
            return PlainTextResponse(f"{refused.problem.what}. {refused.problem.why}", status_code=500)

    async def _page(self, request: Request, refused: Refused) -> Response:
        headers = {"Allow": ", ".join(methods_of(request.scope["path"]))} if refused.status == 405 else None
        return await asyncio.to_thread(self._desk.refusal, request, refused, headers=headers)
