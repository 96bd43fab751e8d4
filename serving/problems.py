"""Errors as `application/problem+json` (RFC 9457). A detail never repeats a value: ids may be personal."""

import json
from http import HTTPStatus

from fastapi import Response
from pydantic import ValidationError

RETRY_SECONDS = 2


class Refused(Exception):  # noqa: N818 -- the client's mistake, told to the client
    """A request that is answered with `status` and this text."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def problem(status: int, detail: str) -> Response:
    stated = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    headers = {"Retry-After": str(RETRY_SECONDS)} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    return Response(json.dumps(stated), status_code=status, media_type="application/problem+json", headers=headers)


def explain(error: ValidationError) -> str:
    """`k: Input should be less than or equal to 100; …`, at most five of them."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    told = [": ".join(filter(None, (".".join(map(str, one["loc"])), one["msg"]))) for one in problems[:5]]
    if len(problems) > 5:
        told.append(f"and {len(problems) - 5} more")
    return "; ".join(told)
