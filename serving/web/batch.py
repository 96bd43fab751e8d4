"""Several requests in one: each is checked and answered by itself, with its own exposures, or has its own problem."""

import asyncio
import json
from typing import Any

from pydantic import ValidationError

from serving.choosing.recommendation import Recommender
from serving.web.failures import failure_of
from serving.web.messages import RecommendRequest
from serving.web.problems import Refused, explain


async def answer_each(recommender: Recommender, requests: list[Any], *, now_us: int, started: float) -> bytes:
    """The batch's JSON, in the order of the requests. They wait together, so that a network runs them together."""
    answers = await asyncio.gather(
        *(_answer(recommender, request, now_us=now_us, started=started) for request in requests)
    )
    return b'{"answers":[' + b",".join(answers) + b"]}"


async def _answer(recommender: Recommender, request: Any, *, now_us: int, started: float) -> bytes:
    try:
        try:
            message = RecommendRequest.model_validate(request)
            return await recommender.answer(message, now_us=now_us, started=started)
        except ValidationError as error:
            raise Refused(422, explain(error)) from error
        except ValueError as error:  # a time in the request's history
            raise Refused(422, f"events: {error}") from error
    except Exception as error:  # a defect in one leaves the others their answers; it is logged
        return json.dumps(failure_of(error).members()).encode()
