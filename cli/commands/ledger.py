"""`ratchet ledger`: who promoted what, on which evidence."""

import click

from cli.console import Context, Result, command
from stores.ledger import Ledger


@click.group("ledger")
def ledger() -> None:
    """Show or verify the record of who promoted what."""


@command("show")
def show(context: Context) -> Result:
    """Every entry of the audit chain, oldest first."""
    entries = Ledger.of(context.home, context.settings).audit()
    data = {
        "audit": [
            {"number": e.number, "time": e.time, "actor": e.actor, "action": e.action, "subject": e.subject,
             "payload": dict(e.payload), "hash": e.hash}
            for e in entries
        ]
    }  # fmt: skip
    lines = [f"{e.number:4} {e.time[:19]} {e.actor:16} {e.action:14} {e.subject}  {e.hash[:12]}" for e in entries]
    return Result(data, tuple(lines) or ("the ledger is empty",))


@command("verify")
def verify(context: Context) -> Result:
    """Recompute the chain, the champion and each evidence hash; exit 4 when something does not match."""
    problems = Ledger.of(context.home, context.settings).verify()
    lines = tuple(problems) or ("the ledger is whole",)
    return Result({"problems": problems, "whole": not problems}, lines, 4 if problems else 0)


ledger.add_command(show)
ledger.add_command(verify)
