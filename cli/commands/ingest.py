"""`ratchet ingest`."""

from functools import partial

import click

from cli.console import Context, Result, command
from cli.processes import use_prefect


@command("ingest", short_help="Validate and commit files.")
@click.argument("sources", nargs=-1)
@click.option("--kind", type=click.Choice(["events", "items", "users"]), default="events", show_default=True)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["auto", "csv", "jsonl", "parquet", "movielens"]),
    default="auto",
    show_default=True,
)
@click.option("--source", default="file", show_default=True, help="Name of the feed; [sources.NAME] maps its columns.")
@click.option("--dry-run", is_flag=True, help="Give the verdict and commit nothing.")
def ingest(
    context: Context, *, sources: tuple[str, ...], kind: str, format_: str, source: str, dry_run: bool
) -> Result:
    """Validate and commit SOURCES; without any, whatever waits in the landing folder.

    An explicit file is a backfill and may be of any age. Rows that fail go to the quarantine with each reason.
    """
    home, settings = context.home, context.settings
    if dry_run:
        from tasks.ingesting import ingest_file

        rehearse = partial(ingest_file, home=home, settings=settings, kind=kind, source=source, format=format_)
        found = [rehearse(uri, now=context.now, dry_run=True).as_json() for uri in sources]
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
        found = answer["receipts"]
    total = {
        name: sum(int(receipt[name]) for receipt in found)
        for name in ("delivered", "accepted", "quarantined", "duplicate", "late")
    }
    rejected = any(receipt["state"] in ("quarantined_whole", "unreadable") for receipt in found)
    lines = tuple(_line(receipt, dry_run=dry_run) for receipt in found) or ("nothing waits in the landing folder",)
    lines += tuple(f"{receipt['uri']}: {receipt['message']}" for receipt in found if receipt["message"])
    if total["quarantined"] and not dry_run:
        lines += ("why: ratchet quarantine explain",)
    exit_code = 3 if rejected and not total["accepted"] else 0
    return Result({"receipts": found, "total": total, "dry_run": dry_run}, lines, exit_code)


def _line(receipt: dict[str, object], *, dry_run: bool) -> str:
    counts = " · ".join(f"{receipt[name]} {name}" for name in ("accepted", "quarantined", "duplicate", "late"))
    would = "would be: " if dry_run else ""
    return f"{receipt['uri']}: {receipt['delivered']} delivered → {would}{counts} ({receipt['state']})"
