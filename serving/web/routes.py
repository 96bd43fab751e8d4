"""Routes that read their request and write their answer themselves, which is all of this API's."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import request_response


class PlainRoute(APIRoute):
    """Described as FastAPI's, called as Starlette's: what FastAPI prepares for the dependencies of each request, of
    which there are none here, is a tenth of an answer's time."""

    def __init__(self, path: str, endpoint: Callable[[Request], Awaitable[Response]], **stated: Any) -> None:
        """`endpoint`: takes the request, and nothing else; what its path holds is in `path_params`."""
        super().__init__(path, endpoint, **stated)
        self.app = request_response(endpoint)
