"""What is measured reaches the tracking server behind the work's back: the work writes to its spool and goes on.

A thread sends. A server that is dead or slow costs it time, and the work none; what is left when the work ends, the
next flow run sends.
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from relations.errors import DependencyFailed
from stores.home import Home
from stores.registry import Registry
from stores.replay import left, replay, spools
from stores.settings import Settings

Result = TypeVar("Result")

SEND_SECONDS = 5.0
"""Between two looks at what is new."""
GIVE_UP_SECONDS = 60.0
"""A server that does not answer is asked less and less often, down to this."""
LEAVE_SECONDS = 2.0
"""How long work that has ended waits for the thread."""


@contextmanager
def sending(home: Home, settings: Settings, root: Path) -> Iterator[None]:
    """While the block runs, send what it spools below `root`, and first what earlier runs have left in the home.

    Never raises for the server's sake, and ends at most `LEAVE_SECONDS` after the block.
    """
    done = threading.Event()
    thread = threading.Thread(target=_send, args=(home, settings, root, done), name="spool", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(LEAVE_SECONDS)


def send_left(home: Home, settings: Settings) -> int:
    """Send whatever the home's spools hold; returns the points sent. Raises DependencyFailed at the first silence."""
    registry = Registry(home, settings)
    return sum(replay(folder, home=home, registry=registry) for folder in _spools(home))


def within(work: Callable[[], Result], *, seconds: float | None) -> Result:
    """What `work` returns or raises, if it does so in time; else DependencyFailed, and a thread goes on with it.

    None: wait for as long as it takes.
    """
    if seconds is None:
        return work()
    answer: queue.Queue[Result | Exception] = queue.Queue()

    def run() -> None:
        try:
            answer.put(work())
        except Exception as error:
            answer.put(error)

    threading.Thread(target=run, name="tracking", daemon=True).start()
    try:
        found = answer.get(timeout=seconds)
    except queue.Empty:
        raise DependencyFailed(f"MLflow took longer than [tracking] wait_seconds = {seconds:g}") from None
    if isinstance(found, Exception):
        raise found
    return found


def _send(home: Home, settings: Settings, root: Path, done: threading.Event) -> None:
    registry = Registry(home, settings)
    waiting, pause, told = [each for each in _spools(home) if left(each, uri=registry.uri)], SEND_SECONDS, False
    while not done.wait(pause):  # before the first look too: short work is over before MLflow is imported
        try:
            while waiting:
                replay(waiting[0], home=home, registry=registry)
                del waiting[0]
            for folder in spools(root):
                replay(folder, home=home, registry=registry)
            pause = SEND_SECONDS
        except DependencyFailed as error:
            pause = min(2 * pause, GIVE_UP_SECONDS)
            if not told:
                logging.getLogger(__name__).warning("what is measured waits on this disk to be sent: %s", error)
            told = True


def _spools(home: Home) -> list[Path]:
    return spools(home.checkpoints, home.tuning)
