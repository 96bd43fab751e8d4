"""The door: files into the lake, one delivery each, and serving brought up to date."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.opening import open_home
from flows.runs import settle_in
from relations.errors import DependencyFailed, RatchetError
from stores.clock import home_now
from stores.lake import Lake
from tasks.indexing_items import index_new_items
from tasks.ingesting import deliver_file, ingest_landing, kinds_in
from tasks.polling import poll_sources
from tasks.refreshing import refresh_serving

_LOG = logging.getLogger(__name__)


@flow(name="ingest", log_prints=False, on_running=[settle_in])
def ingest(
    home: str,
    config: str | None = None,
    uris: list[str] | None = None,
    kind: str | None = None,
    source: str = "file",
    format: str = "auto",
    now: datetime | None = None,
) -> dict[str, Any]:
    """Deliver `uris`, or without any what waits in the landing folder and is new in the polled sources.

    {"receipts": […], "failures": [{"source", "message"}], "totals": {…}, "new_items": {…}}.

    `kind` None: what the format says that a file holds, one delivery a kind; events where it says nothing.

    An unreadable file has its receipt like any other and stops no file after it; a source that fails stops no other.
    Raises DependencyFailed where one failed and nothing else was delivered. Side indexes of new items that cannot be
    built stop nothing either: the next ingest tries again.
    """
    place, settings = open_home(home, config)
    at = now or home_now(place, settings)
    receipts = deliver(home, config, uris=uris or [], kind=kind, source=source, format=format, now=at)
    failures: list[dict[str, str]] = []
    if not uris and any(source.uri for source in settings.sources.values()):
        polled = poll(home, config, now=at)
        receipts, failures = [*receipts, *polled["receipts"]], polled["failures"]
    refresh(home, config, deliveries=[receipt["delivery_id"] for receipt in receipts if receipt["kind"] == "events"])
    new_items = index(home, config, now=at)
    markdown = receipts_markdown(receipts, failures)
    create_markdown_artifact(markdown, key="ingest", description=f"{len(receipts)} deliveries")
    if failures and not receipts:
        raise DependencyFailed("\n".join(f"[sources.{each['source']}] {each['message']}" for each in failures))
    return {
        "receipts": receipts,
        "failures": failures,
        "totals": Lake(place.lake).totals(),
        "new_items": new_items,
    }


@task(name="deliver", cache_policy=NO_CACHE)
def deliver(
    home: str, config: str | None, *, uris: Sequence[str], kind: str | None, source: str, format: str, now: datetime
) -> list[dict[str, Any]]:
    place, settings = open_home(home, config)
    if not uris:
        return [receipt.as_json() for receipt in ingest_landing(home=place, settings=settings, now=now)]
    return [
        deliver_file(uri, home=place, settings=settings, kind=each, source=source, format=format, now=now).as_json()
        for uri in uris
        for each in ((kind,) if kind else kinds_in(uri, settings=settings, source=source, format=format))
    ]


@task(name="poll", cache_policy=NO_CACHE)
def poll(home: str, config: str | None, *, now: datetime) -> dict[str, Any]:
    place, settings = open_home(home, config)
    polled = poll_sources(home=place, settings=settings, now=now)
    return {
        "receipts": [receipt.as_json() for receipt in polled.receipts],
        "failures": [asdict(failure) for failure in polled.failures],
    }


@task(name="refresh-serving", cache_policy=NO_CACHE)
def refresh(home: str, config: str | None, *, deliveries: Sequence[str]) -> int:
    place, settings = open_home(home, config)
    return refresh_serving(place, settings, deliveries)


@task(name="index-new-items", cache_policy=NO_CACHE)
def index(home: str, config: str | None, *, now: datetime) -> dict[str, Any]:
    """What was built; empty where nothing was to do, {"problem"} where it could not be done."""
    place, settings = open_home(home, config)
    try:
        indexed = index_new_items(place, settings, now=now)
    except Exception as error:  # whatever an encoder raises: what was delivered is in, and stays in
        _LOG.warning("new items wait for the next ingest: %s", error, exc_info=not isinstance(error, RatchetError))
        return {"problem": str(error)}
    return {} if indexed is None else indexed.as_json()


def receipts_markdown(receipts: Sequence[dict[str, Any]], failures: Sequence[dict[str, str]] = ()) -> str:
    """One line a delivery, and below it why rows were held back; first what failed before it was a delivery."""
    failed = [f"- **{failure['source']}** failed: {failure['message']}" for failure in failures]
    if not receipts:
        return "\n".join([*failed, "" if failed else "Nothing waited in the landing folder."]).strip()
    names = ("delivered", "accepted", "quarantined", "duplicate", "late")
    lines = [
        *failed,
        *([""] if failed else []),
        f"| file | kind | {' | '.join(names)} | state | Data Docs |",
        f"|---|---|{'---:|' * len(names)}---|---|",
    ]
    for receipt in receipts:
        counts = " | ".join(f"{receipt[name]:,}" for name in names)
        uri = str(receipt["uri"]).replace("|", "\\|")
        page = receipt["validation_result"] or ""
        lines.append(f"| {uri} | {receipt['kind']} | {counts} | {receipt['state']} | {page} |")
    total = " | ".join(f"{sum(int(receipt[name]) for receipt in receipts):,}" for name in names)
    lines.append(f"| **all** | | {total} | | |")
    for receipt in receipts:
        held = [f"- {rows:,} × {expectation}" for expectation, rows in receipt["reasons"].items()]
        if held or receipt["message"]:
            lines += ["", f"**{receipt['uri']}**: {receipt['message']}".rstrip(": "), "", *held]
    return "\n".join(lines)
