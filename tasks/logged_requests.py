"""The champion's logged requests, whole, with what they earned and what was known when they were answered."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import ibis
import numpy as np
import pyarrow as pa

from gate.metrics import Metric, Value
from gate.off_policy import Array
from model.recommending import Past, Question
from relations.logged import histories_at, logged_slots, slot_rewards
from relations.schemas import TIME
from stores.lake import Lake
from stores.user_states import KEPT
from tasks.ingesting import SERVING

POLICY = "epsilon-greedy"
"""The model's own lists. Those of newcomers by popularity and drafted ones are somebody else's."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_REQUESTS = pa.schema([("request_id", pa.string()), ("user", pa.string()), ("shown_time", TIME)])


@dataclass(frozen=True)
class LoggedRequest:
    """One answer, its items by slot."""

    request_id: str
    user: str
    shown_time: datetime
    set_hash: str
    """Of the candidates that it was chosen from, see `stores.candidate_sets`."""
    beside: bool
    """A side index of new items stood beside the network; old ones are not kept, so the hash cannot be made again."""
    items: tuple[str, ...]


@dataclass(frozen=True)
class RequestLog:
    """Requests, and columns over all their slots in order; positions from 0. `broken`: requests left out, of which a
    slot above another is missing."""

    requests: tuple[LoggedRequest, ...]
    user_N: np.ndarray
    position_N: np.ndarray
    propensity_N: Array
    reward_N: Array
    broken: int

    @property
    def users(self) -> int:
        return len({each.user for each in self.requests})

    def keep(self, kept_R: Sequence[bool]) -> "RequestLog":
        """Of the requests only these."""
        kept_N = np.repeat(np.asarray(kept_R, dtype=bool), [len(each.items) for each in self.requests])
        return RequestLog(
            tuple(each for each, kept in zip(self.requests, kept_R, strict=True) if kept),
            self.user_N[kept_N],
            self.position_N[kept_N],
            self.propensity_N[kept_N],
            self.reward_N[kept_N],
            self.broken,
        )


def read_requests(
    lake: Lake,
    metric: Metric,
    *,
    digest: str,
    since: datetime,
    until: datetime,
    window: timedelta,
    most: int,
) -> RequestLog:
    """At most `most` requests that the bundle `digest` answered as champion in [since, until]."""
    slots = logged_slots(lake.relation("exposures"), digest=digest, policy=POLICY, since=since, until=until, most=most)
    summed = metric.value is Value.SUM
    rows = slot_rewards(slots, lake.relation("events"), behaviour=metric.outcome, summed=summed, window=window)
    by_request: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows.to_pyarrow().to_pylist():
        by_request[row["request_id"]].append(row)
    whole = {
        name: rows
        for name, rows in by_request.items()
        if [row["position"] for row in rows] == list(range(1, len(rows) + 1))
    }
    flat = [row for rows in whole.values() for row in rows]
    return RequestLog(
        requests=tuple(
            LoggedRequest(
                request_id=name,
                user=rows[0]["user"],
                shown_time=rows[0]["shown_time"],
                set_hash=rows[0]["candidate_set_hash"],
                beside="+side:" in rows[0]["served_by"],
                items=tuple(row["item_id"] for row in rows),
            )
            for name, rows in whole.items()
        ),
        user_N=np.array([row["user"] for row in flat]),
        position_N=np.array([row["position"] - 1 for row in flat], dtype=np.int64),
        propensity_N=np.array([row["propensity"] for row in flat]),
        reward_N=np.array([row["reward"] for row in flat]),
        broken=len(by_request) - len(whole),
    )


def read_questions(lake: Lake, requests: Sequence[LoggedRequest], *, exclude_seen: bool) -> list[Question]:
    """The requests as the network was asked: the user's newest events of that moment, and what was left out as seen.

    What callers stated themselves (history, attributes, filters, items to leave out) is not logged and not here.
    """
    stated = [{"request_id": each.request_id, "user": each.user, "shown_time": each.shown_time} for each in requests]
    asked = ibis.memtable(pa.Table.from_pylist(stated, schema=_REQUESTS))
    rows = histories_at(asked, lake.relation("events"), told_at_once=(SERVING,), length=KEPT).to_pyarrow().to_pylist()
    past: dict[str, list[Past]] = defaultdict(list)
    for row in rows:
        past[row["request_id"]].append(Past(row["item_id"], row["behaviour"], _us(row["event_time"])))
    return [
        Question(
            history := past[each.request_id],
            _us(each.shown_time),
            frozenset(event.item_id for event in history) if exclude_seen else frozenset(),
        )
        for each in requests
    ]


def _us(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)
