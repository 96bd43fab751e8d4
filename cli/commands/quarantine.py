"""`ratchet quarantine`: rows that failed, and why."""

from dataclasses import asdict

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
    lines = [
        f"{held.delivery_id}  {held.rows} rows of {held.kind} from {held.source}: "
        + ", ".join(f"{count} × {expectation}" for expectation, count in held.reasons)
        for held in found
    ]
    return Result({"deliveries": [asdict(held) for held in found]}, tuple(lines) or ("nothing is in quarantine",))


@command("explain")
@click.argument("delivery", required=False)
def explain(context: Context, *, delivery: str | None) -> Result:
    """Each broken expectation with its column, count and three examples; of DELIVERY, or of all."""
    from stores.lake import Lake
    from stores.quarantine import explain as explain_rows

    found = explain_rows(Lake(context.home.lake), delivery)
    lines: list[str] = []
    reasons = []
    for each in found:
        examples = [example[:200].decode("utf-8", "backslashreplace") for example in each.examples]
        lines.append(f"{each.rows:6} × {each.expectation} on {each.column}: {each.message}")
        lines += [f"           {example}" for example in examples]
        reasons.append({**asdict(each), "examples": examples})
    return Result({"reasons": reasons}, tuple(lines) or ("nothing is in quarantine",))


quarantine.add_command(list_)
quarantine.add_command(explain)
