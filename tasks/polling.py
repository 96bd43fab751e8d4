"""Polled sources: what is new behind each `[sources.NAME] uri` through the door, exactly once.

What was delivered is known from the receipts alone, which are written last: an object by its URL and its content's
marker in the receipt's uri, a topic by the offsets that are committed with the receipt. A kill at any place leaves
either an intent, which is finished first, or nothing, and the poll begins again where the receipts end.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import pyarrow.compute as pc

from relations.errors import DependencyFailed, RatchetError, UsageError
from stores.delivery import Receipt, Request, discard, ingest_lock
from stores.home import Home
from stores.kafka import PROTOCOL, address, topic
from stores.lake import Lake
from stores.landing import FOLDERS
from stores.remote import Found, listing, opened, shown
from stores.settings import Settings, SourceSettings
from tasks.ingesting import deliver, resume

PATIENCE = 3
"""So many objects in a row that cannot be delivered end a source's turn."""


@dataclass(frozen=True)
class Failure:
    """Why a source, or one object of it, was not delivered."""

    source: str
    message: str


@dataclass(frozen=True)
class Polled:
    receipts: tuple[Receipt, ...]
    failures: tuple[Failure, ...]


def poll_sources(*, home: Home, settings: Settings, now: datetime) -> Polled:
    """Deliver what is new in every configured source, catalogue and people first, as a stream's rows are judged.

    A source that fails is told of and stops no other. Raises only what is our bug.
    """
    receipts: list[Receipt] = []
    failures: list[Failure] = []
    polled = [(name, source) for name, source in settings.sources.items() if source.uri]
    for name, source in sorted(polled, key=lambda each: (FOLDERS.index(each[1].kind), each[0])):
        poll = _poll_topic if source.uri.startswith(PROTOCOL) else _poll_objects
        try:
            for found in poll(name, source, home=home, settings=settings, now=now):
                if isinstance(found, Failure):
                    failures.append(found)
                else:
                    receipts.append(found)
        except RatchetError as error:
            failures.append(Failure(name, str(error)))
    return Polled(tuple(receipts), tuple(failures))


def _poll_objects(
    name: str, source: SourceSettings, *, home: Home, settings: Settings, now: datetime
) -> Iterator[Receipt | Failure]:
    """Each object of the listing that no receipt names yet; one that has changed is another."""
    lake = Lake(home.lake)
    done = _delivered(lake, name)
    in_a_row = 0
    for found in listing(source.uri, source.options):
        if _known_as(found) in done:
            continue
        request = Request(
            uri=shown(found.uri),
            kind=source.kind,
            source=name,
            format=source.format,
            streamed=True,
            pseudonymous=False,
            marker=found.marker,
        )
        said: list[Receipt | Failure] = []
        with ingest_lock(home):
            said += resume(home)
            if _known_as(found) not in _delivered(lake, name):  # else it was just now, or by another process
                stream = partial(opened, found.uri, source.options)
                try:
                    said.append(deliver([stream], request, home=home, settings=settings, now=now))
                    in_a_row = 0
                except RatchetError as error:
                    said.append(Failure(name, str(error)))
                    in_a_row += 1
        yield from said
        if in_a_row == PATIENCE:
            return


def _poll_topic(
    name: str, source: SourceSettings, *, home: Home, settings: Settings, now: datetime
) -> Iterator[Receipt | Failure]:
    """The topic from the offsets of the last receipt to what was its end when the poll began, batch by batch."""
    if source.format not in ("auto", "jsonl"):
        raise UsageError(
            f"[sources.{name}] format = {source.format!r}: a topic's messages are read as JSON; leave it out"
        )
    lake = Lake(home.lake)
    _, its_name = address(source.uri)
    with topic(source.uri, source.options, source=name) as reader:
        marks = {partition: f"kafka:{name}:{its_name}:{partition}" for partition in reader.ends}
        more = True
        while more:
            said: list[Receipt | Failure] = []
            with ingest_lock(home):
                said += resume(home)
                found = {partition: lake.offset("deliveries", mark) for partition, mark in marks.items()}
                starts = {partition: offset for partition, offset in found.items() if offset is not None}
                folder = home.staging / f".spool-topic-{os.getpid()}"
                file = folder / "messages"
                try:
                    folder.mkdir()
                    with file.open("wb") as into:
                        batch = reader.gather(starts, into=into, rows=source.batch_rows, seconds=source.batch_seconds)
                except OSError as error:
                    raise DependencyFailed(f"{file}: cannot be written: {error}; make space, then repeat") from error
                if batch.rows:
                    request = Request(
                        uri=shown(source.uri),
                        kind=source.kind,
                        source=name,
                        format="jsonl",
                        streamed=True,
                        pseudonymous=False,
                        offsets={marks[partition]: offset for partition, offset in batch.ends.items()},
                        marker=",".join(f"{partition}:{offset}" for partition, offset in sorted(batch.ends.items())),
                        warnings=batch.warnings,
                    )
                    stream = partial(opened, str(file), {})
                    said.append(deliver([stream], request, home=home, settings=settings, now=now))
                discard(folder)
            more = batch.more and batch.rows > 0
            yield from said


def _known_as(found: Found) -> str:
    """How the receipt of this object names it."""
    return f"{shown(found.uri)}#{found.marker}"


def _delivered(lake: Lake, source: str) -> set[str]:
    receipts = lake.read("deliveries", columns=["source", "uri"])
    mine = receipts.filter(pc.equal(receipts.column("source"), source))
    return set(mine.column("uri").to_pylist())
