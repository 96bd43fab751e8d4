"""The review console: where people read the evidence and decide. Pages from the server, no scripts.

Handlers are plain functions, which FastAPI runs in threads: the ledger may be slow. Who may ask what is settled before
them, in `gatekeeper.py`.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from relations.errors import RatchetError, UsageError
from serving.console.chores import Chores
from serving.console.decisions import add_decisions
from serving.console.desk import Desk
from serving.console.gatekeeper import Gatekeeper
from serving.console.glass_steps import add_break_glass
from serving.console.headers import SecurityHeaders
from serving.console.place import Place, wall_clock
from serving.console.reach import Reach
from serving.console.refusals import Refused, refusal_of
from serving.console.rendering import style, style_version
from serving.console.showing import add_pages
from serving.console.signing_in import add_signing_in
from stores.home import Home
from stores.settings import Settings


def create_console(home: Home, settings: Settings, *, wall: Callable[[], datetime] = wall_clock) -> FastAPI:
    """The app on `home`. `wall`: the clock of sessions and codes.

    Raises UsageError where `[console] url` lets a simulation be reached from elsewhere.
    """
    place = Place.of(home, settings, wall=wall)
    desk = Desk(place, Reach.of(home, settings))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        chores = Chores(place)
        chores.start()
        try:
            yield
        finally:
            chores.stop()

    app = FastAPI(
        title="Ratchet", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    app.add_middleware(Gatekeeper, desk=desk)
    app.add_middleware(SecurityHeaders, secure=desk.reach.secure)
    _tell_failures(app, desk)
    add_signing_in(app, desk)
    add_pages(app, desk)
    add_decisions(app, desk)
    add_break_glass(app, desk)

    @app.get("/healthz")
    async def healthz() -> Response:
        return Response('{"status": "ok"}', media_type="application/json")

    @app.get("/static/console.css")
    def style_sheet(v: str = "") -> Response:
        # Its address changes with it; an old address must not keep the new sheet for good.
        kept = {"Cache-Control": "public, max-age=31536000, immutable"} if v == style_version() else None
        return Response(style(), media_type="text/css", headers=kept)

    return app


def _tell_failures(app: FastAPI, desk: Desk) -> None:
    def on_refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return desk.refusal(request, error)

    def on_ratchet(request: Request, error: Exception) -> Response:
        assert isinstance(error, RatchetError)
        if isinstance(error, UsageError):  # a page was asked for whose trial or version there is not
            return desk.refusal(request, Refused(404, str(error), "Begin at the queue."))
        return desk.refusal(request, refusal_of(error))

    def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return desk.refusal(request, Refused(error.status_code, "No page has this address.", "Begin at the queue."))

    app.add_exception_handler(Refused, on_refused)
    app.add_exception_handler(RatchetError, on_ratchet)
    app.add_exception_handler(HTTPException, on_http)
