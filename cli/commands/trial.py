"""`ratchet trial`: online comparisons."""

from typing import Any

import click

from cli.console import Context, Result, command
from cli.processes import use_prefect

EXIT_CODES = {"CONTINUE": 0, "PROMOTE": 5, "REJECT": 4, "INCONCLUSIVE": 4, "HOLD": 4}


@click.group("trial")
def trial() -> None:
    """Start, look at, stop or list online trials."""


@command("bootstrap")
@click.argument("version", type=int)
@click.option("--as", "actor", required=True, help="Who approves it.")
@click.option("--reason", required=True)
def bootstrap(context: Context, *, version: int, actor: str, reason: str) -> Result:
    """Approve VERSION as the first champion; possible only while there is none."""
    from tasks.deciding import bootstrap_champion

    decided = bootstrap_champion(context.home, context.settings, version, actor=actor, reason=reason, now=context.now)
    return Result(decided.as_json(), (f"champion is v{decided.champion.version}, epoch {decided.champion.epoch}",))


@command("start")
@click.option("--challenger", type=int, help="A version; default: the candidate.")
@click.option("--as", "actor", default="operator", show_default=True, help="Who submits it; cannot approve it.")
@click.option("--allow-offline-worse", is_flag=True, help="In a simulation home: even if it failed the offline check.")
def start(context: Context, *, challenger: int | None, actor: str, allow_offline_worse: bool) -> Result:
    """Let a challenger meet the champion on a share of the users."""
    from tasks.trials import start_trial

    config = start_trial.fn(
        context.home,
        context.settings,
        challenger=challenger,
        actor=actor,
        now=context.now,
        allow_offline_worse=allow_offline_worse,
    )
    line = (
        f"{config['trial_id']}: v{config['challenger_version']} against v{config['champion_version']}, "
        f"{config['allocation']:.0%} of users, until {config['deadline'][:10]} or {config['n_max']:,} matured users"
    )
    return Result(config, (line,))


@command("look")
@click.argument("trial_id", metavar="TRIAL")
def look(context: Context, *, trial_id: str) -> Result:
    """Ingest what waits, judge TRIAL on the users matured so far, and record the evidence."""
    home = context.home
    use_prefect(home)
    from flows.trial import trial as flow

    answer = flow(str(home.root), config=context.config_argument, trial=trial_id)
    lines = (f"{answer['verdict']}: {'; '.join(answer['reasons'])}", f"evidence {answer['report']}")
    return Result(answer, lines, EXIT_CODES[answer["verdict"]])


@command("stop")
@click.argument("trial_id", metavar="TRIAL")
@click.option("--as", "actor", required=True)
@click.option("--reason", required=True)
def stop(context: Context, *, trial_id: str, actor: str, reason: str) -> Result:
    """End TRIAL without a decision; its challenger gets no more users."""
    from stores.ledger import Ledger

    Ledger.of(context.home, context.settings).stop_trial(trial_id, actor=actor, reason=reason, now=context.now)
    return Result({"trial": trial_id, "state": "ABORTED"}, (f"{trial_id} is stopped",))


@command("status")
@click.argument("trial_id", metavar="TRIAL", required=False)
def status(context: Context, *, trial_id: str | None) -> Result:
    """One trial with its looks, or all of them."""
    from stores.ledger import Ledger

    ledger = Ledger.of(context.home, context.settings)
    records = [ledger.trial(trial_id)] if trial_id else list(ledger.trials())
    found = [trial_summary(record) for record in records]
    lines = [trial_line(each) for each in found]
    return Result({"trials": found}, tuple(lines) or ("no trials yet",))


def trial_summary(record: Any) -> dict[str, Any]:
    """A trial as `status --json` gives it."""
    evidence = record.evidence[-1].evidence if record.evidence else {}
    return {
        "id": record.id,
        "state": str(record.state),
        "challenger": record.challenger,
        "champion": record.champion,
        "decision": record.decision,
        "lift": evidence.get("lift"),
        "interval": evidence.get("lift_interval"),
        "reasons": list(evidence.get("reasons", ())),
        "looks": len(record.evidence),
        "matured_users": sum(evidence.get("matured", (0, 0))),
    }


def trial_line(trial: dict[str, Any]) -> str:
    lift = "" if trial["lift"] is None else f" lift {trial['lift']:+.1%}"
    interval = trial["interval"]
    if interval and None not in interval:
        lift += f" [{interval[0]:+.1%}, {interval[1]:+.1%}]"
    return (
        f"{trial['id']}: {trial['state']} · v{trial['challenger']} against v{trial['champion']} · "
        f"{trial['looks']} looks, {trial['matured_users']:,} matured users{lift}"
    )


for _command in (bootstrap, start, look, stop, status):
    trial.add_command(_command)
