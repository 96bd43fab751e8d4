"""`ratchet demo`."""

from pathlib import Path

import click

from cli.console import Context, Result, command
from relations.errors import UsageError


@command("demo", short_help="The whole loop in one run.")
@click.option("--replay", type=click.Path(path_type=Path, exists=True), help="A real log in place of the marketplace.")
@click.option("--format", "format_", type=click.Choice(["movielens"]), default="movielens", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--wait-for-approval", is_flag=True, help="Leave the approval to a person at another terminal.")
def demo(context: Context, *, replay: Path | None, format_: str, seed: int, wait_for_approval: bool) -> Result:
    """The whole loop: ingest, validate, train, export, serve, trial, approval, swap, rollback.

    On a simulated marketplace that knows the true lift, or with --replay on a real log by its calendar. The home is
    made afresh; an earlier simulation at the same place is removed.
    """
    if replay is not None:
        if wait_for_approval:
            raise UsageError("--wait-for-approval belongs to the marketplace; a replay never stops for a person")
        from cli.demo.replay import play_log

        log = play_log(context.root, file=replay, seed=seed, quiet=context.as_json)
        return Result(log.as_json(), log.lines())
    from cli.demo.story import play

    account = play(context.root, seed=seed, wait_for_approval=wait_for_approval, quiet=context.as_json)
    place = "" if context.root == Path(".ratchet") else f" --home {context.root}"
    lines = (
        *account.lines(),
        f"Next: ratchet up{place} · ratchet status{place} · ratchet quarantine explain{place} · "
        "ratchet ingest YOUR.csv --dry-run",
    )
    return Result(account.as_json(), lines)
