"""Ingest below Prefect: spool, intent, verdict, commits, receipt; and what serving learns from it afterwards.

Each step can be cut by kill -9 and repeated. A command that finds its own unfinished delivery finishes that one
instead of delivering a second time.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from expectations.pages import write_page
from relations.errors import DataRejected, UsageError
from stores.delivery import (
    EMPTY,
    UNREADABLE,
    Intent,
    Reading,
    Receipt,
    Request,
    begin,
    discard,
    finish,
    ingest_lock,
    pending,
    spool,
    stored_receipt,
)
from stores.failpoints import reach
from stores.home import Home
from stores.lake import Lake
from stores.landing import FOLDERS, FROM_SERVING, deliveries
from stores.pseudonyms import Keys
from stores.quarantine import reason_counts
from stores.settings import Settings
from stores.sources import read_batch
from tasks.judging import Verdict, judge_batch

KINDS = ("events", "items", "users", "exposures")
SERVING = "serving"
POPULARITY_DAYS = 7.0


def ingest_file(
    uri: str | Path,
    *,
    home: Home,
    settings: Settings,
    kind: str = "events",
    source: str = "file",
    format: str = "auto",
    landing: bool = False,
    now: datetime,
    dry_run: bool = False,
) -> Receipt:
    """Deliver one file. `landing`: judge lateness and skew as for a stream. `dry_run`: judge and write nothing.

    The file stays where it is. Raises UsageError (no such file or kind), DataRejected (no row of it can be read; its
    receipt says `unreadable`), DependencyFailed (disk, or another ingest holds the home).
    """
    receipt = deliver_file(
        uri,
        home=home,
        settings=settings,
        kind=kind,
        source=source,
        format=format,
        landing=landing,
        now=now,
        dry_run=dry_run,
    )
    if receipt.state == UNREADABLE:
        raise DataRejected(receipt.message)
    return receipt


def deliver_file(
    uri: str | Path,
    *,
    home: Home,
    settings: Settings,
    kind: str = "events",
    source: str = "file",
    format: str = "auto",
    landing: bool = False,
    now: datetime,
    dry_run: bool = False,
) -> Receipt:
    """As `ingest_file`, with an unreadable file as a receipt: its `message` says what is wrong with it."""
    if kind not in KINDS:
        raise UsageError(f"kind {kind!r}: not one of {', '.join(KINDS)}")
    path = _local(uri)
    stated = settings.sources[source].format if source in settings.sources and format == "auto" else format
    # Exposures are written by serving alone, and serving writes pseudonyms.
    request = Request(str(path), kind, source, stated, landing, source == SERVING or kind == "exposures")
    if dry_run:
        return _rehearse(path, request, home=home, settings=settings, now=now)
    with ingest_lock(home):
        return _deliver([path], request, home=home, settings=settings, now=now)


def ingest_landing(*, home: Home, settings: Settings, now: datetime) -> list[Receipt]:
    """Deliver every complete file of the landing folders, in the order of their names.

    A file from outside is a delivery of its own; what serving wrote in many small files is delivered together.
    Files named `.part` or with a leading dot are still being written; links are not followed. A file goes after its
    receipt; one that cannot be read goes to `rejected/`. What an earlier ingest left unfinished is finished first.
    """
    receipts = []
    with ingest_lock(home):
        receipts += [receipt for _, receipt in _resume(home)]
        for folder in FOLDERS:
            for paths in deliveries(home.landing / folder):
                request = _landing_request(folder, paths, settings)
                receipts.append(_deliver(paths, request, home=home, settings=settings, now=now))
    return receipts


def _landing_request(folder: str, paths: Sequence[Path], settings: Settings) -> Request:
    inside = folder in FROM_SERVING
    source = SERVING if inside else "landing"
    stated = settings.sources[source].format if source in settings.sources else "auto"
    names = paths[0].name if len(paths) == 1 else f"{paths[0].name}..{paths[-1].name}"
    found = [(path, path.stat()) for path in paths]
    return Request(
        uri=f"landing/{folder}/{names}",
        kind="events" if folder == "feedback" else folder,
        source=source,
        format="jsonl" if inside else stated,
        streamed=True,
        pseudonymous=inside,
        landing=tuple((str(path), said.st_ino, said.st_size, said.st_mtime_ns) for path, said in found),
    )


def refresh_serving(home: Home, settings: Settings, deliveries: Sequence[str] = ()) -> int:
    """Bring serving's user state and popularity list up to the events table; returns the rows absorbed.

    Works from a mark of the last events version absorbed, so that a refresh lost to a kill is made up by the next;
    `deliveries` are absorbed whatever the mark says. Idempotent, by event id. Popularity counts the
    `POPULARITY_DAYS` before the newest event.
    """
    from stores.popularity import publish
    from stores.user_state import UserState

    lake = Lake(home.lake)
    mark = home.serving / "absorbed.json"
    version = lake.version("events")
    absorbed = _absorbed(mark) if home.user_state.exists() else -1
    if version < 0 or (version == absorbed and not deliveries and home.popularity.exists()):
        return 0
    new = _events_since(lake, absorbed, deliveries)
    times = new.column("event_time").cast(pa.int64())
    names = ("user", "event_id", "item_id", "behaviour")
    state = UserState(home.user_state)
    try:
        state.absorb(zip(*(new.column(name).to_pylist() for name in names), times.to_pylist(), strict=True))
    finally:
        state.close()
    publish(home.popularity, _popular(lake))
    temporary = mark.with_suffix(".part")
    temporary.write_text(json.dumps({"events": version}))
    temporary.replace(mark)
    return int(new.num_rows)


def _deliver(paths: Sequence[Path], request: Request, *, home: Home, settings: Settings, now: datetime) -> Receipt:
    """The lock is held."""
    reading = Reading.of(settings, source=request.source)
    resumed = _resume(home)
    folder, digest = spool(paths, home=home)
    for intent, receipt in resumed:
        # This very command was begun before and has just been finished; to deliver again would count it twice.
        if (intent.digest, intent.request, intent.reading) == (digest, request, reading):
            discard(folder)
            return receipt
    lake = Lake(home.lake)
    intent = begin(folder, digest=digest, request=request, reading=reading, now=now, home=home, lake=lake)
    return _complete(intent, home=home)


def _resume(home: Home) -> list[tuple[Intent, Receipt]]:
    return [(intent, _complete(intent, home=home)) for intent in pending(home)]


def _complete(intent: Intent, *, home: Home) -> Receipt:
    """Take a delivery from its intent to its receipt, whatever of it is done already."""
    lake = Lake(home.lake)
    receipt = stored_receipt(lake, intent.delivery_id)
    if receipt is None or receipt.state == UNREADABLE:
        receipt = _judge_and_commit(intent, home=home, lake=lake)
        lake.append("deliveries", receipt.row(), transaction=intent.delivery_id)
        reach("ingest.receipt")
    for table in (receipt.kind, "late", "quarantine", "deliveries"):
        lake.compact(table)
    finish(intent, state=receipt.state, home=home)
    return receipt


def _judge_and_commit(intent: Intent, *, home: Home, lake: Lake) -> Receipt:
    request = intent.request
    try:
        batch = read_batch(intent.input, uri=request.uri, kind=request.kind, format=request.format)
    except DataRejected as error:
        return _receipt(intent, state=UNREADABLE, message=str(error), versions=intent.base)
    reach("ingest.read")
    keys = Keys.load(home.keys)
    verdict = judge_batch(batch, intent, lake=lake, keys=keys)
    receipt = _counted(intent, verdict, delivered=batch.rows)
    reach("ingest.judged")
    return _commit(verdict, receipt, home=home, lake=lake)


def _commit(verdict: Verdict, receipt: Receipt, *, home: Home, lake: Lake) -> Receipt:
    lake.append(receipt.kind, verdict.accepted, transaction=receipt.delivery_id)
    reach("ingest.accepted")
    lake.append("late", verdict.late, transaction=receipt.delivery_id)
    reach("ingest.late")
    lake.append("quarantine", verdict.quarantined, transaction=receipt.delivery_id)
    reach("ingest.quarantine")
    page = None
    if verdict.result is not None:
        written = write_page(home.reports / "data-docs", name=receipt.delivery_id, result=verdict.result)
        page = str(written.relative_to(home.root))
    reach("ingest.report")
    versions = {table: version for table, version in lake.versions().items() if table != "deliveries"}
    return replace(receipt, table_versions=versions, validation_result=page)


def _rehearse(path: Path, request: Request, *, home: Home, settings: Settings, now: datetime) -> Receipt:
    lake, reading = Lake(home.lake), Reading.of(settings, source=request.source)
    intent = Intent("dry-run", "", request, reading, now, lake.versions(), repeats=False, folder=path.parent)
    try:
        batch = read_batch(path, uri=request.uri, kind=request.kind, format=request.format)
    except DataRejected as error:
        return _receipt(intent, state=UNREADABLE, message=str(error), versions=intent.base)
    keys = Keys.load(home.keys)
    return _counted(intent, judge_batch(batch, intent, lake=lake, keys=keys), delivered=batch.rows)


def _receipt(intent: Intent, *, state: str, message: str, versions: Mapping[str, int]) -> Receipt:
    request = intent.request
    return Receipt(
        delivery_id=intent.delivery_id,
        digest=intent.digest,
        kind=request.kind,
        source=request.source,
        uri=request.uri,
        received_time=intent.received_time,
        delivered=0,
        accepted=0,
        quarantined=0,
        duplicate=0,
        late=0,
        state=state,
        table_versions={table: version for table, version in versions.items() if table != "deliveries"},
        message=message,
    )


def _counted(intent: Intent, verdict: Verdict, *, delivered: int) -> Receipt:
    """The receipt before its commits. Raises RuntimeError, our bug, when a row has no place or two."""
    counts = {
        "accepted": verdict.accepted.num_rows,
        "quarantined": verdict.quarantined.num_rows,
        "duplicate": verdict.duplicate,
        "late": verdict.late.num_rows,
    }
    if sum(counts.values()) != delivered:
        raise RuntimeError(f"{intent.request.uri}: {delivered} rows delivered, but {counts}; nothing was committed")
    message = "no rows" if verdict.state == EMPTY else verdict.message
    receipt = _receipt(intent, state=verdict.state, message=message, versions=intent.base)
    return replace(receipt, delivered=delivered, reasons=reason_counts(verdict.quarantined), **counts)


def _local(uri: str | Path) -> Path:
    text = str(uri)
    if "://" in text and not text.startswith("file://"):
        raise UsageError(f"{text}: only local files are read; copy it here first")
    path = Path(text.removeprefix("file://")).absolute()
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name its files")
    if not path.exists():
        raise UsageError(f"{path}: no such file")
    return path


def _absorbed(mark: Path) -> int:
    try:
        return int(json.loads(mark.read_text())["events"])
    except (OSError, ValueError, KeyError, TypeError):
        return -1  # absorbing again changes nothing


def _events_since(lake: Lake, version: int, also: Sequence[str]) -> pa.Table:
    """Events of the deliveries committed after `version` of the events table."""
    columns = ["delivery_id", "user", "event_id", "item_id", "behaviour", "event_time"]
    events = lake.read("events", columns=columns)
    if version < 0:
        return events
    receipts = lake.read("deliveries", columns=["delivery_id", "kind", "table_versions"]).to_pylist()
    new = [
        row["delivery_id"]
        for row in receipts
        if row["kind"] == "events" and dict(row["table_versions"]).get("events", -1) > version
    ]
    return events.filter(pc.is_in(events.column("delivery_id"), pa.array([*new, *also], pa.string())))


def _popular(lake: Lake) -> Sequence[tuple[str, int]]:
    import ibis

    from relations.standing import item_counts

    watermark = lake.watermark("events")
    if watermark is None:
        return []
    since = ibis.literal(watermark - timedelta(days=POPULARITY_DAYS))
    counts: pa.Table = item_counts(lake.relation("events"), since=since).to_pyarrow()
    pairs: list[Any] = list(zip(counts.column("item_id").to_pylist(), counts.column("count").to_pylist(), strict=True))
    return pairs
