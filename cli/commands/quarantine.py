"""`ratchet quarantine`: rows that failed, and why."""

import click

from cli.console import Context, Result, command


@click.group("quarantine")
def quarantine() -> None:
    """Rows that failed, and why."""


@command("list")
def list_(context: Context) -> Result:
    """Deliveries with rows in quarantine."""
    from stores.lake import Lake
    from stores.quarantine import listing

    found = listing(Lake(context.home.lake))
    lines = [f"{row['delivery_id']}  {row['rows']} rows  {row['source']}  {row['expectations']}" for row in found]
    return Result({"deliveries": found}, tuple(lines) or ("nothing is in quarantine",))


@command("explain")
@click.argument("delivery", required=False)
def explain(context: Context, *, delivery: str | None) -> Result:
    """Each broken expectation with its column, count and three examples; of DELIVERY, or of all."""
    from stores.lake import Lake
    from stores.quarantine import explain as explain_rows

    found = explain_rows(Lake(context.home.lake), delivery)
    lines: list[str] = []
    for row in found:
        lines.append(f"{row['rows']:6} × {row['expectation']} on {row['column']}: {row['message']}")
        lines += [f"           {example}" for example in row["examples"]]
    return Result({"reasons": found}, tuple(lines) or ("nothing is in quarantine",))


quarantine.add_command(list_)
quarantine.add_command(explain)
