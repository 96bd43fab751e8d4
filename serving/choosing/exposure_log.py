"""Exposures on their way to the disk: an answer leaves them here and goes; a thread writes.

What this can lose. kill -9: the rows that the thread had not yet passed to the operating system, which are those of
the last 10 ms or so (`ratchet bench serve` counts them). A power cut: what was not yet synchronised, `fsync_seconds` at
most, and whatever the disk keeps back. A disk that refuses or stalls loses nothing until `most_rows` wait; beyond that
`append` refuses, since an exposure that is not logged would bias a trial.

Feedback does not come here: it is promised in the answer, so it is with the operating system before the answer leaves.
"""

import logging
import threading
import time
from collections.abc import Sequence

from relations.errors import DependencyFailed
from stores.landing_log import LandingLog

_LOOK_SECONDS = 0.25
_PAUSE_SECONDS = 0.01  # between two writes: a thread that woke for each answer would hold up the next one
_RETRY_SECONDS = 1.0
_LOG = logging.getLogger(__name__)


class ExposureLog:
    """A landing log that is written behind. Safe to share between threads."""

    def __init__(self, log: LandingLog, *, most_rows: int, fsync_seconds: float) -> None:
        """`most_rows`: how many may wait in memory. `fsync_seconds`: how often written rows are forced to the disk."""
        self._log = log
        self._most_rows = most_rows
        self._fsync_seconds = fsync_seconds
        self._rows: list[bytes] = []
        self._writing = 0
        self._began = 0.0  # no row that waits has waited since before
        self.refused = 0
        """Rows that were not taken, and so not shown, since the start."""
        self._error: DependencyFailed | None = None
        self._wake = threading.Condition()
        self._idle = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="exposures", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows that kill -9 would lose now."""
        return len(self._rows) + self._writing

    @property
    def pending(self) -> int:
        """Rows that ingest cannot see yet."""
        return self.waiting + self._log.pending

    @property
    def written(self) -> int:
        """Rows that are with the operating system, since the start."""
        return self._log.written

    @property
    def oldest_seconds(self) -> float:
        """How long the oldest row that ingest cannot see has waited."""
        return max(self._log.oldest_seconds, time.monotonic() - self._began if self.waiting else 0.0)

    def append(self, lines: Sequence[bytes]) -> None:
        """Take `lines` (each ends in a newline); they are written soon. Never waits.

        Raises DependencyFailed where too many wait already; nothing of `lines` is kept then.
        """
        with self._wake:
            if self.waiting + len(lines) > self._most_rows:
                self.refused += len(lines)
                reason = self._error or f"{self._log.folder}: the disk is too slow"
                raise DependencyFailed(f"{reason}; {self.waiting} exposures wait to be written, no more are taken")
            if not self.waiting:
                self._began = time.monotonic()
            self._rows.extend(lines)
            if self._idle:
                self._wake.notify_all()

    def drain(self, seconds: float = 30.0) -> bool:
        """Wait until all rows so far are with the operating system; False where that takes too long."""
        with self._wake:
            return self._wake.wait_for(lambda: self.waiting == 0, timeout=seconds)

    def close(self) -> None:
        """Write what waits and hand it over. Rows that the disk refuses still are lost, and reported."""
        with self._wake:
            self._closing.set()
            self._wake.notify_all()
        self._thread.join()

    def _work(self) -> None:
        synced = time.monotonic()
        while True:
            with self._wake:
                self._idle = True
                self._wake.wait_for(lambda: self._rows or self._closing.is_set(), timeout=_LOOK_SECONDS)
                self._idle = False
                rows, self._rows = self._rows, []
                self._writing = len(rows)
                closing = self._closing.is_set()  # this turn is the last, unless rows came or the disk refuses
            try:
                if rows:
                    self._log.append(rows)
                    with self._wake:
                        rows, self._writing, self._error = [], 0, None
                        self._began = time.monotonic()
                        self._wake.notify_all()
                if time.monotonic() - synced >= self._fsync_seconds:
                    self._log.sync()
                    synced = time.monotonic()
                if closing:
                    self._log.hand_over()
                    self._log.sync()
                else:
                    self._log.hand_over_if_due()
            except DependencyFailed as error:
                if self._error is None:
                    _LOG.warning("%s", error)
                with self._wake:
                    self._rows[:0] = rows
                    self._writing, self._error = 0, error
            self._closing.wait(_RETRY_SECONDS if self._error else _PAUSE_SECONDS)
            with self._wake:
                if closing and (self._error is not None or not self._rows):
                    if self._rows:
                        _LOG.error("%d exposures are lost: %s", len(self._rows), self._error)
                    return
