"""The `ratchet` command: names only; what a command needs is imported when it runs."""

import importlib
import os

import click

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("cli.commands.start", "Make a home: the folder that holds all state."),
    "demo": ("cli.commands.demo", "The whole loop on a simulated marketplace, or on a real log."),
    "up": ("cli.commands.up", "Start Prefect, MLflow, serving and the schedules on this machine."),
    "status": ("cli.commands.status", "Champion, candidate, trials, rows and table versions."),
    "ingest": ("cli.commands.ingest", "Validate and commit files of events, items or users."),
    "train": ("cli.commands.train", "Train a challenger: from scratch, or on what arrived."),
    "online": ("cli.commands.online", "Let the champion learn from what arrives, within limits."),
    "tune": ("cli.commands.tune", "Search for better settings on the home's own events."),
    "trial": ("cli.commands.trial", "Start, look at, stop or list online trials."),
    "approve": ("cli.commands.decide", "Promote the challenger of a trial that the gate passed."),
    "reject": ("cli.commands.decide", "Turn a challenger down, with the reason."),
    "rollback": ("cli.commands.decide", "Bring the former champion back."),
    "console": ("cli.commands.console", "Read the evidence and decide, in a browser."),
    "break-glass": ("cli.commands.break_glass", "Put a version in charge without a trial: two people, for hours."),
    "release": ("cli.commands.release", "Sign releases, and verify their signatures."),
    "serve": ("cli.commands.serve", "Answer recommendation requests over HTTP."),
    "recommend": ("cli.commands.serve", "Ask the running server for one user."),
    "keys": ("cli.commands.keys", "Make, list and revoke keys of the recommend API."),
    "people": ("cli.commands.people", "Who may submit, approve and administer; tokens."),
    "ledger": ("cli.commands.ledger", "Show, verify or export the record of who promoted what."),
    "notify": ("cli.commands.notify", "Try the messages that tell people of trials."),
    "blocklist": ("cli.commands.blocklist", "Items that nobody may be shown."),
    "quarantine": ("cli.commands.quarantine", "Rows that failed, and why."),
    "forget": ("cli.commands.privacy", "Forget users: rows, history, derived state."),
    "privacy": ("cli.commands.privacy", "Rotate the pseudonyms' key, opt users out."),
    "doctor": ("cli.commands.doctor", "Check this machine and this home."),
    "bench": ("cli.commands.bench", "Run a benchmark by name."),
}


class LazyGroup(click.Group):
    """Knows its commands' names and one-line helps without importing them: `--help` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        found = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name.replace("-", "_"))
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ratchet-rec", prog_name="ratchet")
def main() -> None:
    """A recommender that only turns one way: up.

    \b
    Exit codes: 0 done · 1 our bug · 2 usage or settings · 3 data rejected ·
    4 the gate said no · 5 awaiting approval · 6 a dependency failed
    """
    # Read once, when torch is loaded: threads that spin while they wait stall each other on a shared core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


if __name__ == "__main__":
    main()
