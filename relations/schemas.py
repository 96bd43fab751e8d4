"""What a row is: one pyarrow schema a table, the only place that names columns.

Times are UTC microseconds, ids are strings. `KEYS` are the columns that identify a row;
`OUTSIDE_DIGEST` the columns that say how a row arrived rather than what it says, so that the
same rows delivered twice, late or shuffled have the same content digest.
"""

import pyarrow as pa

TIME = pa.timestamp("us", tz="UTC")

ITEM_BEHAVIOURS: tuple[str, ...] = (
    "view",
    "click",
    "favourite",
    "cart",
    "purchase",
    "rating",
    "dwell",
    "share",
    "dislike",
)
"""What a user does to an item. A model's behaviour codes are positions here: append, never reorder."""

BEHAVIOURS: tuple[str, ...] = (*ITEM_BEHAVIOURS, "search")
"""A search has a query and need not have an item."""

_EVENT_FIELDS: list[tuple[str, pa.DataType, bool]] = [
    ("event_id", pa.string(), False),
    ("user", pa.string(), False),  # a pseudonym, never the raw id
    ("item_id", pa.string(), True),  # null for a search alone
    ("behaviour", pa.string(), False),
    ("value", pa.float64(), True),
    ("query", pa.string(), True),  # the text of a search
    ("context", pa.map_(pa.string(), pa.string()), True),  # device, locale, hour: names and numbers as text
    ("event_time", TIME, False),
    ("received_time", TIME, False),
    ("source", pa.string(), False),
    ("exposure_id", pa.string(), True),
    ("delivery_id", pa.string(), False),
]


def _schema(fields: list[tuple[str, pa.DataType, bool]]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=nullable) for name, kind, nullable in fields])


EVENTS = _schema(_EVENT_FIELDS)

LATE = _schema([*_EVENT_FIELDS, ("lateness_seconds", pa.float64(), False)])

ITEMS = _schema(
    [
        ("item_id", pa.string(), False),
        ("valid_from", TIME, False),
        ("title", pa.string(), False),
        ("description", pa.string(), True),
        ("categories", pa.list_(pa.string()), False),
        ("price", pa.float64(), True),
        ("attributes", pa.map_(pa.string(), pa.string()), True),
        ("vectors", pa.map_(pa.string(), pa.list_(pa.float32())), True),
        ("available", pa.bool_(), False),
        ("received_time", TIME, False),
        ("source", pa.string(), False),
        ("delivery_id", pa.string(), False),
    ]
)

USERS = _schema(
    [
        ("user", pa.string(), False),
        ("valid_from", TIME, False),
        ("attributes", pa.map_(pa.string(), pa.string()), True),
        ("received_time", TIME, False),
        ("source", pa.string(), False),
        ("delivery_id", pa.string(), False),
    ]
)

EXPOSURES = _schema(
    [
        ("exposure_id", pa.string(), False),  # "<request_id>:<position>"
        ("request_id", pa.string(), False),
        ("user", pa.string(), False),
        ("item_id", pa.string(), False),
        ("position", pa.int32(), False),  # from 1
        ("propensity", pa.float64(), False),  # P(this item | the slots above, the candidates)
        ("propensity_kind", pa.string(), False),  # exact, estimated, unusable
        ("score", pa.float64(), True),
        ("policy", pa.string(), False),
        ("surface", pa.string(), False),
        ("trial", pa.string(), True),
        ("variant", pa.string(), False),  # champion, challenger, interleaved, popularity; logged: by another system
        ("allocation", pa.float64(), False),  # share of users that the challenger gets
        ("assignment_reason", pa.string(), False),
        ("champion_epoch", pa.int64(), False),
        ("model_version", pa.int64(), False),  # 0: popularity
        ("digest", pa.string(), False),
        ("served_by", pa.string(), False),
        ("candidate_set_hash", pa.string(), False),
        ("explored", pa.bool_(), False),
        ("is_shadow", pa.bool_(), False),
        ("is_bot", pa.bool_(), False),
        ("bot_rules", pa.string(), True),
        ("latency_ms", pa.float64(), False),
        ("error", pa.string(), True),
        ("shown_time", TIME, False),
        ("context", pa.string(), True),  # JSON
        ("received_time", TIME, False),
        ("source", pa.string(), False),
        ("delivery_id", pa.string(), False),
    ]
)

QUARANTINE = _schema(
    [
        ("delivery_id", pa.string(), False),
        ("row", pa.int64(), False),  # from 0, as the reader counted
        ("kind", pa.string(), False),  # events, items, users, exposures
        ("user", pa.string(), True),  # pseudonym, where the row was legible enough to have one
        ("format", pa.string(), False),  # of `raw`: json (a legible row, without its user id), else the reader's
        ("raw", pa.binary(), False),
        (
            "reasons",
            pa.list_(pa.struct([("expectation", pa.string()), ("column", pa.string()), ("message", pa.string())])),
            False,
        ),
        ("source", pa.string(), False),
        ("received_time", TIME, False),
        ("state", pa.string(), False),  # open, replayed, dropped
        ("settled_by", pa.string(), True),  # the delivery that replayed it, or who dropped it and why
    ]
)

DELIVERIES = _schema(
    [
        ("delivery_id", pa.string(), False),
        ("digest", pa.string(), False),  # SHA-256 of the delivered bytes
        ("kind", pa.string(), False),
        ("source", pa.string(), False),
        ("uri", pa.string(), False),
        ("received_time", TIME, False),
        ("delivered", pa.int64(), False),  # counted at the reader, never summed from the others
        ("accepted", pa.int64(), False),
        ("quarantined", pa.int64(), False),
        ("duplicate", pa.int64(), False),
        ("late", pa.int64(), False),
        ("table_versions", pa.map_(pa.string(), pa.int64()), False),  # after the commit
        ("validation_result", pa.string(), True),  # path of the Data Docs page, relative to the home
        ("state", pa.string(), False),  # committed, quarantined_whole, unreadable, empty
        ("warnings", pa.list_(pa.string()), True),
        ("columns", pa.map_(pa.string(), pa.string()), True),  # the source's column → its observed type
        ("profile", pa.map_(pa.string(), pa.float64()), True),  # what the batch looked like; see relations.profile
    ]
)

REPLAY = _schema(
    [
        ("user", pa.string(), False),
        ("place", pa.int64(), False),  # of the piece's first event among all of its user's that were seen, from 0
        ("events", pa.int64(), False),
        ("begins", TIME, False),  # the time of its first event
        ("ends", TIME, False),  # and of its last
        ("item_id", pa.string(), False),  # of its last event: the piece's label
        ("priority", pa.float64(), False),
        ("kept_for", pa.string(), False),  # the strategy, and whatever else priorities follow from
        ("events_version", pa.int64(), False),  # chosen among the events that were there at this version,
        ("cutoff", TIME, False),  # and earlier than this,
        ("found", pa.int64(), False),  # which are so many pieces
    ]
)
"""Which pieces of histories increments may replay: references, never copies of behaviour."""

SCHEMAS: dict[str, pa.Schema] = {
    "events": EVENTS,
    "items": ITEMS,
    "users": USERS,
    "exposures": EXPOSURES,
    "quarantine": QUARANTINE,
    "late": LATE,
    "deliveries": DELIVERIES,
    "replay": REPLAY,
}

KEYS: dict[str, tuple[str, ...]] = {
    "events": ("event_id",),
    "items": ("item_id", "valid_from"),
    "users": ("user", "valid_from"),
    "exposures": ("exposure_id",),
    "quarantine": ("delivery_id", "row"),
    "late": ("event_id",),
    "deliveries": ("delivery_id",),
    "replay": ("user", "place"),
}

# How a row arrived, not what it says. `row` and `delivery_id` key the quarantine, so there the digest is over
# what was quarantined and why; where it stood in which file is left out.
OUTSIDE_DIGEST: dict[str, tuple[str, ...]] = {
    "events": ("received_time", "delivery_id"),
    "items": ("received_time", "delivery_id"),
    "users": ("received_time", "delivery_id"),
    "exposures": ("received_time", "delivery_id"),
    "quarantine": ("received_time", "delivery_id", "row", "settled_by"),
    "late": ("received_time", "delivery_id", "lateness_seconds"),
    "deliveries": ("received_time",),
    "replay": (),
}
