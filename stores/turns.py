"""One training at a time in a home, and which processes still live: both told by locks that end with their process.

The kernel drops a lock when its process ends, kill -9 included, so neither needs a clock or a clean-up. Between
machines that share a home's folder they hold as far as its file system locks between machines (NFS 4 does).
"""

import atexit
import contextlib
import functools
import os
import socket
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from relations.errors import TrainingUnderWay
from stores.home import Home

DAY = 86_400.0


@contextlib.contextmanager
def training_turn(home: Home, *, who: str) -> Iterator[None]:
    """Have the home's only training turn while inside. `who` is told to whoever finds it taken.

    Raises TrainingUnderWay, naming who has it and since when, without waiting.
    """
    told = home.run / "training.txt"
    try:
        lock = FileLock(home.run / "training.lock", timeout=0).acquire()
    except Timeout as error:
        holder = "another training"
        with contextlib.suppress(OSError):
            holder = told.read_text(encoding="utf-8").strip() or holder
        raise TrainingUnderWay(
            f"{home.root}: {holder} is at work; one training at a time: wait for it, or stop it"
        ) from error
    with lock:
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        told.write_text(f"{who} (process {os.getpid()} on {socket.gethostname()}, since {since})", encoding="utf-8")
        try:
            yield
        finally:
            told.unlink(missing_ok=True)


def sign_of_life(home: Home) -> str:
    """The name of a file that stays locked for as long as this process lives; made on the first call."""
    return _held(home.run / "processes", os.getpid()).name


def lives(home: Home, sign: str) -> bool:
    """Whether the process that gave this sign of life is still there."""
    return _locked(home.run / "processes" / sign)


def sweep_signs(home: Home) -> None:
    """Remove what processes left that were killed; the others remove their own. A new file may not be locked yet."""
    for file in (home.run / "processes").glob("*.lock"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - file.stat().st_mtime > DAY and not _locked(file):
                file.unlink()


@functools.cache
def _held(folder: Path, process: int) -> Path:
    """`process` is part of the key because a forked child must show a sign of its own."""
    folder.mkdir(exist_ok=True)
    file = folder / f"{socket.gethostname()}-{process}-{uuid.uuid4().hex[:8]}.lock"
    lock = FileLock(file)
    lock.acquire()
    # Until the process ends, for a lock that nobody refers to is released.
    atexit.register(_let_go, lock, file)
    return file


def _let_go(lock: FileLock, file: Path) -> None:
    lock.release()
    file.unlink(missing_ok=True)


def _locked(file: Path) -> bool:
    if not file.exists():
        return False
    try:
        with FileLock(file, timeout=0):
            return False
    except Timeout:
        return True
