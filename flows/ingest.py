"""The door: files into the lake, one delivery each, and serving brought up to date."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.opening import open_home
from stores.clock import home_now
from stores.lake import Lake
from tasks.ingesting import deliver_file, ingest_landing, refresh_serving


@flow(name="ingest", log_prints=False)
def ingest(
    home: str,
    config: str | None = None,
    uris: list[str] | None = None,
    kind: str = "events",
    source: str = "file",
    format: str = "auto",
    now: datetime | None = None,
) -> dict[str, Any]:
    """Deliver `uris`, or without any what waits in the landing folder; {"receipts": […], "totals": {…}}.

    An unreadable file has its receipt like any other and stops no file after it.
    """
    place, settings = open_home(home, config)
    at = now or home_now(place, settings)
    receipts = deliver(home, config, uris=uris or [], kind=kind, source=source, format=format, now=at)
    refresh(home, config, deliveries=[receipt["delivery_id"] for receipt in receipts if receipt["kind"] == "events"])
    create_markdown_artifact(receipts_markdown(receipts), key="ingest", description=f"{len(receipts)} deliveries")
    return {"receipts": receipts, "totals": Lake(place.lake).totals()}


@task(name="deliver", cache_policy=NO_CACHE)
def deliver(
    home: str, config: str | None, *, uris: Sequence[str], kind: str, source: str, format: str, now: datetime
) -> list[dict[str, Any]]:
    place, settings = open_home(home, config)
    if not uris:
        return [receipt.as_json() for receipt in ingest_landing(home=place, settings=settings, now=now)]
    return [
        deliver_file(uri, home=place, settings=settings, kind=kind, source=source, format=format, now=now).as_json()
        for uri in uris
    ]


@task(name="refresh-serving", cache_policy=NO_CACHE)
def refresh(home: str, config: str | None, *, deliveries: Sequence[str]) -> int:
    place, settings = open_home(home, config)
    return refresh_serving(place, settings, deliveries)


def receipts_markdown(receipts: Sequence[dict[str, Any]]) -> str:
    """One line a delivery, and below it why rows were held back."""
    if not receipts:
        return "Nothing waited in the landing folder."
    names = ("delivered", "accepted", "quarantined", "duplicate", "late")
    lines = [
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
