"""The recommend API over HTTP.

One process, one event loop; networks run in the batcher's threads. What may wait (the ledger, loading a model, writing
the user state) runs in threads too.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response

from relations.errors import RatchetError
from serving.choosing.snapshots import LedgerView
from serving.service import Service
from serving.web.access import Access
from serving.web.admin import add_admin
from serving.web.admission import Admission
from serving.web.batch import answer_each
from serving.web.failures import tell_failures
from serving.web.messages import (
    BatchAnswer,
    BatchRequest,
    FeedbackAnswer,
    FeedbackRequest,
    Health,
    Readiness,
    RecommendAnswer,
    RecommendRequest,
)
from serving.web.metrics import CONTENT_TYPE
from serving.web.openapi import describe, documented
from serving.web.pages import add_pages
from serving.web.preferences import add_preferences
from serving.web.problems import Refused
from serving.web.reading import body_of, now_us, parsed
from serving.web.routes import PlainRoute
from serving.web.watching import RequestWatch
from stores.home import Home
from stores.ledger import Ledger
from stores.settings import Settings

_PROBE = "For a supervisor's probes: needs no key."


def create_app(home: Home, settings: Settings, *, ledger: LedgerView | None = None, open_pages: bool = True) -> FastAPI:
    """The app on `home`; nothing is opened before it starts. `ledger`: in place of the one that the settings name.

    `open_pages`: /docs and /openapi.json need no key.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            service = Service(home, settings, ledger=ledger or Ledger.of(home, settings))
            app.state.service = service
            service.kills.look()
            await asyncio.to_thread(service.watcher.refresh)
        except RatchetError as error:
            app.state.failure = error  # the server reports a failed start, not its reason
            raise
        tasks = [
            asyncio.create_task(service.watch(settings.serving.poll_seconds)),
            asyncio.create_task(service.watch_kills(settings.serving.poll_seconds)),
            asyncio.create_task(service.watch_blocklist(settings.serving.poll_seconds)),
            asyncio.create_task(service.hand_over(min(settings.serving.flush_seconds / 4, 0.5))),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            service.close()
            await service.user_state.aclose()

    # FastAPI's own /docs loads its scripts from elsewhere.
    app = FastAPI(
        title="Ratchet", version="1", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.router.route_class = PlainRoute
    app.openapi = lambda: describe(app, closed=not app.state.service.ring.open)  # type: ignore[method-assign]
    app.add_middleware(Access, ring=lambda: app.state.service.ring, open_pages=open_pages)
    app.add_middleware(Admission, headroom=lambda: app.state.service.headroom)
    app.add_middleware(RequestWatch)  # the outermost, so that it sees refusals too
    tell_failures(app)

    @app.post(
        "/v1/recommend",
        **documented(
            "Recommend items to a user",
            tag="recommend",
            request=RecommendRequest,
            answer=RecommendAnswer,
            description="What is answered counts as shown: it is logged, with the probability of each choice.",
        ),
    )
    async def recommend(request: Request) -> Response:
        started = time.perf_counter()
        service: Service = app.state.service
        at_us = now_us(request, service)
        message = parsed(RecommendRequest.model_validate_json, await body_of(request))
        try:
            answer = await service.recommender.answer(message, now_us=at_us, started=started)
        except ValueError as error:  # a time in the request's history
            raise Refused(422, f"events: {error}") from error
        return Response(answer, media_type="application/json")

    @app.post(
        "/v1/recommend/batch",
        **documented(
            "Recommend items to many users",
            tag="recommend",
            request=BatchRequest,
            answer=BatchAnswer,
            description="Each request has its own answer, or its own problem, in their order.",
        ),
    )
    async def recommend_batch(request: Request) -> Response:
        started = time.perf_counter()
        service: Service = app.state.service
        at_us = now_us(request, service)
        message = parsed(BatchRequest.model_validate_json, await body_of(request))
        answers = await answer_each(service.recommender, message.requests, now_us=at_us, started=started)
        return Response(answers, media_type="application/json")

    @app.post(
        "/v1/feedback",
        **documented(
            "Report what users did",
            tag="feedback",
            request=FeedbackRequest,
            answer=FeedbackAnswer,
            description="Each event is judged by itself. Sent again, it counts once. With an item's token it "
            "is an outcome of what was shown, without one behaviour of its own.",
        ),
    )
    async def feedback(request: Request) -> Response:
        service: Service = app.state.service
        at_us = now_us(request, service)
        message = parsed(FeedbackRequest.model_validate_json, await body_of(request))
        verdict = await service.desk.receive(message, now_us=at_us)
        refused = [{"index": index, "reason": reason} for index, reason in verdict.refused]
        service.metrics.feedback(accepted=len(verdict.fresh), duplicate=verdict.duplicate, refused=len(refused))
        stated = {"accepted": len(verdict.fresh), "duplicate": verdict.duplicate, "refused": refused}
        return Response(json.dumps(stated), media_type="application/json")

    @app.get("/healthz", **documented("The process runs", tag="operation", answer=Health, description=_PROBE))
    async def healthz(_request: Request) -> Response:
        return Response('{"status": "ok"}', media_type="application/json")

    @app.get(
        "/readyz", **documented("What serves now", tag="operation", answer=Readiness, unready=True, description=_PROBE)
    )
    async def readyz(_request: Request) -> Response:
        state = app.state.service.state()
        return Response(json.dumps(state), status_code=200 if state["ready"] else 503, media_type="application/json")

    @app.get("/metrics", **documented("Figures of this process for Prometheus", tag="operation"))
    async def metrics(_request: Request) -> Response:
        # In a thread: it reads a file, which may lie on a slow volume.
        return Response(await asyncio.to_thread(app.state.service.metrics.text), media_type=CONTENT_TYPE)

    add_preferences(app)
    add_admin(app, home, settings)
    add_pages(app)
    return app
