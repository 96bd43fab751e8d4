"""The kill switch: trials whose challenger nobody may see any more, in a file that serving looks at by itself.

`{"format": 1, "killed": [{"trial", "actor", "reason", "time"}, …]}`, oldest first. It is written before the ledger and
does not need it. An entry stays when the ledger knows of the kill, so that a server that cannot reach the ledger keeps
to it too. Standard library and a file lock only: serving reads it.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from relations.errors import DataRejected, DependencyFailed
from stores.ledger_records import stamp, unstamp

FORMAT = 1
_LOCK_SECONDS = 5.0


@dataclass(frozen=True)
class Kill:
    trial: str
    actor: str
    reason: str
    time: datetime


def read(path: Path) -> tuple[Kill, ...]:
    """Oldest first; none where nothing was ever killed.

    Raises DataRejected for a file that is not a kill switch: until it is mended no challenger may be shown.
    """
    try:
        stated = json.loads(path.read_bytes())
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise DependencyFailed(f"{path}: not readable: {error.strerror}; check its permissions") from error
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    try:
        if stated["format"] != FORMAT:
            raise _damaged(path, f"format {stated['format']!r}, not {FORMAT}")
        return tuple(
            Kill(str(each["trial"]), str(each["actor"]), str(each["reason"]), unstamp(each["time"]))
            for each in stated["killed"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, repr(error)) from error


def add(path: Path, kill: Kill) -> None:
    """From the return on every server of the home sees it at its next look. A trial's first kill stays.

    Raises DataRejected for a damaged file, which stops every challenger already, and DependencyFailed where the disk
    refuses.
    """
    _change(path, lambda kills: kills if any(kill.trial == each.trial for each in kills) else (*kills, kill))


def withdraw(path: Path, trial: str) -> None:
    """Take out a name that no trial has: a later trial of that name must not be dead on arrival."""
    _change(path, lambda kills: tuple(each for each in kills if each.trial != trial))


def _change(path: Path, change: Callable[[tuple[Kill, ...]], tuple[Kill, ...]]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with FileLock(path.with_suffix(".lock"), timeout=_LOCK_SECONDS):
            before = read(path)
            after = change(before)
            if after == before:
                return
            told = [
                {"trial": each.trial, "actor": each.actor, "reason": each.reason, "time": stamp(each.time)}
                for each in after
            ]
            with temporary.open("w", encoding="utf-8") as file:
                json.dump({"format": FORMAT, "killed": told}, file, ensure_ascii=False, indent=1)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    except Timeout as error:
        raise DependencyFailed(
            f"{path}: another process has held its lock for {_LOCK_SECONDS:g} s; end it, or write the file by hand"
        ) from error
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DependencyFailed(f"{path}: cannot be written: {error.strerror}; free or mend the disk") from error


def _damaged(path: Path, why: str) -> DataRejected:
    return DataRejected(
        f"{path}: not a kill switch ({why}); no challenger is shown until it is mended, or deleted by hand"
    )
