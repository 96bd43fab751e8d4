"""`ratchet status`."""

from dataclasses import asdict
from typing import Any

from cli.commands.trial import trial_line, trial_summary
from cli.console import Context, Result, command
from cli.processes import running_server
from stores.ledger import Ledger


@command("status", short_help="Champion, candidate, trials, rows and table versions.")
def status(context: Context) -> Result:
    """Champion and its age, candidate, trials and what they wait for, rows, table versions and digests."""
    from relations.schemas import SCHEMAS
    from stores.lake import Lake

    home, lake = context.home, Lake(context.home.lake)
    ledger = Ledger.of(home, context.settings)
    champion, candidate, standing = ledger.champion(), ledger.candidate(), ledger.standing(now=context.now)
    present = {name: version for name in SCHEMAS if (version := lake.version(name)) >= 0}
    rows = lake.totals()
    trials = [trial_summary(record) for record in ledger.trials()]
    servers = {name: running_server(home, name) for name in ("prefect", "mlflow", "serving")}
    data: dict[str, Any] = {
        "champion": None if champion is None else {k: asdict(champion)[k] for k in ("version", "digest", "epoch")},
        "candidate": None if candidate is None else {"version": candidate.version, "digest": candidate.digest},
        "deltas": None
        if standing is None
        else {
            "standing": standing.number,
            "expires": standing.expires.isoformat(),
            "recorded": len(standing.deltas),
            "digest": standing.deltas[-1].digest if standing.deltas else None,
        },
        "events": rows,
        "tables": present,
        "digests": {name: lake.content_digest(name) for name in present},
        "trials": trials,
        "servers": servers,
    }
    lines = ["no champion yet; popularity answers"]
    waiting = [record.version for record in ledger.versions() if record.offline_passed]
    if champion is None and waiting:
        lines.append(f"v{waiting[-1]} may be the first: ratchet trial bootstrap {waiting[-1]} --as YOU --reason WHY")
    if champion is not None:
        days = (context.now - champion.since).total_seconds() / 86_400
        lines = [f"champion v{champion.version}, epoch {champion.epoch}, for {days:.1f} days"]
    if standing is not None:
        count = f"{len(standing.deltas)} of {standing.limits.deltas} deltas"
        lines.append(f"{count} by standing approval {standing.number}, until {standing.expires:%Y-%m-%d %H:%M} UTC")
    lines.append("no candidate" if candidate is None else f"candidate v{candidate.version}")
    lines.append(" · ".join(f"{count:,} {name}" for name, count in rows.items()))
    lines += [trial_line(trial) for trial in trials]
    lines += [f"{name}: {address}" for name, address in servers.items() if address]
    return Result(data, tuple(lines))
