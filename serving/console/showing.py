"""The pages that show: each loads what it shows, and changes nothing."""

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse

from serving.console.desk import Desk
from serving.console.headers import ALONE
from serving.console.pages.champions import champions_view
from serving.console.pages.compare import compare_view
from serving.console.pages.data import data_view, docs_page
from serving.console.pages.people import people_view
from serving.console.pages.queue import queue_view
from serving.console.pages.trial import trial_view
from serving.console.pages.trials import trials_view
from serving.console.refusals import Refused
from tasks.trial_page.markup import document
from tasks.trial_page.page import trial_page


def add_pages(app: FastAPI, desk: Desk) -> None:
    place = desk.place

    @app.get("/")
    def queue(request: Request) -> Response:
        return desk.page(request, "queue.html", **queue_view(place))

    @app.get("/trials")
    def trials(request: Request) -> Response:
        return desk.page(request, "trials.html", **trials_view(place, state=request.query_params.get("state", "")))

    @app.get("/trials/{trial}")
    def trial(request: Request, trial: str) -> Response:
        return desk.page(request, "trial.html", **trial_view(place, trial))

    @app.get("/trials/{trial}/evidence")
    def evidence(trial: str) -> Response:
        # Made from the ledger at each look, so that it shows what an approval would bind to.
        page = document(trial_page(place.ledger.trial(trial), k=place.settings.privacy.k))
        return HTMLResponse(page, headers={"Content-Security-Policy": ALONE})

    @app.get("/champions")
    def champions(request: Request) -> Response:
        return desk.page(request, "champions.html", **champions_view(place))

    @app.get("/compare")
    def compare(request: Request) -> Response:
        asked = request.query_params
        found = compare_view(place, a=_version(asked.get("a", "")), b=_version(asked.get("b", "")))
        return desk.page(request, "compare.html", **found)

    @app.get("/data")
    def data(request: Request) -> Response:
        return desk.page(request, "data.html", **data_view(place))

    @app.get("/data/docs/{page}")
    def docs(page: str) -> Response:
        return HTMLResponse(docs_page(place, page), headers={"Content-Security-Policy": ALONE})

    @app.get("/people")
    def people(request: Request) -> Response:
        return desk.page(request, "people.html", **people_view(place))


def _version(stated: str) -> int | None:
    """None where none was asked for."""
    number = stated.removeprefix("v")
    if not number:
        return None
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        raise Refused(422, "A version is a number.", "Choose two on the page.", "No such version")
    return int(number)
