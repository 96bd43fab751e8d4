"""`ratchet train`."""

import click

from cli.console import Context, Result, command
from cli.display import progress_bars
from cli.identity import allowed
from cli.processes import use_prefect
from stores.people import Role


@command("train", short_help="Train a challenger.")
@click.option("--mode", type=click.Choice(["full", "incremental", "auto"]), required=True)
@click.option(
    "--as", "actor", default="", help="Who asks for it, and cannot approve the result; default: your token's."
)
@click.option("--dry-run", is_flag=True, help="Say what would be trained on, and train nothing.")
def train(context: Context, *, mode: str, actor: str, dry_run: bool) -> Result:
    """Train a challenger: from scratch, or from the candidate on what arrived since; `auto` measures, then decides
    which of the two, or neither.

    It is tested on the newest slice beside the champion, exported, checked for parity and registered; it serves nobody
    before a trial. The first model of a home waits for `ratchet trial bootstrap`.
    """
    home = context.home
    if dry_run:
        return _decide(context) if mode == "auto" else _plan(context, mode)
    submitter = allowed(context, actor, Role.SUBMITTER, what=f"train {mode}")
    use_prefect(home)
    with progress_bars(context):
        if mode == "full":
            from flows.full_retrain import full_retrain

            answer = full_retrain(str(home.root), config=context.config_argument, submitter=submitter)
        elif mode == "auto":
            from flows.learn import learn

            answer = learn(str(home.root), config=context.config_argument, submitter=submitter)
            context.say(f"{answer['decision']['action']}: {answer['decision']['because']}")
        else:
            from flows.incremental import incremental

            answer = incremental(str(home.root), config=context.config_argument, submitter=submitter)
    if answer["version"] is None:
        return Result(answer, () if mode == "auto" else (answer["reason"],))
    from tasks.cohorts import forgetting_lines

    lines = (
        f"v{answer['version']} ({answer['mode']}): {answer['verdict']}",
        *forgetting_lines(answer["forgetting"]),
        f"parity: top-10 agreement {answer['parity']['top10_agreement']:.4f}, "
        f"largest difference {answer['parity']['max_abs_diff']:.2g}",
        f"digest {answer['digest'][:16]}… · candidate: {'yes' if answer['passed'] else 'no'}",
    )
    return Result(answer, lines)


def _decide(context: Context) -> Result:
    from tasks.scheduling import choose_training

    decision = choose_training(context.home, context.settings, now=context.now)
    lines = [f"{decision.action.value}: {decision.because}"]
    for each in decision.reasons:
        value, against = ("–" if number is None else f"{number:,.4g}" for number in (each.value, each.against))
        lines.append(f"{each.measure}: {value} (threshold {against}): {each.says}")
    data = {"mode": "auto", "would_train": decision.action.value != "skip", **decision.as_json()}
    return Result(data, (*lines, "nothing was trained"))


def _plan(context: Context, mode: str) -> Result:
    from tasks.jobs import Mode, NothingToLearn, plan_training
    from tasks.material import load_material

    job = plan_training(context.home, context.settings, mode=Mode(mode))
    if isinstance(job, NothingToLearn):
        return Result({"mode": mode, "would_train": False, "reason": job.reason}, (job.reason,))
    material = load_material(context.home, context.settings, job)
    data = {
        "mode": mode,
        "would_train": True,
        "events_version": job.events_version,
        "parent": job.parent,
        "new_events": len(material.new),
        "past_events": len(material.past),
        "test_rows": len(material.holdout),
    }
    parent = f"from v{job.parent}, " if mode == "incremental" else "from scratch, "
    line = f"{parent}{len(material.new):,} new events, {len(material.past):,} past, {len(material.holdout):,} test rows"
    return Result(data, (line, f"events version {job.events_version}; nothing was trained"))
