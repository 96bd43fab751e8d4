"""Items that nobody may be shown, whatever a model says: one JSON file, which every server follows.

`{"format": 1, "items": {item_id: {"by", "when", "reason"}}, "unrecorded": [act, …]}`. The file is what serves. The
ledger's record of it may come later: an act waits in `unrecorded` until a ledger took it.
"""

import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from relations.errors import DataRejected, DependencyFailed, UsageError

FORMAT = 1
_LOCK_SECONDS = 10.0
MOST_ITEMS = 1_000_000


@dataclass(frozen=True)
class Block:
    """Why an item is on the list. `when`: ISO 8601, UTC."""

    by: str
    when: str
    reason: str


@dataclass(frozen=True)
class Act:
    """What one command did to the list, as the ledger is to record it."""

    action: Literal["block", "unblock"]
    items: tuple[str, ...]
    by: str
    when: str
    reason: str
    id: str = field(default_factory=lambda: secrets.token_hex(8))


@dataclass(frozen=True)
class Blocklist:
    items: Mapping[str, Block] = field(default_factory=dict)
    unrecorded: tuple[Act, ...] = ()


def read(path: Path) -> Blocklist:
    """Empty where there is no file. Raises DataRejected for one that is damaged: what it blocked is unknown then."""
    try:
        stated = json.loads(path.read_bytes())
    except FileNotFoundError:
        return Blocklist()
    except OSError as error:
        raise DependencyFailed(f"{path}: not readable: {error.strerror}; check its permissions") from error
    except ValueError as error:
        raise _damaged(path, f"not JSON ({error})") from error
    try:
        if stated["format"] != FORMAT:
            raise ValueError(f"format {stated['format']!r}, not {FORMAT}")
        acts = tuple(Act(**{**act, "items": tuple(act["items"])}) for act in stated["unrecorded"])
        items = {item: Block(**block) for item, block in stated["items"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, repr(error)) from error
    return Blocklist(items, acts)


def add(path: Path, items: Sequence[str], *, by: str, reason: str, now: datetime) -> tuple[str, ...]:
    """Block `items`; those blocked already keep their entry. Returns the new ones."""
    _check_named(items, by, reason)

    def change(found: dict[str, Block]) -> tuple[str, ...]:
        fresh = tuple(item for item in dict.fromkeys(items) if item not in found)
        found.update(dict.fromkeys(fresh, Block(by, now.isoformat(), reason)))
        if len(found) > MOST_ITEMS:
            raise UsageError(f"{path}: {len(found)} items; at most {MOST_ITEMS}: withdraw them in the catalogue")
        return fresh

    return _change(path, change, action="block", by=by, reason=reason, now=now)


def remove(path: Path, items: Sequence[str], *, by: str, reason: str, now: datetime) -> tuple[str, ...]:
    """Take `items` off the list; returns those that were on it."""
    _check_named(items, by, reason)

    def change(found: dict[str, Block]) -> tuple[str, ...]:
        gone = tuple(item for item in dict.fromkeys(items) if item in found)
        for item in gone:
            del found[item]
        return gone

    return _change(path, change, action="unblock", by=by, reason=reason, now=now)


def recorded(path: Path, acts: Sequence[Act]) -> None:
    """The ledger has these acts now."""
    done = {act.id for act in acts}
    with _locked(path):
        found = read(path)
        _write(path, Blocklist(found.items, tuple(act for act in found.unrecorded if act.id not in done)))


def _change(
    path: Path,
    change: Callable[[dict[str, Block]], tuple[str, ...]],
    *,
    action: Literal["block", "unblock"],
    by: str,
    reason: str,
    now: datetime,
) -> tuple[str, ...]:
    with _locked(path):
        former = read(path)
        items = dict(former.items)
        changed = change(items)
        if changed:
            act = Act(action, changed, by, now.isoformat(), reason)
            _write(path, Blocklist(items, (*former.unrecorded, act)))
    return changed


def _check_named(items: Sequence[str], by: str, reason: str) -> None:
    if not by.strip() or not reason.strip():
        raise UsageError("the blocklist keeps who and why: name a person with --as, and give a --reason")
    if not items or not all(items):
        raise UsageError("name the items; an id is not empty")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two people at once lose neither's change."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=_LOCK_SECONDS):
            yield
    except Timeout as error:
        raise DependencyFailed(f"{path}: another command has held it for {_LOCK_SECONDS:g} s; try again") from error
    except OSError as error:
        raise DependencyFailed(f"{path}: cannot be written: {error.strerror}; free the disk") from error


def _write(path: Path, blocklist: Blocklist) -> None:
    stated: dict[str, Any] = {
        "format": FORMAT,
        "items": {item: asdict(block) for item, block in sorted(blocklist.items.items())},
        "unrecorded": [asdict(act) for act in blocklist.unrecorded],
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(stated, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _damaged(path: Path, why: str) -> DataRejected:
    return DataRejected(
        f"{path}: the blocklist is damaged: {why}; restore it from a backup, or move it away and block the items of "
        "`ratchet ledger show --json` again"
    )
