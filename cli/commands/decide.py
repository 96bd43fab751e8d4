"""`ratchet approve`, `reject` and `rollback`: ledger transitions, without Prefect, so that they work at any hour."""

from typing import Any

import click

from cli.console import Context, Result, command

SERVING_SECONDS = 10.0
"""How long an approval waits at most to see servers of this machine serve; without any it does not wait."""


def who(function: Any) -> Any:
    function = click.option("--reason", required=True, help="Kept in the ledger for good.")(function)
    return click.option("--as", "actor", required=True, help="Who decides.")(function)


@command("approve", short_help="Promote a challenger.")
@click.argument("trial")
@click.option("--evidence", metavar="SHA256", help="Of the look that you read; refused where a newer one is there.")
@who
def approve(context: Context, *, trial: str, evidence: str | None, actor: str, reason: str) -> Result:
    """Promote the challenger of TRIAL, if the gate passed it and nothing has changed since.

    Where a group of users is protected, two people must; the first one's approval is kept for that look.
    """
    from cli.identity import identified
    from stores.ledger_records import Waiting
    from tasks.deciding import approve_trial, watch_told

    decided = approve_trial(
        context.home,
        context.settings,
        trial,
        actor=identified(context, actor),
        reason=reason,
        now=context.now,
        evidence=evidence,
        wait_seconds=SERVING_SECONDS,
    )
    if isinstance(decided, Waiting):
        missing = decided.quorum - len(decided.approved_by)
        data = {"trial": trial, "approved_by": list(decided.approved_by), "quorum": decided.quorum}
        told = f"{trial}: approved by {' and '.join(decided.approved_by) or 'nobody who counts'}; {missing} more needed"
        return Result(data, (told,), 5)
    lines = [f"champion is v{decided.champion.version}, epoch {decided.champion.epoch}"]
    if decided.trial is not None and decided.trial.is_watched:
        lines.append(
            f"{trial} is {watch_told(decided.trial)}; an alarm brings v{decided.trial.champion} back by itself"
        )
    return Result(decided.as_json(), tuple(lines))


@command("reject", short_help="Turn a challenger down.")
@click.argument("trial")
@who
def reject(context: Context, *, trial: str, actor: str, reason: str) -> Result:
    """Turn the challenger of TRIAL down; the same artifact cannot come back."""
    from cli.identity import identified
    from tasks.deciding import reject_trial

    person = identified(context, actor)
    record = reject_trial(context.home, context.settings, trial, actor=person, reason=reason, now=context.now)
    return Result({"trial": trial, "state": str(record.state)}, (f"trial {trial}: {record.state}",))


@command("rollback", short_help="Bring the former champion back.")
@who
def rollback(context: Context, *, actor: str, reason: str) -> Result:
    """Bring the former champion back: model, vocabulary and index together, offline."""
    from cli.identity import identified
    from tasks.deciding import rollback_champion

    person = identified(context, actor)
    decided = rollback_champion(context.home, context.settings, actor=person, reason=reason, now=context.now)
    return Result(decided.as_json(), (f"champion is v{decided.champion.version}, epoch {decided.champion.epoch}",))
