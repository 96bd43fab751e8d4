"""Signing in and out. Whoever signs in gets a new session; the one that the browser came with ends."""

import logging
import math
import threading
import time

from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse

from relations.errors import UsageError
from serving.console.desk import Desk, own_path, secret_of
from serving.console.refusals import Refused
from stores.sign_in_brake import SignInBrake

AT_ONCE = 2
"""Passwords checked side by side: each takes a processor and tens of megabytes for a moment, on purpose."""
PATIENCE_SECONDS = 5.0
MAX_NAME = 200
MAX_PASSWORD = 1024
_LOG = logging.getLogger(__name__)


def add_signing_in(app: FastAPI, desk: Desk) -> None:
    turns, brake = threading.BoundedSemaphore(AT_ONCE), SignInBrake()

    @app.get("/sign-in")
    def sign_in_page(request: Request) -> Response:
        return desk.sign_in(request, then=request.query_params.get("then", "/"))

    @app.post("/sign-in")
    def sign_in(request: Request) -> Response:
        form = request.state.form
        name, password, then = form.get("name", ""), form.get("password", ""), own_path(form.get("then", "/"))

        def again(refused: Refused) -> Response:
            _LOG.warning("signing in was refused: %s", refused.problem.what)
            return desk.sign_in(request, status=refused.status, problem=refused.problem, name=name, then=then)

        if not name.strip() or len(name) > MAX_NAME or len(password) > MAX_PASSWORD:
            return again(Refused(422, "A name and a password are asked for.", "Fill the form in.", "Not signed in"))
        address = request.client.host if request.client else ""
        if (seconds := brake.wait(name, address=address, at=time.monotonic())) > 0:
            return again(Refused(429, "Somebody tries too often.", f"Wait {math.ceil(seconds)} s, and try again."))
        if not turns.acquire(timeout=PATIENCE_SECONDS):
            return again(Refused(429, "Many people sign in at this moment.", "Try again in a moment."))
        try:
            secret = _opened(desk, name, password)
        except UsageError as error:
            return again(Refused(401, str(error), "Try again, or ask an administrator.", "Not signed in"))
        finally:
            turns.release()
        brake.succeeded(name, address=address)
        if former := desk.cookies.session(request):
            desk.place.ledger.sign_out(former)
        response = RedirectResponse(then, status_code=303)
        desk.cookies.set_session(response, secret)
        desk.cookies.drop_before(response)
        return response

    @app.post("/sign-out")
    def sign_out(request: Request) -> Response:
        desk.place.ledger.sign_out(secret_of(request))
        response = RedirectResponse("/sign-in", status_code=303)
        desk.cookies.drop_session(response)
        return response


def _opened(desk: Desk, name: str, password: str) -> str:
    """A new session's secret."""
    ledger, now = desk.place.ledger, desk.place.wall()
    if desk.place.home.simulation:
        return ledger.open_session(name, now=now)
    return ledger.sign_in(name, password, now=now)
