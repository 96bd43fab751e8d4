"""`ratchet status`."""

from dataclasses import asdict
from typing import Any

from cli.break_glass_status import break_glass_line, break_glass_stated
from cli.console import Context, Result, command
from cli.trial_status import trial_lines, trial_summary
from stores.ledger import Ledger
from stores.running import running_server


@command("status", short_help="Champion, candidate, trials, rows and table versions.")
def status(context: Context) -> Result:
    """Champion and its age, candidate, trials and what they wait for, rows, table versions and digests."""
    from relations.schemas import SCHEMAS
    from stores.lake import Lake
    from tasks.notifying import undelivered

    home, lake = context.home, Lake(context.home.lake)
    ledger = Ledger.of(home, context.settings)
    champion, candidate, standing = ledger.champion(), ledger.candidate(), ledger.standing(now=context.now)
    present = {name: version for name in SCHEMAS if (version := lake.version(name)) >= 0}
    rows = lake.totals()
    trials = [trial_summary(home, context.settings, record) for record in ledger.trials()]
    servers = {name: running_server(home, name) for name in ("prefect", "mlflow", "serving")}
    glass = [each for each in ledger.break_glasses() if each.in_force or each.waits(context.now)]
    data: dict[str, Any] = {
        "break_glass": [break_glass_stated(each) for each in glass],
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
        "undelivered": list(undelivered(home, context.settings)),
    }
    lines = ["no champion yet; popularity answers"]
    waiting = [record.version for record in ledger.versions() if record.offline_passed]
    if champion is None and waiting:
        lines.append(f"v{waiting[-1]} may be the first: ratchet trial bootstrap {waiting[-1]} --as YOU --reason WHY")
    if champion is not None:
        days = (context.now - champion.since).total_seconds() / 86_400
        lines = [f"champion v{champion.version}, epoch {champion.epoch}, for {days:.1f} days"]
    lines += [break_glass_line(each) for each in glass]
    if standing is not None:
        count = f"{len(standing.deltas)} of {standing.limits.deltas} deltas"
        lines.append(f"{count} by standing approval {standing.number}, until {standing.expires:%Y-%m-%d %H:%M} UTC")
    lines.append("no candidate" if candidate is None else f"candidate v{candidate.version}")
    lines.append(" · ".join(f"{count:,} {name}" for name, count in rows.items()))
    lines += [line for trial in trials for line in trial_lines(trial)]
    lines += [f"{name}: {address}" for name, address in servers.items() if address]
    lines += [f"not told: {line}" for line in data["undelivered"]]
    return Result(data, tuple(lines))
