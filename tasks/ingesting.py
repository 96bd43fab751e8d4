"""Ingest below Prefect: spool, intent, verdict, commits, receipt.

Each step can be cut by kill -9 and repeated. A command that finds its own unfinished delivery finishes that one
instead of delivering a second time.
"""

import logging
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

import duckdb

from expectations.pages import write_page
from relations.errors import DataRejected, DependencyFailed, SettingsError, UsageError
from stores.binding import require_mapping
from stores.delivery import (
    UNREADABLE,
    Intent,
    Opened,
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
from stores.quarantine import settle
from stores.readers.opening import kinds_of
from stores.remote import is_local, local_path, opened, printable, shown
from stores.settings import Settings, SourceSettings
from tasks.judging import Verdict, judge_delivery

KINDS = ("events", "items", "users", "exposures")
SERVING = "serving"
DEFAULT_KIND = "events"
"""Of a file whose format does not say what it holds."""
# What a value that nobody thought of raises; disks, memory and settings have errors of their own.
_BUGS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_LOG = logging.getLogger(__name__)


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
    """Deliver one file or object. `landing`: judge lateness and skew as for a stream. `dry_run`: commit nothing.

    The file stays where it is. Raises UsageError (no such file or kind), DataRejected (no row of it can be read; its
    receipt says `unreadable`), DependencyFailed (disk, network, or another ingest holds the home).
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
    if not source.strip() or not source.isprintable():
        raise UsageError(f"source {source!r}: give the feed a name that can be printed")
    stated = settings.sources.get(source, SourceSettings())
    chosen = stated.format if format == "auto" else format
    request = Request(_shown(uri), kind, source, chosen, landing, pseudonymous=source == SERVING)
    stream = partial(opened, str(uri), stated.options)
    if dry_run:
        return rehearse(stream, request, home=home, settings=settings, now=now)
    with ingest_lock(home):
        return deliver([stream], request, home=home, settings=settings, now=now)


def kinds_in(uri: str | Path, *, settings: Settings, source: str, format: str) -> tuple[str, ...]:
    """What a file delivers, where its format says so: a log of impressions is exposures and clicks."""
    stated = settings.sources.get(source, SourceSettings())
    chosen = stated.format if format == "auto" else format
    with opened(str(uri), stated.options) as stream:
        head = stream.read(1 << 16)
    return kinds_of(_shown(uri), chosen, head) or (DEFAULT_KIND,)


def ingest_landing(*, home: Home, settings: Settings, now: datetime) -> list[Receipt]:
    """Deliver every complete file of the landing folders, in the order of their names.

    A file from outside is a delivery of its own; what serving wrote in many small files is delivered together.
    Files named `.part` or with a leading dot are still being written; links are not followed. A file goes after its
    receipt; one that cannot be read goes to `rejected/`; one that cannot be opened stays, and a warning is logged. What
    an earlier ingest left unfinished is finished first.
    """
    receipts = []
    with ingest_lock(home):
        receipts += resume(home)
        for folder in FOLDERS:
            for paths in deliveries(home.landing / folder):
                streams = [partial(opened, str(path), {}) for path in paths]
                try:
                    request = _landing_request(folder, paths, settings)
                    receipts.append(deliver(streams, request, home=home, settings=settings, now=now))
                except SettingsError:
                    raise
                except UsageError as error:  # taken away since it was listed, or not ours to read
                    _LOG.warning("left for the next ingest: %s", error)
    return receipts


def deliver(streams: Sequence[Opened], request: Request, *, home: Home, settings: Settings, now: datetime) -> Receipt:
    """Take the streams, end to end, through the door. The caller holds the ingest lock."""
    require_mapping(request.source, settings.sources.get(request.source, SourceSettings()))
    reading = Reading.of(settings, source=request.source)
    resumed = _resume(home)
    folder, digest = spool(streams, home=home)
    for intent, receipt in resumed:
        # This very command was begun before and has just been finished; to deliver again would count it twice.
        if (intent.digest, intent.request, intent.reading) == (digest, request, reading):
            discard(folder)
            return receipt
    lake = Lake.of(home, reading.lake)
    intent = begin(folder, digest=digest, request=request, reading=reading, now=now, home=home, lake=lake)
    return _complete(intent, home=home)


def _landing_request(folder: str, paths: Sequence[Path], settings: Settings) -> Request:
    inside = folder in FROM_SERVING
    source = SERVING if inside else "landing"
    stated = settings.sources[source].format if source in settings.sources else "auto"
    names = paths[0].name if len(paths) == 1 else f"{paths[0].name}..{paths[-1].name}"
    try:
        found = [(path, path.stat()) for path in paths]
    except FileNotFoundError as error:
        raise UsageError(f"{printable(str(error.filename))}: was taken away") from None
    return Request(
        uri=printable(f"landing/{folder}/{names}"),
        kind="events" if folder == "feedback" else folder,
        source=source,
        format="jsonl" if inside else stated,
        streamed=True,
        pseudonymous=inside,
        landing=tuple((str(path), said.st_ino, said.st_size, said.st_mtime_ns) for path, said in found),
    )


def resume(home: Home) -> list[Receipt]:
    """Finish what an earlier ingest left unfinished. The caller holds the ingest lock."""
    return [receipt for _, receipt in _resume(home)]


def _resume(home: Home) -> list[tuple[Intent, Receipt]]:
    return [(intent, _complete(intent, home=home)) for intent in pending(home)]


def _complete(intent: Intent, *, home: Home) -> Receipt:
    """Take a delivery from its intent to its receipt, whatever of it is done already.

    Raises DependencyFailed where disk or memory are short; whoever delivers next goes on with it.
    """
    try:
        return _completed(intent, home=home)
    except (OSError, MemoryError, duckdb.OperationalError) as error:
        raise DependencyFailed(
            f"{home.root}: the delivery of {intent.request.uri} was cut off: {error}; make space, or mend what is "
            "named, then repeat: that goes on with it"
        ) from error


def _completed(intent: Intent, *, home: Home) -> Receipt:
    lake = Lake.of(home, intent.reading.lake)
    receipt = stored_receipt(lake, intent.delivery_id)
    if receipt is None or receipt.state == UNREADABLE:
        receipt = _judge_and_commit(intent, home=home, lake=lake)
        lake.append("deliveries", receipt.row(), transaction=intent.delivery_id, offsets=intent.request.offsets)
        reach("ingest.receipt")
    for table in (receipt.kind, "late", "quarantine", "deliveries"):
        lake.compact(table)
    finish(intent, state=receipt.state, home=home)
    return receipt


def _judge_and_commit(intent: Intent, *, home: Home, lake: Lake) -> Receipt:
    try:
        verdict = judge_delivery(intent, lake=lake, keys=Keys.load(home.keys))
        receipt = _counted(intent, verdict)
        receipt.row()  # what cannot be written in the end is not begun
    except DataRejected as error:
        return _receipt(intent, state=UNREADABLE, message=str(error), versions=intent.base)
    except _BUGS as error:
        # Or this delivery, which every later one would first have to finish, would close the door for good.
        message = (
            f"{intent.request.uri}: a bug of ours, please report it: {_place(error)}; none of its rows is taken in"
        )
        _LOG.error(message)
        return _receipt(intent, state=UNREADABLE, message=message, versions=intent.base)
    reach("ingest.judged")
    return _commit(intent, verdict, receipt, home=home, lake=lake)


def _commit(intent: Intent, verdict: Verdict, receipt: Receipt, *, home: Home, lake: Lake) -> Receipt:
    staged = verdict.staged
    if staged is not None and verdict.accepted:
        lake.append(receipt.kind, staged.accepted(), transaction=receipt.delivery_id)
    reach("ingest.accepted")
    if staged is not None and verdict.late:
        lake.append("late", staged.late(), transaction=receipt.delivery_id)
    reach("ingest.late")
    if staged is not None and verdict.quarantined:
        lake.append("quarantine", staged.quarantined(), transaction=receipt.delivery_id)
    if intent.request.replays is not None and staged is not None:
        settle(lake, intent.request.replays, by=receipt.delivery_id, rows=staged.placed().tolist())
    reach("ingest.quarantine")
    page = None
    if staged is not None:
        written = write_page(
            home.reports / "data-docs",
            name=receipt.delivery_id,
            results=verdict.evidence,
            facts=_facts(receipt),
            counts=verdict.broken,
        )
        page = str(written.relative_to(home.root))
    reach("ingest.report")
    versions = {table: version for table, version in lake.versions().items() if table != "deliveries"}
    return replace(receipt, table_versions=versions, validation_result=page)


def _facts(receipt: Receipt) -> dict[str, object]:
    """What the head of a delivery's page says."""
    names = ("uri", "kind", "source", "state", "delivered", "accepted", "quarantined", "duplicate", "late")
    facts: dict[str, object] = {name: getattr(receipt, name) for name in names}
    facts |= {"message": receipt.message} if receipt.message else {}
    return facts | {f"warning {number}": said for number, said in enumerate(receipt.warnings, start=1)}


def rehearse(stream: Opened, request: Request, *, home: Home, settings: Settings, now: datetime) -> Receipt:
    """The receipt that a delivery would have; what it stages goes again."""
    require_mapping(request.source, settings.sources.get(request.source, SourceSettings()))
    reading = Reading.of(settings, source=request.source)
    lake = Lake.of(home, reading.lake)
    with ingest_lock(home):
        folder, digest = spool([stream], home=home)
        intent = Intent("dry-run", digest, request, reading, now, lake.versions(), repeats=False, folder=folder)
        try:
            return _counted(intent, judge_delivery(intent, lake=lake, keys=Keys.load(home.keys)))
        except DataRejected as error:
            return _receipt(intent, state=UNREADABLE, message=str(error), versions=intent.base)
        finally:
            discard(folder)


def _place(error: Exception) -> str:
    """Where it was raised. What it says may hold somebody's id."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at {Path(frames[-1].filename).name}:{frames[-1].lineno}"


def _receipt(intent: Intent, *, state: str, message: str, versions: Mapping[str, int]) -> Receipt:
    request = intent.request
    return Receipt(
        delivery_id=intent.delivery_id,
        digest=intent.digest,
        kind=request.kind,
        source=request.source,
        uri=f"{request.uri}#{request.marker}" if request.marker else request.uri,
        received_time=intent.received_time,
        delivered=0,
        accepted=0,
        quarantined=0,
        duplicate=0,
        late=0,
        state=state,
        table_versions={table: version for table, version in versions.items() if table != "deliveries"},
        warnings=request.warnings,
        message=message,
    )


def _counted(intent: Intent, verdict: Verdict) -> Receipt:
    """The receipt before its commits. Raises RuntimeError, our bug, when a row has no place or two."""
    counts = {name: getattr(verdict, name) for name in ("accepted", "quarantined", "duplicate", "late")}
    if sum(counts.values()) != verdict.delivered:
        raise RuntimeError(
            f"{intent.request.uri}: {verdict.delivered} rows delivered, but {counts}; nothing was committed"
        )
    receipt = _receipt(intent, state=verdict.state, message=verdict.message, versions=intent.base)
    return replace(
        receipt,
        delivered=verdict.delivered,
        reasons=verdict.reasons,
        examples=verdict.examples,
        warnings=(*receipt.warnings, *verdict.warnings),
        columns=verdict.columns,
        profile=verdict.profile,
        **counts,
    )


def _shown(uri: str | Path) -> str:
    return printable(str(local_path(str(uri)))) if is_local(str(uri)) else shown(str(uri))
