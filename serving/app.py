"""The recommend API over HTTP.

One process, one event loop. A request runs from its parsed body to its answer without yielding, so that nothing changes
under it; what may wait (the ledger, loading a model, writing the user state) runs in threads.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from relations.errors import DependencyFailed, RatchetError
from serving.feedback import FeedbackDesk
from serving.messages import (
    FeedbackAnswer,
    FeedbackEvent,
    FeedbackRequest,
    Problem,
    RecommendAnswer,
    RecommendRequest,
)
from serving.problems import Refused, explain, problem
from serving.recommendation import Recommender
from serving.snapshots import LedgerView, Watcher
from serving.times import parse_time
from serving.tokens import Tokens
from stores.clock import home_now
from stores.home import Home
from stores.landing_log import LandingLog
from stores.ledger import Ledger
from stores.pseudonyms import Keys, newest_version
from stores.settings import Settings
from stores.user_state import UserState

MAX_BODY = 8 * 1024 * 1024
NOW_HEADER = "x-ratchet-now"
M = TypeVar("M", bound=BaseModel)
_LOG = logging.getLogger(__name__)


class Service:
    """All that a running app holds. Raises DependencyFailed where the home's files cannot be opened."""

    def __init__(self, home: Home, settings: Settings, *, ledger: LedgerView) -> None:
        serving = settings.serving
        self._key_folder = home.keys
        keys = Keys.load(home.keys)
        tokens = Tokens(keys.token, days=serving.token_days)
        self.user_state = UserState(home.user_state)
        self.logs = [
            LandingLog(home.landing / kind, flush_seconds=serving.flush_seconds, flush_rows=serving.flush_rows)
            for kind in ("exposures", "feedback")
        ]
        self.watcher = Watcher(
            ledger,
            releases=home.releases,
            popularity_list=home.popularity,
            device=serving.device,
            threads=serving.threads,
            retry_seconds=20 * serving.poll_seconds,
            now=partial(home_now, home, settings),
        )
        self.simulated_time = settings.home.clock == "request"
        self.now = partial(home_now, home, settings)
        self.recommender = Recommender(
            keys=keys,
            tokens=tokens,
            policy=settings.policy,
            watcher=self.watcher,
            user_state=self.user_state,
            log=self.logs[0],
            repeatable_ids=self.simulated_time,
        )
        self.desk = FeedbackDesk(
            keys=keys,
            tokens=tokens,
            user_state=self.user_state,
            log=self.logs[1],
            max_skew_minutes=settings.lake.max_skew_minutes,
        )

    async def watch(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await asyncio.to_thread(self.watcher.refresh)
            except Exception:  # the next look may succeed; without this the watch would end for good
                _LOG.exception("looking at the ledger failed")
            try:
                await self._follow_keys()
            except RatchetError as error:
                _LOG.warning("%s", error)

    async def _follow_keys(self) -> None:
        """Take a rotated key into use, and give the users' state of older keys their new pseudonyms.

        The second at every look: a request that had begun under the old key may have written since.
        """
        keys = self.desk.keys
        if await asyncio.to_thread(newest_version, self._key_folder) > keys.version:
            keys = await asyncio.to_thread(Keys.load, self._key_folder)
            self.desk.keys = self.recommender.keys = keys  # between two requests: none sees both
            _LOG.info("pseudonyms are of key version %d from now on", keys.version)
        if keys.version > 1:
            await asyncio.to_thread(self.user_state.rename, keys.prefix, keys.lift_all)

    async def hand_over(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            for log in self.logs:
                try:
                    log.hand_over_if_due()
                except DependencyFailed as error:
                    _LOG.warning("%s", error)

    def close(self) -> None:
        for log in self.logs:
            try:
                log.hand_over()
            except DependencyFailed as error:  # the rows stay in their .part file for the next start
                _LOG.warning("%s", error)
        self.user_state.close()

    def state(self) -> dict[str, Any]:
        """What /readyz answers."""
        snapshot = self.watcher.current
        champion, trial, delta = snapshot.champion, snapshot.state.trial, snapshot.delta
        return {
            "ready": snapshot.answers,
            "champion": champion and {"version": champion.version, "digest": champion.digest, "epoch": champion.epoch},
            "delta": delta
            and {
                "sequence": delta.sequence,
                "base_digest": delta.base_digest,
                "standing": delta.standing,
                "expires": delta.expires.isoformat(),
            },
            "trial": trial
            and {
                "id": trial.id,
                "challenger_version": trial.challenger_version,
                "challenger_digest": trial.challenger_digest,
                "champion_epoch": trial.champion_epoch,
                "allocation": trial.allocation,
                "loaded": snapshot.challenger is not None,
            },
            "loaded": self.watcher.digests,
            "pending_rows": sum(log.pending for log in self.logs),  # written, not yet in the landing folder
            "problems": list(snapshot.problems),
        }


def create_app(home: Home, settings: Settings, *, ledger: LedgerView | None = None) -> FastAPI:
    """The app on `home`; nothing is opened before it starts. `ledger`: in place of the one that the settings name."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            service = Service(home, settings, ledger=ledger or Ledger.of(home, settings))
            app.state.service = service
            await asyncio.to_thread(service.watcher.refresh)
        except RatchetError as error:
            app.state.failure = error  # the server reports a failed start, not its reason
            raise
        tasks = [
            asyncio.create_task(service.watch(settings.serving.poll_seconds)),
            asyncio.create_task(service.hand_over(min(settings.serving.flush_seconds / 4, 0.5))),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            service.close()

    # No /docs page: it loads its scripts from elsewhere.
    app = FastAPI(title="Ratchet", version="1", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    app.add_exception_handler(Refused, _on_refused)
    app.add_exception_handler(DependencyFailed, _on_dependency)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)

    @app.post("/v1/recommend", **_documented(RecommendRequest, RecommendAnswer, "Recommend items to a user"))
    async def recommend(request: Request) -> Response:
        started = time.perf_counter()
        service: Service = app.state.service
        now_us = _now_us(request, service)
        message = _parsed(RecommendRequest.model_validate_json, await _body(request))
        try:
            answer = service.recommender.answer(message, now_us=now_us, started=started)
        except ValueError as error:  # a time in the request's history
            raise Refused(422, f"events: {error}") from error
        return Response(answer, media_type="application/json")

    @app.post("/v1/feedback", **_documented(FeedbackRequest, FeedbackAnswer, "Report what users did"))
    async def feedback(request: Request) -> Response:
        service: Service = app.state.service
        now_us = _now_us(request, service)
        message = _parsed(FeedbackRequest.model_validate_json, await _body(request))
        verdict = service.desk.receive(message, now_us=now_us)
        if verdict.fresh:  # in a thread: ingest, another process, may hold the write lock for a moment
            await asyncio.to_thread(service.desk.absorb, verdict.fresh)
        refused = [{"index": index, "reason": reason} for index, reason in verdict.refused]
        stated = {"accepted": len(verdict.fresh), "duplicate": verdict.duplicate, "refused": refused}
        return Response(json.dumps(stated), media_type="application/json")

    @app.get("/healthz", summary="The process runs")
    async def healthz() -> Response:
        return Response('{"status": "ok"}', media_type="application/json")

    @app.get("/readyz", summary="What serves now; 503 while there is nothing to recommend")
    async def readyz() -> Response:
        state = app.state.service.state()
        return Response(json.dumps(state), status_code=200 if state["ready"] else 503, media_type="application/json")

    return app


def _now_us(request: Request, service: Service) -> int:
    stated = request.headers.get(NOW_HEADER)
    if stated is None:
        # Without the header a simulation's request comes at the simulation's last told time, not in its far future.
        return round(service.now().timestamp() * 1e6)
    if not service.simulated_time:
        raise Refused(403, 'X-Ratchet-Now is for simulations; this home does not have [home] clock = "request"')
    try:
        return parse_time(stated)
    except ValueError as error:
        raise Refused(422, f"X-Ratchet-Now: {error}") from error


async def _body(request: Request) -> bytes:
    # A browser may send text/plain to a loopback address from any page without asking; JSON it must ask for.
    if not request.headers.get("content-type", "").lower().startswith("application/json"):
        raise Refused(415, "send application/json")
    length = request.headers.get("content-length", "0")
    received = bytearray()
    if not (length.isdigit() and int(length) > MAX_BODY):
        async for chunk in request.stream():
            received += chunk
            if len(received) > MAX_BODY:
                break
        else:
            return bytes(received)
    raise Refused(413, f"the body is larger than {MAX_BODY} bytes; send fewer events at once")


def _parsed(parse: Callable[[bytes], M], body: bytes) -> M:
    try:
        return parse(body)
    except ValidationError as error:
        invalid = (
            error.errors(include_url=False, include_context=False, include_input=False)[0]["type"] == "json_invalid"
        )
        raise Refused(400 if invalid else 422, explain(error)) from error


async def _on_refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return problem(error.status, str(error))


async def _on_dependency(_request: Request, error: Exception) -> Response:
    _LOG.warning("%s", error)
    return problem(503, str(error))


async def _on_http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail))


async def _on_bug(_request: Request, _error: Exception) -> Response:
    return problem(500, "a defect in Ratchet; the server's log has the trace")


def _documented(request: type[BaseModel], answer: type[BaseModel], summary: str) -> dict[str, Any]:
    """OpenAPI for a route that reads its body itself: FastAPI's own reading costs a third of the throughput."""

    def content(model: type[BaseModel], kind: str = "application/json") -> dict[str, Any]:
        return {"content": {kind: {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}}

    failure = {"description": "What was wrong", **content(Problem, "application/problem+json")}
    return {
        "summary": summary,
        "openapi_extra": {"requestBody": {"required": True, **content(request)}},
        "responses": {200: {"description": "Done", **content(answer)}, **dict.fromkeys((400, 403, 422, 503), failure)},
    }


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
        models = (RecommendRequest, RecommendAnswer, FeedbackRequest, FeedbackEvent, FeedbackAnswer, Problem)
        _, definitions = models_json_schema(
            [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
        )
        schema.setdefault("components", {})["schemas"] = definitions["$defs"]
        app.openapi_schema = schema
    return app.openapi_schema
