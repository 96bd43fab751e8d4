"""`ratchet approve`, `reject` and `rollback`: ledger transitions, without Prefect, so that they work at any hour."""

from typing import Any

import click

from cli.console import Context, Result, command


def _who(function: Any) -> Any:
    function = click.option("--reason", required=True, help="Kept in the ledger for good.")(function)
    return click.option("--as", "actor", required=True, help="Who decides.")(function)


@command("approve", short_help="Promote a challenger.")
@click.argument("trial")
@_who
def approve(context: Context, *, trial: str, actor: str, reason: str) -> Result:
    """Promote the challenger of TRIAL, if the gate passed it and nothing has changed since."""
    from tasks.deciding import approve_trial

    decided = approve_trial(context.home, context.settings, trial, actor=actor, reason=reason, now=context.now)
    return Result(decided.as_json(), (f"champion is v{decided.champion.version}, epoch {decided.champion.epoch}",))


@command("reject", short_help="Turn a challenger down.")
@click.argument("trial")
@_who
def reject(context: Context, *, trial: str, actor: str, reason: str) -> Result:
    """Turn the challenger of TRIAL down; the same artifact cannot come back."""
    from tasks.deciding import reject_trial

    record = reject_trial(context.home, context.settings, trial, actor=actor, reason=reason, now=context.now)
    return Result({"trial": trial, "state": str(record.state)}, (f"trial {trial}: {record.state}",))


@command("rollback", short_help="Bring the former champion back.")
@_who
def rollback(context: Context, *, actor: str, reason: str) -> Result:
    """Bring the former champion back: model, vocabulary and index together, offline."""
    from tasks.deciding import rollback_champion

    decided = rollback_champion(context.home, context.settings, actor=actor, reason=reason, now=context.now)
    return Result(decided.as_json(), (f"champion is v{decided.champion.version}, epoch {decided.champion.epoch}",))
