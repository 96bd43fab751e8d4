"""Errors as `application/problem+json` (RFC 9457). A detail never repeats an id: they may be personal.

A problem's `type` is `urn:ratchet:problem:<kind>`: what a client may branch on. Titles and details are for people and
may change.
"""

import json
import math
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import Response
from pydantic import ValidationError

RETRY_SECONDS = 2
MEDIA_TYPE = "application/problem+json"

KINDS = {
    400: "malformed",
    401: "unauthenticated",
    403: "wrong-role",
    404: "not-found",
    405: "wrong-method",
    409: "conflict",
    413: "too-large",
    415: "not-json",
    422: "invalid",
    500: "defect",
    503: "unavailable",
}
"""What a status means where nothing else is stated."""
FOREIGN_HOST = "foreign-host"
SIMULATED_TIME = "simulated-time"
OVERLOADED = "overloaded"


class Refused(Exception):  # noqa: N818 -- the client's mistake, told to the client
    """A request that is answered with `status` and this text."""

    def __init__(self, status: int, detail: str, *, kind: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind


def stated(status: int, detail: str, *, kind: str | None = None) -> dict[str, object]:
    """The members of a problem."""
    named = kind or KINDS.get(status, "other")
    return {
        "type": f"urn:ratchet:problem:{named}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }


def problem(
    status: int,
    detail: str,
    *,
    kind: str | None = None,
    headers: Mapping[str, str] | None = None,
    retry_seconds: float = RETRY_SECONDS,
) -> Response:
    """`retry_seconds` is told with 503, in whole seconds."""
    told = dict(headers or {})
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        told["Retry-After"] = str(max(math.ceil(retry_seconds), 1))
    content = json.dumps(stated(status, detail, kind=kind))
    return Response(content, status_code=status, media_type=MEDIA_TYPE, headers=told)


def explain(error: ValidationError) -> str:
    """`k: Input should be less than or equal to 100; …`, at most five of them."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    told = [": ".join(filter(None, (".".join(map(_place, one["loc"])), one["msg"]))) for one in problems[:5]]
    if len(problems) > 5:
        told.append(f"and {len(problems) - 5} more")
    return "; ".join(told)


def _place(part: int | str) -> str:
    """One step of the way to a value. A name may be the client's own and long: its beginning is enough."""
    return str(part)[:40]
