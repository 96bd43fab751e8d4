"""`ratchet online`: learning from what arrives, every few minutes, under a person's standing approval."""

from datetime import datetime
from typing import Any

import click

from cli.console import HOURS, Context, Result, command
from cli.identity import identified
from cli.processes import use_prefect

REFUSED = ("not_allowed", "stopped")


@click.group("online")
def online() -> None:
    """Let the champion learn between trainings, within limits, until it expires."""


@command("allow")
@click.option("--as", "actor", required=True, help="Who approves it; not who submitted the champion.")
@click.option("--reason", required=True, help="Kept in the ledger for good.")
@click.option("--hours", type=HOURS, help="Until it expires; default: [online] hours.")
@click.option("--deltas", type=click.IntRange(1), help="At most so many; default: [online] deltas.")
@click.option("--rows", type=click.IntRange(1), help="Changed by one delta, at most; default: [online] rows.")
def allow(
    context: Context, *, actor: str, reason: str, hours: float | None, deltas: int | None, rows: int | None
) -> Result:
    """Approve in advance what online steps may change of the present champion, and for how long."""
    who = identified(context, actor)
    from tasks.online import allow_online

    standing = allow_online(
        context.home,
        context.settings,
        actor=who,
        reason=reason,
        hours=hours,
        deltas=deltas,
        rows=rows,
        now=context.now,
    )
    limits = standing.limits
    lines = [
        f"standing approval {standing.number}: deltas of v{standing.version} until {_minute(standing.expires)}",
        f"at most {limits.deltas} of them, {limits.rows:,} rows each, a row by {limits.relative_change:g} of its "
        f"length, {limits.overlap:.0%} of the ten best kept",
    ]
    if not context.settings.online.enabled:
        lines.append("nothing is scheduled: set [online] enabled = true, or run `ratchet online step`")
    return Result(_standing(standing), tuple(lines))


@command("step")
def step(context: Context) -> Result:
    """Learn from what arrived since the last step, and let it serve if it passes the guardrails."""
    home = context.home
    use_prefect(home)
    from flows.online import online as flow

    answer = flow(str(home.root), config=context.config_argument)
    if answer["state"] == "recorded":
        figures = answer["figures"]
        line = (
            f"delta {answer['sequence']}: {figures['events']:.0f} new events, {figures['rows']:.0f} rows changed, "
            f"{figures['bytes'] / 1e3:,.0f} kB · digest {answer['digest'][:16]}…"
        )
    else:
        line = f"{answer['state'].replace('_', ' ')}: {answer['reason']}"
    return Result(answer, (line,), 4 if answer["state"] in REFUSED else 0)


@command("status")
def status(context: Context) -> Result:
    """Whether online steps are allowed, scheduled and serving."""
    from stores.ledger import Ledger

    ledger, now = Ledger.of(context.home, context.settings), context.now
    stated = context.settings.online
    standing, serving = ledger.standing(now=now), ledger.serving_state().delta
    last = next(reversed(ledger.standings()), None)
    scheduled = f"every {stated.minutes} minutes" if stated.enabled else "not scheduled ([online] enabled = false)"
    lines = [scheduled]
    if standing is not None:
        lines.append(
            f"allowed by {standing.granted_by} until {_minute(standing.expires)}: "
            f"{len(standing.deltas)} of {standing.limits.deltas} deltas of v{standing.version} so far"
        )
    elif last is None:
        lines.append("not allowed; `ratchet online allow --as NAME --reason TEXT` would")
    else:
        why = last.ended_reason if last.ended is not None else f"expired at {_minute(last.expires)}"
        lines.append(f"not allowed: standing approval {last.number} ended: {why}")
    live = serving is not None and now < serving.expires
    lines.append(f"delta {serving.sequence}, digest {serving.digest}" if serving and live else "no delta serves")
    data = {
        "enabled": stated.enabled,
        "minutes": stated.minutes,
        "allowed": standing is not None,
        "standing": None if last is None else _standing(last),
        "delta": {"digest": serving.digest, "sequence": serving.sequence} if serving and live else None,
    }
    return Result(data, tuple(lines))


@command("stop")
@click.option("--as", "actor", required=True, help="Who stops it.")
@click.option("--reason", required=True, help="Kept in the ledger for good.")
def stop(context: Context, *, actor: str, reason: str) -> Result:
    """End the standing approval: serving goes back to the champion's full bundle at once."""
    from stores.ledger import Ledger

    who = identified(context, actor)
    number = Ledger.of(context.home, context.settings).withdraw_deltas(actor=who, reason=reason, now=context.now)
    line = "nothing was allowed" if number is None else f"standing approval {number} ended; the full bundle serves"
    return Result({"standing": number}, (line,))


def _minute(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"


def _standing(record: Any) -> dict[str, Any]:
    return {
        "number": record.number,
        "version": record.version,
        "base_digest": record.base_digest,
        "recipe": record.recipe,
        "limits": vars(record.limits),
        "granted_by": record.granted_by,
        "expires": record.expires,
        "ended": record.ended,
        "ended_reason": record.ended_reason,
        "deltas": len(record.deltas),
    }


for _command in (allow, step, status, stop):
    online.add_command(_command)
