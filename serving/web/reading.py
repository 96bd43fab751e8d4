"""What a request says: its body, within bounds, and the time that it claims."""

from collections.abc import Callable
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from serving.service import Service
from serving.web.problems import SIMULATED_TIME, Refused, explain
from serving.web.times import parse_time

MAX_BODY = 8 * 1024 * 1024
NOW_HEADER = "x-ratchet-now"
M = TypeVar("M", bound=BaseModel)


def now_us(request: Request, service: Service) -> int:
    stated = request.headers.get(NOW_HEADER)
    if stated is None:
        # Without the header a simulation's request comes at the simulation's last told time, not in its far future.
        return round(service.now().timestamp() * 1e6)
    if not service.simulated_time:
        detail = 'X-Ratchet-Now is for simulations; this home does not have [home] clock = "request"'
        raise Refused(403, detail, kind=SIMULATED_TIME)
    try:
        return parse_time(stated)
    except ValueError as error:
        raise Refused(422, f"X-Ratchet-Now: {error}") from error


async def body_of(request: Request) -> bytes:
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


def parsed(parse: Callable[[bytes], M], body: bytes) -> M:
    try:
        return parse(body)
    except ValidationError as error:
        invalid = (
            error.errors(include_url=False, include_context=False, include_input=False)[0]["type"] == "json_invalid"
        )
        raise Refused(400 if invalid else 422, explain(error)) from error
