"""`ratchet ingest`."""

from collections.abc import Iterator
from functools import partial
from typing import Any, get_args

import click

from cli.console import Context, Result, command
from cli.processes import use_prefect
from stores.settings import Format


@command("ingest", short_help="Validate and commit files.")
@click.argument("sources", nargs=-1)
@click.option(
    "--kind",
    type=click.Choice(["events", "items", "users", "exposures"]),
    help="What the files hold. Default: what the format says, else events.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(get_args(Format)),
    default="auto",
    show_default=True,
)
@click.option("--source", default="file", show_default=True, help="Name of the feed; [sources.NAME] maps its columns.")
@click.option("--dry-run", is_flag=True, help="Give the verdict and commit nothing.")
def ingest(
    context: Context, *, sources: tuple[str, ...], kind: str | None, format_: str, source: str, dry_run: bool
) -> Result:
    """Validate and commit SOURCES, files or URLs; without any, what waits in the landing folder and at polled sources.

    CSV, JSON lines, Parquet and Arrow, compressed or not; named formats by --format. An explicit file is a backfill
    and may be of any age. Rows that fail go to the quarantine with each reason.
    """
    home, settings = context.home, context.settings
    failures: list[dict[str, str]] = []
    new_items: dict[str, Any] = {}
    if dry_run:
        from tasks.ingesting import deliver_file, kinds_in

        rehearse = partial(deliver_file, home=home, settings=settings, source=source, format=format_, now=context.now)
        found = [
            rehearse(uri, kind=each, dry_run=True).as_json()
            for uri in sources
            for each in ((kind,) if kind else kinds_in(uri, settings=settings, source=source, format=format_))
        ]
    else:
        use_prefect(home)
        from flows.ingest import ingest as flow

        answer = flow(
            str(home.root),
            config=context.config_argument,
            uris=list(sources),
            kind=kind,
            source=source,
            format=format_,
        )
        found, failures, new_items = answer["receipts"], answer["failures"], answer["new_items"]
    total = {
        name: sum(int(receipt[name]) for receipt in found)
        for name in ("delivered", "accepted", "quarantined", "duplicate", "late")
    }
    rejected = any(receipt["state"] in ("quarantined_whole", "unreadable") for receipt in found)
    lines = tuple(_line(receipt, dry_run=dry_run) for receipt in found) or ("nothing waits in the landing folder",)
    lines += tuple(line for receipt in found if dry_run for line in _why(receipt))
    lines += tuple(f"{receipt['uri']}: {receipt['message']}" for receipt in found if receipt["message"])
    lines += tuple(f"{receipt['uri']}: warning: {warning}" for receipt in found for warning in receipt["warnings"])
    lines += tuple(f"[sources.{failure['source']}] failed: {failure['message']}" for failure in failures)
    if new_items.get("problem"):
        lines += (f"new items cannot be recommended yet: {new_items['problem']}",)
    elif new_items.get("encoded"):
        lines += (f"{new_items['encoded']} rows for items that came after the release",)
    if total["quarantined"] and not dry_run:
        lines += ("why: ratchet quarantine explain",)
    exit_code = 3 if rejected and not total["accepted"] else 0
    return Result(
        {"receipts": found, "failures": failures, "total": total, "dry_run": dry_run, "new_items": new_items},
        lines,
        exit_code,
    )


def _line(receipt: dict[str, object], *, dry_run: bool) -> str:
    counts = " · ".join(f"{receipt[name]} {name}" for name in ("accepted", "quarantined", "duplicate", "late"))
    would = "would be: " if dry_run else ""
    state = "nothing was committed" if dry_run and receipt["state"] == "committed" else receipt["state"]
    return f"{receipt['uri']}: {receipt['delivered']} {receipt['kind']} delivered → {would}{counts} ({state})"


def _why(receipt: dict[str, Any]) -> Iterator[str]:
    """What the rows that would be held broke; a real delivery leaves that to `ratchet quarantine explain`."""
    for label, rows in receipt["reasons"].items():
        if receipt["examples"][label] not in receipt["message"]:
            yield f"    {rows} × {label}: {receipt['examples'][label]}"
