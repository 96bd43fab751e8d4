"""What users did: checked event by event, logged for ingest, and in the user state before the answer leaves."""

import json
import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from relations.errors import DependencyFailed
from serving.choosing.tokens import Tokens
from serving.web.messages import BEHAVIOURS, FeedbackEvent, FeedbackRequest
from serving.web.problems import explain
from serving.web.times import format_time, parse_time
from stores.landing_log import LandingLog
from stores.pseudonyms import Keys
from stores.user_states import Row, UserState

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class AcceptedEvent:
    event_id: str
    user: str
    item_id: str
    behaviour: str
    value: float | None
    event_time_us: int
    exposure_id: str | None

    def row(self) -> Row:
        return (self.user, self.event_id, self.item_id, self.behaviour, self.event_time_us)

    def line(self) -> bytes:
        stated = {
            "event_id": self.event_id,
            "user": self.user,
            "item_id": self.item_id,
            "behaviour": self.behaviour,
            "value": self.value,
            "event_time": format_time(self.event_time_us),
            "exposure_id": self.exposure_id,
        }
        return json.dumps(stated, separators=(",", ":")).encode() + b"\n"


@dataclass(frozen=True)
class Verdict:
    """On one request: what is new, how many events were known already, and what was refused and why."""

    fresh: list[AcceptedEvent]
    duplicate: int
    refused: list[tuple[int, str]]


class FeedbackDesk:
    """Judges feedback and keeps it. For one event loop."""

    def __init__(
        self,
        *,
        keys: Keys,
        tokens: Tokens,
        user_state: UserState,
        log: LandingLog,
        max_skew_minutes: float,
        recent: int = 200_000,
    ) -> None:
        self.keys = keys
        """Replaced whole when a key was rotated."""
        self._tokens = tokens
        self._user_state = user_state
        self._log = log
        self._max_skew_minutes = max_skew_minutes
        self._recent_limit = recent
        # The user state forgets an active user's old events; replays of those are known here, for a while.
        self._recent: OrderedDict[str, None] = OrderedDict()
        self._reported = False

    async def receive(self, request: FeedbackRequest, *, now_us: int) -> Verdict:
        """Judge all events, log the new ones, and let the next answers see them.

        Logged first, and only then counted: a server that is killed in between loses nothing, and of an event that two
        servers are told at once both log it, one counts it, and ingest keeps one. Raises DependencyFailed where the log
        cannot be written; nothing is kept then, and the client may try again.
        """
        judged: dict[str, AcceptedEvent] = {}
        refused = []
        for index, stated in enumerate(request.events):
            try:
                event = self._judge(stated, now_us)
            except ValidationError as error:
                refused.append((index, explain(error)))
            except ValueError as error:
                refused.append((index, str(error)))
            else:
                judged.setdefault(event.event_id, event)
        known = await self._known([event for event in judged.values() if event.event_id not in self._recent])
        # Recent ones once more: another request may have told them meanwhile.
        new = [event for event in judged.values() if event.event_id not in known and event.event_id not in self._recent]
        if new:
            self._log.append([event.line() for event in new])
        for event in new:
            self._recent[event.event_id] = None
        while len(self._recent) > self._recent_limit:
            self._recent.popitem(last=False)
        fresh = await self._counted(new) if new else []
        return Verdict(fresh, len(request.events) - len(refused) - len(fresh), refused)

    def _judge(self, stated: Any, now_us: int) -> AcceptedEvent:
        event = FeedbackEvent.model_validate(stated)
        if event.behaviour not in BEHAVIOURS:
            raise ValueError(f"behaviour {event.behaviour[:40]!r} is none of {', '.join(sorted(BEHAVIOURS))}")
        time_us = now_us if event.event_time is None else parse_time(event.event_time)
        if time_us - now_us > self._max_skew_minutes * 60e6:
            raise ValueError(
                f"event_time {format_time(time_us)} is more than {self._max_skew_minutes:g} minutes in the future"
            )
        # A token is of the pseudonym in force when it was given: a key may have been rotated since.
        names = self.keys.history(event.user_id)
        exposure_id = None
        if event.token is not None:
            exposure_id = self._tokens.exposure_id(event.token, users=names, item_id=event.item_id, now_us=now_us)
        return AcceptedEvent(
            event_id=event.event_id or self._derived_id(event, names[-1], exposure_id, time_us),
            user=names[0],
            item_id=event.item_id,
            behaviour=event.behaviour,
            value=event.value,
            event_time_us=time_us,
            exposure_id=exposure_id,
        )

    def _derived_id(self, event: FeedbackEvent, user_root: str, exposure_id: str | None, time_us: int) -> str:
        """Equal events are one. An exposure is part of its outcome's id, so that two exposures' clicks are two.

        An outcome without a time happened once: sent again later, it is still the same outcome.
        """
        if exposure_id is None:
            said, at = event.item_id, time_us
        else:
            said, at = f"{event.item_id}\x1f{exposure_id}", 0 if event.event_time is None else time_us
        return self.keys.event_id(
            user_root=user_root, item_id=said, behaviour=event.behaviour, event_time_us=at, value=event.value
        )

    async def _known(self, events: list[AcceptedEvent]) -> set[str]:
        try:
            return await self._user_state.known([event.row() for event in events]) if events else set()
        except DependencyFailed as error:  # ingest deduplicates once more
            self._report(error)
            return set()

    async def _counted(self, logged: list[AcceptedEvent]) -> list[AcceptedEvent]:
        """Those that no other server has counted. The log has all of them, so a lost cache is only reported."""
        try:
            fresh = await self._user_state.admit([event.row() for event in logged])
        except DependencyFailed as error:
            self._report(error)
            return logged
        self._reported = False
        return [event for event in logged if event.event_id in fresh]

    def _report(self, error: DependencyFailed) -> None:
        """Once, not at each request: a log that nobody empties in time would stall the answers."""
        if not self._reported:
            _LOG.warning("%s", error)
        self._reported = True
