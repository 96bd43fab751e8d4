"""`ratchet tune`."""

import click

from cli.console import Amount, Context, Result, command
from cli.display import progress_bars
from cli.processes import use_prefect


@command("tune", short_help="Search for better settings.")
@click.option("--metric", default="", help="Of the offline evaluation: ndcg@10, mrr, ndcg@10:new_items, …")
@click.option("--minutes", type=Amount(min=0, min_open=True), help="This run ends after so long.")
@click.option("--trials", type=click.IntRange(min=1), help="The search ends with so many trials.")
@click.option("--seed", type=click.IntRange(min=0), help="Of the search.")
def tune(context: Context, *, metric: str, minutes: float | None, trials: int | None, seed: int | None) -> Result:
    """Search for better settings of [model] and [train] on the home's own events.

    The first trial is the present settings. What to try is in [tune]; the same search started again goes on. The answer
    is compared with the present settings on the newest events, which no trial saw; nothing is changed or promoted.
    """
    home = context.home
    use_prefect(home)
    with progress_bars(context):
        from flows.tune import tune as search

        answer = search(
            str(home.root),
            config=context.config_argument,
            metric=metric,
            trials=trials or 0,
            minutes=minutes or 0.0,
            seed=seed,
        )
    states = [trial["state"] for trial in answer["trials"]]
    counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    lines = [f"{len(states)} trials: {counts}", answer["verdict"]]
    if answer["test"] is not None:
        lines += ["", *answer["toml"].splitlines()]
    return Result(answer, tuple(lines))
