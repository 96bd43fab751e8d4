"""A real log's future as traffic: what its people did next decides what they would have clicked.

One request at the start of each distinct (user, time stamp) group, in time order, ties by the order of the file. When
the answer holds an item of the group, the person clicks the first such item: feedback with its token. The events
themselves reach Ratchet as files, delivered by the caller.
"""

import time as wall
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import NamedTuple

from simulation.client import RecommendClient, RequestFailed
from simulation.traffic import MAX_CONSECUTIVE_FAILURES, ArmCount

HISTORY = 200
"""Newest events that a request carries."""

Past = dict[str, list[dict[str, str]]]
"""What each user did so far, oldest first, as the Recommend API takes it."""

SESSION_GAP_SECONDS = 30 * 60.0
"""A user's next event after a longer pause begins a new session."""


class LoggedEvent(NamedTuple):
    """One row of a real log."""

    user_id: str
    item_id: str
    time: float
    """Unix seconds."""
    behaviour: str
    value: float | None


@dataclass(frozen=True)
class Group:
    """All events of one user at one time stamp, in the order of the file."""

    user_id: str
    time: float
    item_ids: tuple[str, ...]
    behaviour: str
    """Of the group's first event."""
    starts_session: bool
    """First of the user, or more than 30 minutes after the user's group before."""


@dataclass
class ReplayDay:
    """What a stretch of replayed traffic did."""

    groups: int = 0
    sessions: int = 0
    users: int = 0
    requests: int = 0
    """Requests for recommendations that were answered."""
    failed: int = 0
    impressions: int = 0
    clicks: int = 0
    refused: int = 0
    arms: dict[str, ArmCount] = field(default_factory=dict)
    seconds: float = 0.0


def in_groups(events: Iterable[LoggedEvent]) -> Iterator[Group]:
    """The requests that a log leads to. Sorting is stable, so ties keep the order of the file."""
    # Users at one time stamp take turns in the order in which the file first names them there.
    first: dict[tuple[float, str], int] = {}
    rows = list(events)
    for number, event in enumerate(rows):
        first.setdefault((event.time, event.user_id), number)
    rows.sort(key=lambda event: (event.time, first[event.time, event.user_id]))
    last_seen: dict[str, float] = {}
    for (time, user), members in groupby(rows, key=lambda event: (event.time, event.user_id)):
        pause = time - last_seen.get(user, float("-inf"))
        last_seen[user] = time
        together = list(members)
        items = tuple(event.item_id for event in together)
        yield Group(user, time, items, together[0].behaviour, starts_session=pause > SESSION_GAP_SECONDS)


def replay(
    events: Sequence[LoggedEvent],
    client: RecommendClient,
    *,
    past: Past,
    slots: int = 10,
    on_request: Callable[[int], None] | None = None,
) -> ReplayDay:
    """Play `events` (a week, say). `on_request` gets the number of requests so far (progress).

    The log's files reach serving only when the week is over, so each request carries its user's newest history: `past`,
    which grows by the events that were played.
    Sessions are counted within `events`. Raises DependencyFailed when the server is gone.
    """
    began = wall.perf_counter()
    failures_before, refused_before = client.counts.failures, client.counts.events_refused
    result = ReplayDay(users=len({event.user_id for event in events}))
    in_a_row = 0
    for group in in_groups(events):
        result.groups += 1
        result.sessions += group.starts_session
        try:
            _play(group, client, slots, result, past.get(group.user_id, [])[-HISTORY:])
            in_a_row = 0
        except RequestFailed:
            in_a_row += 1
            if in_a_row >= MAX_CONSECUTIVE_FAILURES:
                raise
        remember(past, group)
        if on_request is not None:
            on_request(result.requests)
    result.failed = client.counts.failures - failures_before
    result.refused = client.counts.events_refused - refused_before
    result.seconds = wall.perf_counter() - began
    return result


def remember(past: Past, group: Group) -> None:
    """Add what the user did to their history."""
    known = past.setdefault(group.user_id, [])
    known += [
        {"item_id": item, "behaviour": group.behaviour, "event_time": _iso(group.time)} for item in group.item_ids
    ]


def _iso(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _play(group: Group, client: RecommendClient, slots: int, result: ReplayDay, history: list[dict[str, str]]) -> None:
    now = _iso(group.time)
    slate = client.recommend(group.user_id, k=slots, now=now, events=history)
    result.requests += 1
    result.impressions += len(slate.item_ids)
    arm = result.arms.setdefault(slate.arm, ArmCount())
    arm.requests += 1
    arm.impressions += len(slate.item_ids)
    wanted = frozenset(group.item_ids)
    for item, token in zip(slate.item_ids, slate.tokens, strict=True):
        if item in wanted:
            click = {"token": token, "user_id": group.user_id, "item_id": item, "behaviour": "click", "event_time": now}
            client.feedback([click], now=now)
            result.clicks += 1
            arm.clicks += 1
            return
