"""What goes wrong while a request is answered, as a problem."""

import logging
from dataclasses import dataclass

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from relations.errors import DependencyFailed
from serving.networks.batching import Overloaded
from serving.web.problems import OVERLOADED, RETRY_SECONDS, Refused, problem, stated

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    status: int
    detail: str
    kind: str | None = None
    retry_seconds: float = RETRY_SECONDS

    def members(self) -> dict[str, object]:
        return stated(self.status, self.detail, kind=self.kind)

    def response(self) -> Response:
        return problem(self.status, self.detail, kind=self.kind, retry_seconds=self.retry_seconds)


def failure_of(error: Exception) -> Failure:
    """How to tell the client. What is the server's own fault is logged here."""
    if isinstance(error, Refused):
        return Failure(error.status, str(error), error.kind)
    if isinstance(error, Overloaded):
        return Failure(503, str(error), OVERLOADED, error.retry_seconds)
    if isinstance(error, DependencyFailed):
        _LOG.warning("%s", error)
        return Failure(503, str(error))
    _LOG.error("a defect", exc_info=error)
    return Failure(500, "a defect in Ratchet; the server's log has the trace")


def tell_failures(app: FastAPI) -> None:
    """Make every failure of a request of `app` a problem, those that the framework finds too."""
    app.add_exception_handler(HTTPException, _on_http)
    for kind in (Refused, DependencyFailed, Exception):
        app.add_exception_handler(kind, _on_failure)


async def _on_failure(_request: Request, error: Exception) -> Response:
    return failure_of(error).response()


async def _on_http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail), headers=error.headers)  # 405 names what is allowed
