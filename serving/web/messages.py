"""The API's bodies. Requests are checked against these; answers are written by hand for speed and tested so."""

import json
from operator import itemgetter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat

from serving.networks.histories import History
from serving.web.times import parse_time

# Long enough for any real id, short enough that nobody fills the disk through one.
Id = Annotated[str, Field(min_length=1, max_length=512)]
# What the API's description says of times. `parse_time` is what judges them, and it takes other forms of ISO 8601 too.
_DATE_TIME = (
    r"^(19[7-9]\d|[2-8]\d{3})-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)"
    r"|02-(0[1-9]|1\d|2[0-8]))T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)?$"
)
_END_SECONDS = 253_370_764_800  # the year 9999
Time = (
    Annotated[str, Field(max_length=64, json_schema_extra={"pattern": _DATE_TIME})]
    | Annotated[FiniteFloat, Field(json_schema_extra={"minimum": 0, "exclusiveMaximum": _END_SECONDS})]
)
"""ISO 8601 (without an offset: UTC), or epoch seconds."""

MAX_K = 100
MAX_EVENTS = 10_000
MAX_CONTEXT = 4_096
MAX_ATTRIBUTES = 100
MAX_CATEGORIES = 100
MAX_BATCH = 64
MAX_HIDDEN = 1_000

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


def _whole(stated: Any) -> Any:
    """JSON has one kind of number: 10.0 is the integer 10."""
    return int(stated) if isinstance(stated, float) and stated.is_integer() else stated


def _judged_one_by_one(model: str) -> dict[str, Any]:
    anything = {"title": "Anything else", "description": "Is refused with its reason; the others still count."}
    return {"anyOf": [{"$ref": f"#/components/schemas/{model}"}, anything]}


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class HistoryEvent(Message):
    item_id: Id
    behaviour: Id
    event_time: Time
    value: FiniteFloat | None = None
    context: Told = {}
    """Device, locale, hour …, as far as the model was trained on any."""


class Filters(Message):
    """Which items may be shown; what is not stated filters nothing. All that is stated must hold.

    A category that no item of the catalogue has is refused: a mistyped one would show nothing, or too much. Filters
    that leave fewer than `k` items give fewer, none where none is left.
    """

    categories: Annotated[list[Id], Field(min_length=1, max_length=MAX_CATEGORIES)] | None = None
    """Items with at least one of these."""
    without_categories: Annotated[list[Id], Field(min_length=1, max_length=MAX_CATEGORIES)] | None = None
    """Items with none of these."""
    items: Annotated[list[Id], Field(min_length=1, max_length=MAX_EVENTS)] | None = None
    """Only these items, as far as they are known; nothing else is ranked."""
    min_price: FiniteFloat | None = None
    """Items of this price and dearer; one without a price is left out. In the catalogue's currency."""
    max_price: FiniteFloat | None = None
    """Items of this price and cheaper; one without a price is left out."""


class RecommendRequest(Message):
    user_id: Id
    k: Annotated[int, Field(ge=1, le=MAX_K), BeforeValidator(_whole)] = 10
    events: Annotated[list[HistoryEvent], Field(max_length=MAX_EVENTS)] | None = None
    """Stand for the user's newest history; without them the stored one is used."""
    attributes: Told = {}
    """Of the user, now. Names that no model here was trained on are refused, while any model was trained on some."""
    exclude: Annotated[list[Id], Field(max_length=MAX_EVENTS)] = []
    filters: Filters | None = None
    surface: Id = "default"
    context: Annotated[dict[str, Any], AfterValidator(_short_json)] | None = None
    """Kept with the exposures as JSON, at most 4,096 characters. No personal data belongs here."""

    def history(self) -> History | None:
        """Oldest first, equal times in the order given. Raises ValueError for a bad time."""
        if self.events is None:
            return None
        told = sorted(((parse_time(event.event_time), event) for event in self.events), key=itemgetter(0))
        return History(
            [event.item_id for _, event in told],
            [event.behaviour for _, event in told],
            [time_us for time_us, _ in told],
            [event.context for _, event in told],
        )


class BatchRequest(Message):
    """Requests are checked and answered one by one, so that a bad one does not refuse the others."""

    requests: Annotated[
        list[Any], Field(max_length=MAX_BATCH, json_schema_extra={"items": _judged_one_by_one("RecommendRequest")})
    ]


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
        Field(max_length=MAX_EVENTS, json_schema_extra={"items": _judged_one_by_one("FeedbackEvent")}),
    ]


class PreferencesRequest(Message):
    """All that a user controls; what was set before is replaced whole. Holds from the next request on."""

    user_id: Id
    personalised: bool
    """False: nothing that the user did or is decides what they are shown; they get what a newcomer gets."""
    hidden_items: Annotated[list[Id], Field(max_length=MAX_HIDDEN)]
    """Never shown to this user."""
    hidden_categories: Annotated[list[Id], Field(max_length=MAX_CATEGORIES)]
    """Items with any of these are never shown to this user. One that no item has hides nothing."""


class PreferencesQuestion(Message):
    user_id: Id


class PreferencesAnswer(Message):
    personalised: bool
    hidden_items: list[str]
    hidden_categories: list[str]
    set_time: str | None
    """When they were set; null: never."""


class RecommendedItem(Message):
    item_id: str
    score: float
    """Comparable within one answer only; 1/rank where popularity chose."""
    position: int
    """From 1."""
    propensity: float
    """Probability with which this item was put in this position, given those above it."""
    token: str
    """Goes into the feedback on this item: proof that it was shown to this user."""


class ServedModel(Message):
    version: int
    """0 where no model answered."""
    digest: str
    """Of the release that answered; `popularity` where none did."""
    arm: str
    trial: str | None


class RecommendAnswer(Message):
    request_id: str
    items: list[RecommendedItem]
    """At most `k`, best first; fewer where fewer are left."""
    model: ServedModel


class KillRequest(Message):
    trial: Id | None = None
    """Left out: the open one."""
    reason: Annotated[str, Field(min_length=1, max_length=1_000, pattern=r"\S")]
    """Kept in the ledger for good."""


class KillAnswer(Message):
    trial: str
    killed: Literal[True]
    """No answer of this server is a challenger's any more. Others follow within their `poll_seconds`."""
    actor: str
    """The key's name."""
    recorded: bool
    """The ledger has it; where not, the next command or flow that looks at a trial tells it."""
    warning: str
    """What could not be done; empty where all was."""


class Refusal(Message):
    index: int
    """Of the event in the request, from 0."""
    reason: str


class FeedbackAnswer(Message):
    accepted: int
    duplicate: int
    """Known already; counted once."""
    refused: list[Refusal]


class Problem(Message):
    """RFC 9457, `application/problem+json`."""

    type: str
    """`urn:ratchet:problem:` and the kind: what to branch on."""
    title: str
    status: int
    detail: str
    """For people; may change. Repeats no id."""


class BatchAnswer(Message):
    answers: list[RecommendAnswer | Problem]
    """One for each request, in their order."""


class Health(Message):
    status: Literal["ok"]


class Readiness(BaseModel):
    """What serves now. More members may come."""

    ready: bool
    champion: dict[str, Any] | None
    delta: dict[str, Any] | None
    trial: dict[str, Any] | None
    bake: dict[str, Any] | None
    """A promotion that is still watched; `warm`: the former champion is loaded, so a rollback is a swap in memory."""
    loaded: list[str]
    """Digests in memory, warm ones included."""
    catalogue: dict[str, Any] | None
    """The items table that filters and withdrawals are read from."""
    blocked: int
    """Items on the blocklist that this server obeys."""
    pending_rows: int
    """Logged, and not yet where ingest finds them."""
    problems: list[str]
