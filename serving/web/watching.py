"""How a running app looks from outside: each request timed and counted, and its standing told at a scrape."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relations.errors import RatchetError
from serving.choosing.assignment import shares
from serving.choosing.exposure_log import ExposureLog
from serving.choosing.snapshots import Snapshot, Watcher
from serving.networks.batching import Batcher
from serving.web.admission import Headroom
from serving.web.metrics import BundleStanding, LogStanding, Standing
from stores import facts
from stores.facts import Facts
from stores.landing_log import LandingLog
from stores.ledger_records import TrialMode

_ELSEWHERE = "other"
"""Stands for every path that is no route: a client's inventions must not become labels."""
_LOG = logging.getLogger(__name__)


class RequestWatch:
    """ASGI middleware: tells `app.state.service.metrics` of each request, its route, status and duration."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500  # what becomes of an error that nobody handles

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", _ELSEWHERE)  # the router leaves it there
            metrics = scope["app"].state.service.metrics
            metrics.request(route, status=status, seconds=time.perf_counter() - started)


class Watch:
    """Asks the parts of an app how they stand. For a scrape's thread."""

    def __init__(
        self,
        *,
        watcher: Watcher,
        batcher: Batcher,
        headroom: Headroom,
        exposures: ExposureLog,
        feedback: LandingLog,
        facts_file: Path,
        stopped: Callable[[str], bool],
        now: Callable[[], datetime],
    ) -> None:
        """`now`: the home's clock. `facts_file`: what the flows publish of the data. `stopped`: whether a trial was
        killed."""
        self._watcher = watcher
        self._batcher = batcher
        self._headroom = headroom
        self._exposures = exposures
        self._feedback = feedback
        self._facts_file = facts_file
        self._stopped = stopped
        self._now = now
        self._complained = ""

    def standing(self) -> Standing:
        snapshot, now, told = self._watcher.current, self._now(), self._facts()
        champion, trial, hold = snapshot.state.champion, snapshot.state.trial, told.hold if told else None
        side = snapshot.champion.engine.side if snapshot.champion else None
        held = trial is not None and hold is not None and hold.trial == trial.id  # else it is of a trial that is over
        shown = trial and (replace(trial, mode=TrialMode.KILLED) if self._stopped(trial.id) else trial)
        return Standing(
            ready=snapshot.answers,
            bundles=self._bundles(snapshot),
            champion_epoch=champion.epoch if champion else 0,
            champion_age_seconds=_age(champion.since if champion else None, now),
            delta_sequence=snapshot.delta.sequence if snapshot.delta else 0,
            trial_open=trial is not None,
            trial_mode=shown.mode if shown else None,
            trial_shares=shares(shown) if shown else {},
            trial_out=len(trial.out) if trial else 0,
            baking=snapshot.state.bake is not None,
            trial_held_seconds=(_age(hold.since, now) or 0.0) if held and hold else 0.0,
            queue_depth=self._batcher.waiting,
            logs={"exposures": _log_standing(self._exposures), "feedback": _log_standing(self._feedback)},
            side_index_items=len(side.items) if side else 0,
            ledger_silent_seconds=self._watcher.ledger_silent_seconds,
            problems=len(snapshot.problems),
            swaps=self._watcher.swaps,
            shed=self._headroom.refused + self._batcher.refused,
            timeouts=self._batcher.timed_out,
            facts=told,
            trial_state_seconds={
                state: _age(since, now) or 0.0 for state, since in (told.trial_states if told else {}).items()
            },
            facts_age_seconds=_age(told.published if told else None, now),
            data_age_seconds=_age(told.watermark if told else None, now),
        )

    def _bundles(self, snapshot: Snapshot) -> list[BundleStanding]:
        providers = self._watcher.engines.providers
        found = []
        for role, loaded in snapshot.roles:
            base = loaded.base_digest
            found.append(BundleStanding(role, loaded.version, base, providers.pop(base, loaded.engine.provider)))
            if loaded.digest != base:
                providers.pop(loaded.digest, None)
                found.append(BundleStanding("delta", loaded.version, loaded.digest, loaded.engine.provider))
        return found + [BundleStanding("warm", 0, digest, provider) for digest, provider in providers.items()]

    def _facts(self) -> Facts | None:
        """None, and a complaint in the log, where the file cannot be read: its absence is an alert of its own."""
        try:
            told, complaint = facts.read(self._facts_file), ""
        except RatchetError as error:
            told, complaint = None, str(error)
        if complaint and complaint != self._complained:
            _LOG.warning("%s", complaint)
        self._complained = complaint
        return told


def _log_standing(log: ExposureLog | LandingLog) -> LogStanding:
    unwritten = log.waiting if isinstance(log, ExposureLog) else 0
    return LogStanding(log.written, log.refused, log.pending, unwritten, log.oldest_seconds)


def _age(since: datetime | None, now: datetime) -> float | None:
    """Seconds; never below 0, where two clocks disagree or an event is from the future."""
    return None if since is None else max(0.0, (now - since).total_seconds())
