"""`ratchet trial`: online comparisons."""

from typing import Any

import click

from cli.commands.trial_plan import PLANNING
from cli.console import Context, Result, command
from cli.identity import allowed, identified, identified_or_stated
from cli.processes import use_prefect
from stores.people import Role

MODES = ("shadow", "canary", "interleave", "compare")
EXIT_CODES = {"CONTINUE": 0, "PROMOTE": 5, "REJECT": 4, "INCONCLUSIVE": 4, "HOLD": 4}


@click.group("trial")
def trial() -> None:
    """Plan, screen, start, stage, look at, stop, kill or list online trials."""


@command("bootstrap")
@click.argument("version", type=int)
@click.option("--as", "actor", required=True, help="Who approves it.")
@click.option("--reason", required=True)
def bootstrap(context: Context, *, version: int, actor: str, reason: str) -> Result:
    """Approve VERSION as the first champion; possible only while there is none."""
    who = identified(context, actor)
    from tasks.deciding import bootstrap_champion

    decided = bootstrap_champion(context.home, context.settings, version, actor=who, reason=reason, now=context.now)
    return Result(decided.as_json(), (f"champion is v{decided.champion.version}, epoch {decided.champion.epoch}",))


@command("start")
@click.option(
    "--challenger",
    "challengers",
    type=int,
    multiple=True,
    help="A version; may be given again. Default: the candidate.",
)
@click.option("--aa", "is_aa", is_flag=True, help="The champion against itself: to test the measuring. Never promotes.")
@click.option("--as", "actor", default="", help="Who submits it, and cannot approve it; default: your token's.")
@click.option("--allow-offline-worse", is_flag=True, help="In a simulation home: even if it failed the offline check.")
@click.option("--mode", type=click.Choice(MODES), help="The stage to begin with; default: the first of [trial] stages.")
@click.option("--allocation", type=float, help="Share of users of a first canary or interleaving.")
def start(
    context: Context,
    *,
    challengers: tuple[int, ...],
    is_aa: bool,
    actor: str,
    allow_offline_worse: bool,
    mode: str | None,
    allocation: float | None,
) -> Result:
    """Let one or more challengers meet the champion, through the planned stages to the comparison."""
    who = identified(context, actor)
    from gate.states import TrialMode
    from stores.ledger import Ledger
    from tasks.trials import aa_outcome, start_trial

    config = start_trial.fn(
        context.home,
        context.settings,
        challengers=challengers,
        is_aa=is_aa,
        actor=who,
        now=context.now,
        allow_offline_worse=allow_offline_worse,
        mode=None if mode is None else TrialMode(mode),
        share=allocation,
    )
    versions = [config["challenger_version"], *(each["version"] for each in config["others"])]
    against = "against itself (A/A)" if is_aa else f"against v{config['champion_version']}"
    lines = [
        f"{config['trial_id']}: {' and '.join(f'v{version}' for version in versions)} {against}, "
        f"{config['allocation']:.0%} of users, until {config['deadline'][:10]} or {config['n_max']:,} matured users"
    ]
    if len(config["stages"]) > 1:
        lines.append(f"its way: {' → '.join(_stage_told(stage) for stage in config['stages'])}")
    tested = aa_outcome(Ledger.of(context.home, context.settings).trials(), config["primary"])
    if tested is None and not is_aa:
        lines.append(
            f"warning: no A/A trial was run for {config['primary']['name']} yet; "
            "`ratchet trial start --aa` tests the measuring before it is trusted"
        )
    return Result({**config, "aa": tested}, tuple(lines))


@command("stage")
@click.argument("trial_id", metavar="TRIAL")
@click.option("--mode", type=click.Choice(MODES), required=True, help="This stage or a later one.")
@click.option("--allocation", type=float, help="Share of users who may see the challenger; it only grows.")
@click.option("--as", "actor", required=True)
@click.option("--reason", required=True, help="Kept in the ledger for good.")
def stage(context: Context, *, trial_id: str, mode: str, allocation: float | None, actor: str, reason: str) -> Result:
    """Let the challenger of TRIAL go further: from shadow over canary and interleaving to the comparison."""
    from gate.states import TrialMode
    from stores.ledger import Ledger
    from tasks.killing import settle_kills

    ledger, who = Ledger.of(context.home, context.settings), identified(context, actor)
    settle_kills(context.home, ledger, now=context.now)
    entered = ledger.set_stage(
        trial_id, TrialMode(mode), allocation=allocation, actor=who, reason=reason, now=context.now
    )
    shown = "shown to nobody" if entered.mode is TrialMode.SHADOW else f"{entered.allocation:.2%} of users"
    return Result(
        {
            "trial": trial_id,
            "stage": entered.number,
            "mode": str(entered.mode),
            "allocation": entered.allocation,
            "since": entered.since.isoformat(),
        },
        (f"{trial_id} is at {entered.mode}, {shown}",),
    )


@command("kill")
@click.argument("trial_id", metavar="TRIAL")
@click.option("--as", "actor", required=True)
@click.option("--reason", required=True, help="Kept in the ledger for good.")
def kill(context: Context, *, trial_id: str, actor: str, reason: str) -> Result:
    """Take the challenger of TRIAL off all users, at once and for good; works without the ledger's database."""
    from stores.kills import kill_trial

    who = identified_or_stated(context, actor)
    done = kill_trial(context.home, context.settings, trial_id, actor=who.name, reason=reason, now=context.now)
    warnings = [warning for warning in (who.warning, done.warning) if warning]
    lines = [f"{trial_id} is killed: no server shows its challenger any more; end it with `ratchet trial stop`"]
    return Result(
        {"trial": trial_id, "killed": True, "recorded": done.recorded, "warning": "; ".join(warnings)},
        (*lines, *warnings),
    )


@command("look")
@click.argument("trial_id", metavar="TRIAL")
def look(context: Context, *, trial_id: str) -> Result:
    """Ingest what waits, judge TRIAL on the users matured so far, and record the evidence."""
    from stores.ledger import Ledger

    home = context.home
    Ledger.of(home, context.settings).trial(trial_id)  # a mistyped one is told before Prefect is started
    use_prefect(home)
    from flows.trial import trial as flow

    answer = flow(str(home.root), config=context.config_argument, trial=trial_id)
    told = f"{answer['verdict']}: {'; '.join(answer['reasons'])}"
    lines = (f"{answer['stage']}: {told}", f"evidence {answer['report']}")
    return Result(answer, lines, EXIT_CODES[answer["verdict"]])


@command("stop")
@click.argument("trial_id", metavar="TRIAL")
@click.option("--as", "actor", required=True)
@click.option("--reason", required=True)
def stop(context: Context, *, trial_id: str, actor: str, reason: str) -> Result:
    """End TRIAL without a decision; its challenger gets no more users."""
    from stores.ledger import Ledger
    from tasks.killing import settle_kills

    ledger, who = Ledger.of(context.home, context.settings), identified(context, actor)
    settle_kills(context.home, ledger, now=context.now)
    ledger.stop_trial(trial_id, actor=who, reason=reason, now=context.now)
    return Result({"trial": trial_id, "state": "ABORTED"}, (f"{trial_id} is stopped",))


@command("status")
@click.argument("trial_id", metavar="TRIAL", required=False)
def status(context: Context, *, trial_id: str | None) -> Result:
    """One trial with its stage, newest look and what it waits for, or all of them.

    Of one, the JSON has `corrected`: its effect as it is after the look that stopped it; null while it goes on.
    """
    from cli.trial_status import trial_lines, trial_summary
    from stores.ledger import Ledger
    from tasks.correcting import corrected_effect
    from tasks.trial_page.reading import leading

    home, settings = context.home, context.settings
    ledger = Ledger.of(home, settings)
    records = [ledger.trial(trial_id)] if trial_id else list(ledger.trials())
    found = [trial_summary(home, settings, record) for record in records]
    if trial_id:
        newest = records[0].evidence[-1].evidence if records[0].evidence else {}
        effect = corrected_effect(records[0], leading(newest))
        found[0]["corrected"] = None if effect is None else effect.as_json()
    lines = [line for each in found for line in trial_lines(each, detailed=trial_id is not None)]
    return Result({"trials": found}, tuple(lines) or ("no trials yet",))


@command("bake")
@click.argument("trial_id", metavar="TRIAL")
@click.option("--as", "actor", default="", help="Who takes the step, where data are too few to tell.")
@click.option("--reason", default="", help="Kept in the ledger for good.")
def bake(context: Context, *, trial_id: str, actor: str, reason: str) -> Result:
    """Look after the promotion that TRIAL has made: served, quiet for long enough, or rolled back."""
    from stores.ledger import Ledger

    home = context.home
    who = allowed(context, actor, Role.APPROVER, what=f"believe {trial_id}") if actor or reason else ""
    Ledger.of(home, context.settings).trial(trial_id)  # a mistyped one is told before Prefect is started
    use_prefect(home)
    from flows.bake import bake as flow

    answer = flow(str(home.root), config=context.config_argument, trial=trial_id, actor=who, reason=reason)
    lines = (f"{trial_id} is {answer['state']}: {'; '.join(answer['reasons'])}",)
    return Result(answer, lines, 4 if answer["state"] == "ROLLED_BACK" else 0)


def _stage_told(stage: dict[str, Any]) -> str:
    return f"{stage['mode']} {stage['share']:.4g}" if stage["share"] else str(stage["mode"])


for _command in (bootstrap, start, stage, look, bake, stop, kill, status, *PLANNING):
    trial.add_command(_command)
