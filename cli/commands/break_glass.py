"""`ratchet break-glass`: a version in charge without a trial, for the hour in which nothing else helps."""

import click

from cli.break_glass_status import break_glass_line, break_glass_stated
from cli.commands.decide import SERVING_SECONDS, who
from cli.console import Context, Result, command
from stores.break_glass import MOST_HOURS, USUAL_HOURS
from stores.ledger import Ledger


@click.group("break-glass")
def break_glass() -> None:
    """Put a version in charge without a trial: one approver asks, another confirms, and it ends by itself."""


@command("ask")
@click.argument("version", type=int)
@click.option(
    "--hours",
    type=float,
    default=USUAL_HOURS,
    show_default=True,
    help=f"How long it may serve; at most {MOST_HOURS:g}.",
)
@who
def ask(context: Context, *, version: int, hours: float, actor: str, reason: str) -> Result:
    """Ask that VERSION serve without a trial; another approver confirms within an hour."""
    from cli.identity import identified
    from tasks.deciding import ask_break_glass

    asked = ask_break_glass(
        context.home,
        context.settings,
        version,
        hours=hours,
        actor=identified(context, actor),
        reason=reason,
        now=context.now,
    )
    return Result(
        break_glass_stated(asked),
        (
            f"{asked.name}: v{version} for {asked.hours:g} hours, asked by {asked.asked_by}; nothing has changed yet",
            f"another approver confirms until {asked.expires:%H:%M} UTC: "
            f"ratchet break-glass confirm {asked.number} --as NAME --reason TEXT",
        ),
    )


@command("confirm")
@click.argument("number", type=int)
@who
def confirm(context: Context, *, number: int, actor: str, reason: str) -> Result:
    """Confirm request NUMBER: its version serves, without evidence, until its hours are over."""
    from cli.identity import identified
    from tasks.deciding import confirm_break_glass

    decided = confirm_break_glass(
        context.home,
        context.settings,
        number,
        actor=identified(context, actor),
        reason=reason,
        now=context.now,
        wait_seconds=SERVING_SECONDS,
    )
    record = Ledger.of(context.home, context.settings).break_glass(number)
    return Result(
        {**decided.as_json(), "break_glass": break_glass_stated(record)},
        (
            f"champion is v{decided.champion.version}, epoch {decided.champion.epoch}, without a trial",
            f"until {record.until:%Y-%m-%d %H:%M} UTC; before that: "
            f"ratchet break-glass end {number} --as NAME --reason TEXT",
        ),
    )


@command("end")
@click.argument("number", type=int)
@who
def end(context: Context, *, number: int, actor: str, reason: str) -> Result:
    """End NUMBER before its time: the request is withdrawn, or the former champion comes back."""
    from cli.identity import identified
    from tasks.deciding import end_break_glass

    decided = end_break_glass(
        context.home, context.settings, number, actor=identified(context, actor), reason=reason, now=context.now
    )
    record = Ledger.of(context.home, context.settings).break_glass(number)
    if decided is None:
        return Result(
            {"break_glass": break_glass_stated(record)}, (f"{record.name} is over; nothing else has changed",)
        )
    return Result(
        {**decided.as_json(), "break_glass": break_glass_stated(record)},
        (f"champion is v{decided.champion.version}, epoch {decided.champion.epoch}",),
    )


@command("list")
def list_(context: Context) -> Result:
    """Every request, oldest first, and what became of it."""
    records = Ledger.of(context.home, context.settings).break_glasses()
    lines = tuple(break_glass_line(record) for record in records)
    return Result(
        {"break_glass": [break_glass_stated(each) for each in records]}, lines or ("the glass was never broken",)
    )


for _command in (ask, confirm, end, list_):
    break_glass.add_command(_command)
