"""Micro-batches: what waits while the network runs is asked together next.

Nobody waits for company: an idle worker takes a query at once, a busy one finds a batch when it comes back. So batches
grow with the load by themselves, and a quiet server answers as fast as it can.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from relations.errors import DependencyFailed
from serving.networks.engine import Engine
from serving.networks.queries import Best, Query

_WEIGHT = 0.1  # of the newest batch in the running mean of what a query costs
_LOG = logging.getLogger(__name__)


class Overloaded(DependencyFailed):
    """More is asked than can be answered in time; `retry_seconds` from now it may be otherwise."""

    def __init__(self, message: str, *, retry_seconds: float) -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds


@dataclass(frozen=True, eq=False)
class _Job:
    engine: Engine
    query: Query
    n: int
    future: "asyncio.Future[Best]"
    expires: float
    """`time.monotonic()`; nobody waits for the answer after that."""

    @property
    def length(self) -> int:
        """Bits of its length: a batch is padded to its longest history, so those of a size go together."""
        return len(self.query.asked.items_L).bit_length()

    def fits(self, other: "_Job") -> bool:
        return (
            self.engine is other.engine
            and self.query.mask_V1 is other.query.mask_V1
            and self.n == other.n
            and self.length == other.length
        )


class Batcher:
    """Asks networks in threads of its own, which let the interpreter's lock go while ONNX Runtime computes."""

    def __init__(
        self,
        *,
        most: int,
        budget_seconds: float,
        timeout_seconds: float,
        workers: int = 1,
        observe: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        """`most`: queries a batch. `budget_seconds`: a query that would wait longer is refused. `timeout_seconds`: one
        that did wait longer is dropped. `observe(size, seconds)` is told of each batch."""
        self._most = most
        self._budget_seconds = budget_seconds
        self._timeout_seconds = timeout_seconds
        self._workers = workers
        self._observe = observe
        self._jobs: deque[_Job] = deque()
        self._running = 0
        self._each_seconds = 0.0
        self._wake = threading.Condition()
        self._closed = False
        self.refused = self.timed_out = 0
        """Queries that were not taken, and that waited too long, since the start."""
        self._threads = [
            threading.Thread(target=self._work, name=f"network-{number}", daemon=True) for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        return len(self._jobs)

    @property
    def wait_seconds(self) -> float:
        """What a query would wait that came now, by the recent cost of a query."""
        return (len(self._jobs) + self._running) * self._each_seconds / self._workers

    def _refuse_if_late(self) -> None:
        wait = self.wait_seconds
        if wait > self._budget_seconds:
            self.refused += 1
            raise Overloaded(
                f"{len(self._jobs)} queries wait already, some {wait * 1e3:.0f} ms; try again later",
                retry_seconds=wait,
            )

    async def best(self, engine: Engine, query: Query, *, n: int) -> Best:
        """The `n` best rows for the query, from `engine`. Raises Overloaded, and whatever the network's run raises."""
        self._refuse_if_late()
        future: asyncio.Future[Best] = asyncio.get_running_loop().create_future()
        job = _Job(engine, query, n, future, time.monotonic() + self._timeout_seconds)
        with self._wake:
            self._jobs.append(job)
            self._wake.notify()
        return await future

    def close(self) -> None:
        """Finish what waits, then end."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while batch := self._next():
            started = time.perf_counter()
            now = time.monotonic()
            wanted = [job for job in batch if job.expires > now and not job.future.cancelled()]
            error: Exception | None = None
            found: Sequence[Best] = ()
            if wanted:
                try:
                    found = wanted[0].engine.best([job.query for job in wanted], n=wanted[0].n)
                except Exception as failure:  # ONNX Runtime's classes have no common base; each asker is told
                    error = failure
            seconds = time.perf_counter() - started
            with self._wake:
                self._running -= len(batch)
                self.timed_out += sum(job.expires <= now for job in batch)
                if wanted:
                    each = seconds / len(wanted)
                    known = self._each_seconds
                    self._each_seconds = each if known == 0 else known + _WEIGHT * (each - known)
            if wanted:
                self._observe(len(wanted), seconds)
            batch[0].future.get_loop().call_soon_threadsafe(_deliver, batch, wanted, found, error)

    def _next(self) -> list[_Job]:
        """The oldest job and those behind it that fit; empty when closed."""
        with self._wake:
            while not self._jobs:
                if self._closed:
                    return []
                self._wake.wait()
            first = self._jobs.popleft()
            batch, others = [first], deque[_Job]()
            while self._jobs and len(batch) < self._most:
                job = self._jobs.popleft()
                (batch if job.fits(first) else others).append(job)
            self._jobs.extendleft(reversed(others))
            self._running += len(batch)
            return batch


def _deliver(batch: list[_Job], wanted: list[_Job], found: Sequence[Best], error: Exception | None) -> None:
    for job in batch:
        if job not in wanted and not job.future.done():
            job.future.set_exception(Overloaded("the query waited too long; try again later", retry_seconds=1.0))
    for place, job in enumerate(wanted):
        if not job.future.done():  # else the client has gone
            if error is None:
                job.future.set_result(found[place])
            else:
                job.future.set_exception(error)
