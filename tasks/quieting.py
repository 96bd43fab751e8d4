"""A moment at which nothing is half delivered, for what must reach every row."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from relations.errors import DependencyFailed
from stores.delivery import ingest_lock, pending
from stores.home import Home
from stores.landing import FROM_SERVING
from stores.landing_log import LandingLog
from stores.settings import Settings
from tasks.ingesting import ingest_landing

_TRIES = 3


@contextmanager
def quiet(home: Home, settings: Settings, *, now: datetime) -> Iterator[None]:
    """Hold the ingest lock with all deliveries finished and what waited in the landing folder taken in.

    What serving has written so far is waited for. Raises DependencyFailed where it does not come.
    """
    _await_serving(home, settings)
    for _ in range(_TRIES):
        ingest_landing(home=home, settings=settings, now=now)
        with ingest_lock(home):
            if not pending(home):
                yield
                return
    raise DependencyFailed(f"{home.staging}: deliveries keep being cut off here; see what ends them, then repeat")


def _await_serving(home: Home, settings: Settings) -> None:
    """Until the files that serving has open now are handed over. Those of dead processes are handed over here."""
    serving = settings.serving
    for kind in FROM_SERVING:
        LandingLog(home.landing / kind, flush_seconds=serving.flush_seconds, flush_rows=serving.flush_rows)
    waited_for = _open_files(home)
    end = time.monotonic() + 2 * serving.flush_seconds + 10
    while still := waited_for & _open_files(home):
        if time.monotonic() > end:
            raise DependencyFailed(
                f"{min(still)}: serving has not handed this over; is it stuck? Restart it, then repeat"
            )
        time.sleep(0.05)


def _open_files(home: Home) -> set[Path]:
    return {path for kind in FROM_SERVING for path in (home.landing / kind).glob("*.part")}
