"""The shadow: what a challenger would have answered, scored and logged, and shown to nobody.

A request is handed over when its answer is made, and its challenger is asked when that answer has left and the networks
of the answers are idle, one request at a time, in a thread of its own: no answer waits behind a shadow. What finds no
quiet moment in time, or no room, is dropped and counted. The rows are exposures with `is_shadow`, propensity 0 of the
kind unusable and the request's id with `~shadow` behind it, so that they never count and can be joined to what was
shown.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from relations.errors import DependencyFailed
from serving.choosing.candidates import Chooser, Wish, without_blocked
from serving.choosing.exposure_log import ExposureLog
from serving.choosing.exposures import exposure_lines
from serving.choosing.slots import SHADOW, in_shadow
from serving.choosing.snapshots import Loaded
from serving.web.metrics import Metrics, ShadowFate

_REST_SECONDS = 0.02
"""From handing over to the earliest asking: the answer, a batch's too, is on its way by then."""
_LOOK_SECONDS = 0.005
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ShadowRequest:
    """`arm`: the challenger's name. `blocked`: items that nobody is shown. `common`: what holds of the exposures of the
    answer that was shown."""

    trial: str
    arm: str
    challenger: Loaded
    wish: Wish
    k: int
    blocked: frozenset[str]
    common: Mapping[str, object]
    handed_over: float = field(default_factory=time.monotonic)


class Shadow:
    """For one event loop."""

    def __init__(
        self,
        *,
        chooser: Chooser,
        log: ExposureLog,
        metrics: Metrics,
        busy: Callable[[], bool],
        stopped: Callable[[str], bool],
        most: int,
        most_rows: int,
        patience_seconds: float = 5.0,
    ) -> None:
        """`busy`: whether answers wait for a network. `stopped`: whether a trial was killed. `most`: how many requests
        may wait; `patience_seconds`: how long. `most_rows`: with more rows than that waiting for the disk none are
        added."""
        self._chooser = chooser
        self._log = log
        self._metrics = metrics
        self._busy = busy
        self._stopped = stopped
        self._most = most
        self._most_rows = most_rows
        self._patience_seconds = patience_seconds
        self._requests: deque[ShadowRequest] = deque()
        self._task: asyncio.Task[None] | None = None
        self._fates: dict[str, dict[ShadowFate, int]] = {}

    def offer(self, request: ShadowRequest) -> None:
        """Never waits."""
        if len(self._requests) >= self._most:
            self._count(request, ShadowFate.DROPPED)
            return
        self._requests.append(request)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._work())

    def fates(self, trial: str) -> dict[ShadowFate, int]:
        """What became of this trial's requests: it must not fail for what an earlier one did."""
        return self._fates.get(trial, dict.fromkeys(ShadowFate, 0))

    def close(self) -> None:
        """Drop what waits."""
        self._requests.clear()
        if self._task is not None:
            self._task.cancel()

    async def _work(self) -> None:
        while self._requests:
            request = self._requests.popleft()
            if not await self._quiet(request):
                self._count(request, ShadowFate.DROPPED)
                continue
            try:
                await self._score(request)
                self._count(request, ShadowFate.SCORED)
            except DependencyFailed as error:  # too much waits for the disk, or for the shadow's own thread
                self._count(request, ShadowFate.DROPPED)
                _LOG.debug("%s", error)
            except Exception:  # whatever the runtime raises: that is what a shadow is there to find out
                self._count(request, ShadowFate.FAILED)
                version = request.challenger.version
                _LOG.warning("%s, version %d, failed in the shadow", request.arm, version, exc_info=True)

    async def _quiet(self, request: ShadowRequest) -> bool:
        """Wait for a quiet moment; False where none comes in time, or the trial was killed."""
        await asyncio.sleep(max(0.0, request.handed_over + _REST_SECONDS - time.monotonic()))
        while self._busy() or self._log.waiting > self._most_rows:
            if time.monotonic() - request.handed_over > self._patience_seconds:
                return False
            await asyncio.sleep(_LOOK_SECONDS)
        return not self._stopped(request.trial)

    async def _score(self, request: ShadowRequest) -> None:
        started = time.perf_counter()
        found = await self._chooser.ask(request.challenger, request.wish)
        common = {
            **request.common,
            "request_id": f"{request.common['request_id']}~{SHADOW}",
            "propensity_kind": "unusable",
            "trial": request.trial,
            "variant": request.arm,
            "assignment_reason": SHADOW,
            "is_shadow": True,
            "latency_ms": round((time.perf_counter() - started) * 1e3, 3),
            "error": None,
        }
        slots = in_shadow(without_blocked(found, request.blocked), k=request.k)
        self._log.append(list(exposure_lines(common, slots)))

    def _count(self, request: ShadowRequest, fate: ShadowFate) -> None:
        self._fates.setdefault(request.trial, dict.fromkeys(ShadowFate, 0))[fate] += 1
        if len(self._fates) > 2:  # the one before may still wait here
            del self._fates[next(iter(self._fates))]
        self._metrics.shadow(fate)
