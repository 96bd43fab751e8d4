"""The API's OpenAPI document: what each route takes and answers, and who may ask."""

from copy import deepcopy
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.web.access import needs
from serving.web.messages import (
    BatchAnswer,
    BatchRequest,
    FeedbackAnswer,
    FeedbackEvent,
    FeedbackRequest,
    Health,
    KillAnswer,
    KillRequest,
    PreferencesAnswer,
    PreferencesQuestion,
    PreferencesRequest,
    Problem,
    Readiness,
    RecommendAnswer,
    RecommendRequest,
)
from serving.web.problems import FOREIGN_HOST, KINDS, MEDIA_TYPE, OVERLOADED, SIMULATED_TIME, stated

MODELS: tuple[type[BaseModel], ...] = (
    RecommendRequest,
    RecommendAnswer,
    BatchRequest,
    BatchAnswer,
    FeedbackRequest,
    FeedbackEvent,
    FeedbackAnswer,
    PreferencesRequest,
    PreferencesQuestion,
    PreferencesAnswer,
    KillRequest,
    KillAnswer,
    Health,
    Readiness,
    Problem,
)
SCHEME = "key"
TAGS = [
    {"name": "recommend", "description": "What to show to a user."},
    {"name": "feedback", "description": "What users did. The next answer knows it."},
    {"name": "users", "description": "What users control: personalisation, hidden items and categories."},
    {"name": "operation", "description": "For those who run the server."},
]
DESCRIPTION = """\
Recommendations that keep learning. Show what `/v1/recommend` answers, and send what users did with it to
`/v1/feedback`, each with its item's token.

Times are ISO 8601 or epoch seconds, UTC. Errors are `application/problem+json`; branch on their `type`.
On 503 wait `Retry-After` seconds, then ask again.
"""

_DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_REQUEST_ID = "5b0e7f3a9c1d4e2f8a6b7c8d9e0f1a2b"
_TOKEN = f"{_REQUEST_ID}:1.1767225600000000.{_DIGEST[:16]}.3q2-7wAAAAAAAAAAAAAAAA"
_EVENT = {"item_id": "lamp-2", "behaviour": "click", "event_time": "2026-01-01T11:58:00Z"}
_WISHES = {"personalised": True, "hidden_items": ["lamp-9"], "hidden_categories": ["garden furniture"]}
_ASKED = {"user_id": "u-881", "k": 2, "surface": "home page"}
_ANSWER = {
    "request_id": _REQUEST_ID,
    "items": [
        {"item_id": "lamp-7", "score": 4.21, "position": 1, "propensity": 0.951, "token": _TOKEN},
        {
            "item_id": "chair-3",
            "score": 3.98,
            "position": 2,
            "propensity": 0.952,
            "token": _TOKEN.replace(":1.", ":2.").replace("3q2", "k9s"),
        },
    ],
    "model": {"version": 3, "digest": _DIGEST, "arm": "champion", "trial": None},
}
EXAMPLES: dict[type[BaseModel], dict[str, dict[str, Any]]] = {
    RecommendRequest: {
        "stored history": {"summary": "By the history that feedback left", "value": _ASKED},
        "stated history": {
            "summary": "By a history of your own, without two items",
            "value": {"user_id": "u-881", "k": 2, "events": [_EVENT], "exclude": ["lamp-9", "sofa-1"]},
        },
        "filters": {
            "summary": "Lamps and chairs up to a price; refused where the catalogue has no such category",
            "value": {**_ASKED, "filters": {"categories": ["lamps", "chairs"], "max_price": 50}},
        },
    },
    RecommendAnswer: {"two items": {"value": _ANSWER}},
    BatchRequest: {
        "two users": {"value": {"requests": [_ASKED, {"user_id": "u-17", "k": 2, "events": []}]}},
    },
    BatchAnswer: {
        "one answer and one problem": {
            "value": {"answers": [_ANSWER, stated(422, "k: Input should be a valid integer")]}
        }
    },
    FeedbackRequest: {
        "organic behaviour": {"value": {"events": [{"user_id": "u-881", **_EVENT}]}},
        "an outcome of what was shown": {
            "value": {
                "events": [
                    {"token": _TOKEN, "user_id": "u-881", "item_id": "lamp-7", "behaviour": "purchase", "value": 39.9}
                ]
            }
        },
    },
    FeedbackAnswer: {
        "one new, one known, one refused": {
            "value": {
                "accepted": 1,
                "duplicate": 1,
                "refused": [{"index": 2, "reason": "the token does not fit this user and item, or was altered"}],
            }
        }
    },
    PreferencesRequest: {
        "two wishes": {
            "summary": "Neither this lamp nor any garden furniture",
            "value": {"user_id": "u-881", **_WISHES},
        },
        "no personalisation": {
            "value": {"user_id": "u-881", "personalised": False, "hidden_items": [], "hidden_categories": []}
        },
    },
    PreferencesQuestion: {"one user": {"value": {"user_id": "u-881"}}},
    PreferencesAnswer: {"two wishes": {"value": {**_WISHES, "set_time": "2026-01-01T12:00:00.000000Z"}}},
    KillRequest: {
        "the open trial": {"value": {"reason": "carts are empty since 14:00"}},
        "a trial by name": {"value": {"trial": "2026-01-02", "reason": "carts are empty since 14:00"}},
    },
    KillAnswer: {
        "done": {
            "value": {"trial": "2026-01-02", "killed": True, "actor": "on-call", "recorded": True, "warning": ""},
        }
    },
    Health: {"alive": {"value": {"status": "ok"}}},
    Readiness: {
        "a champion serves": {
            "value": {
                "ready": True,
                "champion": {"version": 3, "digest": _DIGEST, "epoch": 2},
                "delta": None,
                "trial": None,
                "bake": None,
                "loaded": [_DIGEST],
                "catalogue": {"version": 12, "items": 3416},
                "blocked": 2,
                "pending_rows": 12,
                "problems": [],
            }
        }
    },
}

_REFUSALS: dict[int, tuple[str, dict[str, dict[str, object]]]] = {
    400: (
        "The body is not JSON.",
        {"malformed": stated(400, "Invalid JSON: EOF while parsing a value at line 1 column 0")},
    ),
    401: (
        "No API key, or none that counts.",
        {KINDS[401]: stated(401, "send `Authorization: Bearer rk_…`; keys are made with `ratchet keys add`")},
    ),
    403: (
        "Known, and not allowed.",
        {
            KINDS[403]: stated(403, "this needs the role recommend; key 1f0c9a2e has feedback"),
            FOREIGN_HOST: stated(
                403,
                "without API keys only this machine is answered: use 127.0.0.1 or localhost, or make a key",
                kind=FOREIGN_HOST,
            ),
            SIMULATED_TIME: stated(403, "X-Ratchet-Now is for simulations", kind=SIMULATED_TIME),
        },
    ),
    404: ("There is no such thing.", {KINDS[404]: stated(404, "no trial is open")}),
    405: ("The path has other methods, see `Allow`.", {KINDS[405]: stated(405, "Method Not Allowed")}),
    409: (
        "It is too late for this.",
        {KINDS[409]: stated(409, "trial 2026-01-02: is PROMOTED, its challenger is the champion: `ratchet rollback`")},
    ),
    413: (
        "The body is too large.",
        {KINDS[413]: stated(413, "the body is larger than 8388608 bytes; send fewer events at once")},
    ),
    415: ("The body is not declared as JSON.", {KINDS[415]: stated(415, "send application/json")}),
    422: ("The request breaks the schema.", {KINDS[422]: stated(422, "k: Input should be less than or equal to 100")}),
    500: ("A defect of the server.", {KINDS[500]: stated(500, "a defect in Ratchet; the server's log has the trace")}),
    503: (
        "Not now: overloaded, nothing to serve yet, or something that the server needs fails.",
        {
            KINDS[503]: stated(
                503, "no champion and no popularity list yet; ingest events first: `ratchet ingest FILE`"
            ),
            OVERLOADED: stated(503, "the query waited too long; try again later", kind=OVERLOADED),
        },
    ),
}
_HEADERS: dict[int, tuple[str, str, dict[str, object]]] = {
    401: ("WWW-Authenticate", "How to authenticate (RFC 6750).", {"type": "string"}),
    405: ("Allow", "The methods that the path has.", {"type": "string"}),
    503: ("Retry-After", "Seconds to wait.", {"type": "integer", "minimum": 1}),
}
ALWAYS = (401, 403, 405, 500)
OF_BODIES = (400, 413, 415, 422, 503)


def documented(
    summary: str,
    *,
    tag: str,
    answer: type[BaseModel] | None = None,
    request: type[BaseModel] | None = None,
    unready: bool = False,
    refusals: tuple[int, ...] = (),
    description: str = "",
) -> dict[str, Any]:
    """OpenAPI for a route that reads its body and writes its answer itself: FastAPI's reading costs a third of the
    throughput. `answer` None: plain text. `unready`: answers the same with 503. `refusals`: further statuses.
    """
    also = (*OF_BODIES, *refusals) if request else refusals
    responses: dict[str, Any] = {"200": {"description": "Done.", "content": _content(answer)}}
    for status in sorted((*ALWAYS, *also)):
        responses[str(status)] = {"$ref": f"#/components/responses/{status}"}
    if unready:
        responses["503"] = {"description": "There is nothing to recommend yet.", "content": _content(answer)}
    described: dict[str, Any] = {"description": description, "responses": responses}
    if request:
        described["requestBody"] = {"required": True, "content": _content(request)}
    return {"summary": summary, "tags": [tag], "openapi_extra": described}


def describe(app: FastAPI, *, closed: bool) -> dict[str, Any]:
    """The document; `closed`: keys are asked for."""
    if app.openapi_schema is None:
        app.openapi_schema = _describe(app)
    if closed:
        return app.openapi_schema
    opened = deepcopy(app.openapi_schema)
    for path in opened["paths"].values():
        for operation in path.values():
            operation["security"] = []
    return opened


def _describe(app: FastAPI) -> dict[str, Any]:
    # Not FastAPI's own: that one drops every null, of the examples too, and describes what it did not read.
    _, definitions = models_json_schema(
        [(model, "validation") for model in MODELS], ref_template="#/components/schemas/{model}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for route in app.routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            operation = {"operationId": route.name, "summary": route.summary, "tags": route.tags}
            security = [{SCHEME: [role]} for role in sorted(needs(route.path))]
            for method in sorted(route.methods or ()):
                described = operation | {"security": security} | (route.openapi_extra or {})
                paths.setdefault(route.path, {})[method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {"title": app.title, "version": app.version, "description": DESCRIPTION},
        "tags": TAGS,
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "responses": {str(status): _refusal(status) for status in _REFUSALS},
            "securitySchemes": {
                SCHEME: {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "rk_<id>_<secret>",
                    "description": "An API key, made with `ratchet keys add`. A server without keys asks for none.",
                }
            },
        },
    }


def _refusal(status: int) -> dict[str, Any]:
    description, examples = _REFUSALS[status]
    schema = {"$ref": f"#/components/schemas/{Problem.__name__}"}
    told = {name: {"value": value} for name, value in examples.items()}
    refusal: dict[str, Any] = {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": schema, "examples": told}},
    }
    if status in _HEADERS:
        name, text, kind = _HEADERS[status]
        refusal["headers"] = {name: {"description": text, "required": True, "schema": kind}}
    return refusal


def _content(model: type[BaseModel] | None) -> dict[str, Any]:
    if model is None:
        return {"text/plain": {"schema": {"type": "string"}, "example": "ratchet_ready 1.0\n"}}
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"application/json": {"schema": schema, "examples": EXAMPLES[model]}}
