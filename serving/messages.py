"""The API's bodies. Requests are checked against these; answers are written by hand for speed and tested so."""

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat

from serving.histories import Past
from serving.times import parse_time

# Long enough for any real id, short enough that nobody fills the disk through one.
Id = Annotated[str, Field(min_length=1, max_length=512)]
Time = Annotated[str, Field(max_length=64)] | FiniteFloat
"""ISO 8601, or epoch seconds."""

MAX_K = 100
MAX_EVENTS = 10_000
MAX_CONTEXT = 4_096
MAX_ATTRIBUTES = 100

# `view` … as in the events table; the table's module needs pyarrow, which serving does without.
BEHAVIOURS = frozenset({"view", "click", "favourite", "cart", "purchase", "rating", "dwell", "share", "dislike"})


def _short_json(context: dict[str, Any]) -> dict[str, Any]:
    if len(json.dumps(context, allow_nan=False)) > MAX_CONTEXT:
        raise ValueError(f"more than {MAX_CONTEXT} characters of JSON")
    return context


Told = Annotated[
    dict[Id, Annotated[str, Field(max_length=512)] | bool | int | FiniteFloat | None], Field(max_length=MAX_ATTRIBUTES)
]
"""What is said of a user or an event, by name."""


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class HistoryEvent(Message):
    item_id: Id
    behaviour: Id
    event_time: Time
    value: FiniteFloat | None = None
    context: Told = {}
    """Device, locale, hour …, as far as the model was trained on any."""


class RecommendRequest(Message):
    user_id: Id
    k: Annotated[int, Field(ge=1, le=MAX_K)] = 10
    events: Annotated[list[HistoryEvent], Field(max_length=MAX_EVENTS)] | None = None
    """Stand for the user's newest history; without them the stored one is used."""
    attributes: Told = {}
    """Of the user, now. Names that no model here was trained on are refused, while any model was trained on some."""
    exclude: Annotated[list[Id], Field(max_length=MAX_EVENTS)] = []
    surface: Id = "default"
    context: Annotated[dict[str, Any], AfterValidator(_short_json)] | None = None
    """Kept with the exposures as JSON, at most 4,096 characters. No personal data belongs here."""

    def history(self) -> list[Past] | None:
        """Oldest first, equal times in the order given. Raises ValueError for a bad time."""
        if self.events is None:
            return None
        told = [
            Past(event.item_id, event.behaviour, parse_time(event.event_time), event.context) for event in self.events
        ]
        return sorted(told, key=lambda past: past.time_us)


class FeedbackEvent(Message):
    token: Annotated[str, Field(max_length=512)] | None = None
    """With a token the event is an outcome of that exposure, without one organic behaviour."""
    event_id: Id | None = None
    user_id: Id
    item_id: Id
    behaviour: str
    value: FiniteFloat | None = None
    event_time: Time | None = None


class FeedbackRequest(Message):
    """Events are checked one by one, so that a bad one does not refuse the others."""

    events: Annotated[
        list[Any],
        Field(max_length=MAX_EVENTS, json_schema_extra={"items": {"$ref": "#/components/schemas/FeedbackEvent"}}),
    ]


class RecommendedItem(Message):
    item_id: str
    score: float
    position: int
    propensity: float
    token: str


class ServedModel(Message):
    version: int
    digest: str
    arm: str
    trial: str | None


class RecommendAnswer(Message):
    request_id: str
    items: list[RecommendedItem]
    model: ServedModel


class Refusal(Message):
    index: int
    reason: str


class FeedbackAnswer(Message):
    accepted: int
    duplicate: int
    refused: list[Refusal]


class Problem(Message):
    """RFC 9457, `application/problem+json`."""

    type: str
    title: str
    status: int
    detail: str
