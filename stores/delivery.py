"""The delivery protocol's durable side: one ingest at a time, a spooled copy and an intent before anything is
committed, a receipt after everything is.

`staging/<delivery id>/` holds `input` (the bytes as delivered) and `intent.json`. It appears by one rename and goes
last, so what lies there is exactly what was begun and not finished. A delivery id is the digest of the bytes, the
digest of how they are read, and the number of completed deliveries of both: a retry finds its own id again.

Kill -9 safe, by test; power loss is not tested, though the intent and the copy are flushed to the disk first.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout

from relations.errors import DependencyFailed, RatchetError
from relations.schemas import DELIVERIES
from stores.failpoints import reach
from stores.home import Home
from stores.lake import Lake
from stores.privacy import finish_interrupted
from stores.quarantine import reason_counts
from stores.sections import Section
from stores.settings import LakeSettings, Settings, SourceSettings, ValidationSettings

BATCH, COLUMNS = "batch", "columns"
"""Reasons of a batch, not of a row: too many rows fail, or a required column is missing."""
COMMITTED, WHOLE, UNREADABLE, EMPTY = "committed", "quarantined_whole", "unreadable", "empty"
_SPOOL = ".spool"
_CHUNK = 1 << 20

Opened = Callable[[], AbstractContextManager[BinaryIO]]


class Reading(Section):
    """The settings that decide a verdict, frozen into the intent: a retry judges as the first try did."""

    source: SourceSettings
    validation: ValidationSettings
    lake: LakeSettings

    @staticmethod
    def of(settings: Settings, *, source: str) -> "Reading":
        stated = settings.sources.get(source, SourceSettings())
        return Reading(
            # Where a source lies and how it is reached decides nothing, and its options may hold secrets.
            source=stated.model_copy(update={"uri": "", "options": {}}),
            validation=settings.validation,
            lake=settings.lake,
        )


@dataclass(frozen=True)
class Request:
    """What was asked for. `streamed`: lateness and skew are judged. `pseudonymous`: users are not hashed again."""

    uri: str
    kind: str
    source: str
    format: str
    streamed: bool
    pseudonymous: bool
    landing: tuple[tuple[str, int, int, int], ...] = ()
    """Path, inode, bytes and mtime (ns) of each landing file that the receipt releases."""
    offsets: Mapping[str, int] = field(default_factory=dict)
    """Stream partition → next offset, committed with the receipt; a polled object is a partition of its own."""
    replays: str | None = None
    """The delivery whose quarantined rows these are."""
    released: bool = False
    """A person named that delivery: what spoke against it as a whole holds no row of it back."""
    marker: str = ""
    """Which content of the URI this is (a polled object's etag, a topic's offsets); the receipt's uri ends in it."""
    warnings: tuple[str, ...] = ()
    """What the source had to say of these rows, for the receipt."""

    def fingerprint(self, reading: Reading) -> str:
        """How the bytes are read: with other settings the same file is another delivery."""
        said = [self.kind, self.source, self.format, self.streamed, self.pseudonymous, Path(self.uri).suffix]
        text = json.dumps([*said, reading.model_dump(mode="json")], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Intent:
    """One delivery that was begun. `base`: table versions that its verdicts are judged against."""

    delivery_id: str
    digest: str
    request: Request
    reading: Reading
    received_time: datetime
    base: Mapping[str, int]
    repeats: bool
    """The same bytes, read the same way, were delivered and committed before: all rows are duplicates."""
    folder: Path

    @property
    def input(self) -> Path:
        return self.folder / "input"


@dataclass(frozen=True)
class Receipt:
    """What became of one delivery: delivered = accepted + quarantined + duplicate + late.

    `reasons`: (expectation and column, newly quarantined rows that broke it; of a replay, rows that broke it again),
    most first.
    """

    delivery_id: str
    digest: str
    kind: str
    source: str
    uri: str
    received_time: datetime
    delivered: int
    accepted: int
    quarantined: int
    duplicate: int
    late: int
    state: str
    table_versions: Mapping[str, int]
    reasons: tuple[tuple[str, int], ...] = ()
    examples: Mapping[str, str] = field(default_factory=dict)
    """Of each of `reasons`, what one row's message says. Not stored: the quarantine has every row's."""
    validation_result: str | None = None
    warnings: tuple[str, ...] = ()
    """What a person should know of a batch that was accepted."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """The source's column → its observed type, what the next delivery's schema is held against."""
    profile: Mapping[str, float] = field(default_factory=dict)
    message: str = ""
    """For a person: why the batch as a whole was held back or could not be read."""

    def as_json(self) -> dict[str, Any]:
        """Plain values for `--json` and artifacts."""
        said = asdict(self)
        return {**said, "received_time": self.received_time.isoformat(), "reasons": dict(self.reasons)}

    def row(self) -> pa.Table:
        said = {name: getattr(self, name) for name in DELIVERIES.names}
        said["table_versions"] = sorted(self.table_versions.items())
        for name in ("columns", "profile"):
            said[name] = sorted(said[name].items()) or None
        return pa.Table.from_pylist([said], schema=DELIVERIES)


@contextmanager
def ingest_lock(home: Home, *, seconds: float = 300.0) -> Iterator[None]:
    """Hold the home's one place for an ingest. Raises DependencyFailed when another holds it for `seconds`."""
    path = home.run / "ingest.lock"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        raise DependencyFailed(
            f"{path}: another ingest has run in this home for {seconds:g} s; wait for it or end it, then repeat "
            "(a killed one lets go by itself)"
        ) from None
    try:
        for left in home.staging.glob(f"{_SPOOL}-*"):  # the lock is held: whoever left these is gone
            discard(left)
        finish_interrupted(home)
        yield
    finally:
        lock.release()


def spool(inputs: Sequence[Opened], *, home: Home) -> tuple[Path, str]:
    """Copy the inputs into staging, end to end; (folder, SHA-256 of the bytes).

    Raises DependencyFailed where the disk refuses, and whatever opening or reading an input raises.
    """
    folder = home.staging / f"{_SPOOL}-{os.getpid()}"
    digest = hashlib.sha256()
    try:
        folder.mkdir(parents=True)
        with (folder / "input").open("wb") as copy:
            for opened in inputs:
                with opened() as source:
                    while chunk := source.read(_CHUNK):
                        digest.update(chunk)
                        copy.write(chunk)
            copy.flush()
            os.fsync(copy.fileno())
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise DependencyFailed(f"{folder}: cannot copy the input: {error}; make space, then repeat") from error
    except RatchetError:  # of an input
        discard(folder)
        raise
    reach("ingest.spooled")
    return folder, digest.hexdigest()


def discard(folder: Path) -> None:
    """Drop a spooled copy that becomes no delivery."""
    shutil.rmtree(folder)


def begin(
    folder: Path, *, digest: str, request: Request, reading: Reading, now: datetime, home: Home, lake: Lake
) -> Intent:
    """Turn the spooled copy into an intent: from here on the delivery is finished, by this process or the next."""
    prefix = f"{digest[:20]}-{request.fingerprint(reading)[:8]}"
    earlier = _receipts(lake, pc.starts_with(pc.field("delivery_id"), prefix))
    delivery_id = f"{prefix}-{earlier.num_rows}"
    intent = Intent(
        delivery_id=delivery_id,
        digest=digest,
        request=request,
        reading=reading,
        received_time=now,
        base=lake.versions(),
        # A replay is judged each time: rows that failed by a bound of time, or beside others, may pass by now.
        repeats=request.replays is None
        and any(state in (COMMITTED, WHOLE) for state in earlier.column("state").to_pylist()),
        folder=home.staging / delivery_id,
    )
    said = asdict(replace(intent, reading=None, folder=None))  # type: ignore[arg-type]
    said["reading"] = reading.model_dump(mode="json")
    said["received_time"] = now.isoformat()
    try:
        with (folder / "intent.json").open("w", encoding="utf-8") as file:
            json.dump(said, file)
            file.flush()
            os.fsync(file.fileno())
        folder.replace(intent.folder)
    except OSError as error:
        raise DependencyFailed(f"{folder}: cannot write the intent: {error}; make space, then repeat") from error
    reach("ingest.intent")
    return intent


def pending(home: Home) -> list[Intent]:
    """Deliveries that were begun and not finished, oldest first."""
    found = [_read_intent(path) for path in home.staging.glob("*/intent.json") if not path.parent.name.startswith(".")]
    return sorted(found, key=lambda intent: (intent.received_time, intent.delivery_id))


def stored_receipt(lake: Lake, delivery_id: str) -> Receipt | None:
    """The receipt of a finished delivery."""
    found = _receipts(lake, pc.field("delivery_id") == delivery_id).to_pylist()
    if not found:
        return None
    held = lake.read("quarantine", columns=["delivery_id", "reasons"])
    mine = held.filter(pc.equal(held.column("delivery_id"), delivery_id))
    row: dict[str, Any] = {**found[0], "warnings": tuple(found[0]["warnings"] or ())}
    row |= {name: dict(row[name] or ()) for name in ("table_versions", "columns", "profile")}
    return Receipt(**row, reasons=reason_counts(mine), message=_batch_message(mine))


def finish(intent: Intent, *, state: str, home: Home) -> None:
    """Release the landing files (unreadable ones to `rejected/`), then forget the intent. Safe to repeat.

    Raises DependencyFailed where a file cannot be taken away.
    """
    for name, inode, size, modified in intent.request.landing:
        path = Path(name)
        try:
            now = path.lstat()
            # Another file may have taken the name meanwhile; that one has its own delivery to come.
            if (now.st_ino, now.st_size, now.st_mtime_ns) == (inode, size, modified):
                if state == UNREADABLE:
                    # Names have at most 255 bytes. Landing may be a mount of its own, across which nothing is renamed.
                    kept = os.fsencode(f"{intent.delivery_id}-{path.name}")[:255]
                    shutil.move(path, home.rejected / os.fsdecode(kept))
                else:
                    path.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            raise DependencyFailed(
                f"{path}: delivered, but cannot be taken away: {error}; take it away, or mend the folder's rights"
            ) from error
        reach("ingest.landing")
    if state == UNREADABLE and intent.request.offsets:  # a topic is read on from behind it: there is no other copy
        shutil.copyfile(intent.input, home.rejected / f"{intent.delivery_id}-messages.jsonl")
    # One rename ends the intent; a kill while the folder is emptied leaves only what the next ingest sweeps away.
    done = home.staging / f"{_SPOOL}-{intent.delivery_id}"
    intent.folder.replace(done)
    discard(done)


def _receipts(lake: Lake, which: pc.Expression) -> pa.Table:
    return lake.read("deliveries").filter(which)


def _batch_message(held: pa.Table) -> str:
    """What was wrong with the batch as a whole, as its rows' reasons tell it."""
    for reasons in held.column("reasons").to_pylist():
        whole = [reason["message"] for reason in reasons if reason["expectation"] in (BATCH, COLUMNS)]
        if whole:
            return "; ".join(whole)
    return ""


def _request(said: dict[str, Any]) -> Request:
    landing = tuple((*mark,) for mark in said.pop("landing"))
    return Request(**{**said, "landing": landing, "warnings": tuple(said["warnings"])})


def _read_intent(path: Path) -> Intent:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        request = said.pop("request")
        said.pop("folder")
        return Intent(
            **{
                **said,
                "request": _request(request),
                "reading": Reading.model_validate(said["reading"]),
                "received_time": datetime.fromisoformat(said["received_time"]),
                "folder": path.parent,
            }
        )
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DependencyFailed(
            f"{path}: not readable as a delivery's intent ({error}); move its folder away and deliver its input again"
        ) from error
