"""`ratchet notify`: whether people are told what the ledger records."""

import click

from cli.console import Context, Result, command


@click.group("notify", short_help="Try the messages that tell people of trials.")
def notify() -> None:
    """Messages to [notify] urls, of what the ledger records."""


@command("test")
def test(context: Context) -> Result:
    """Send everybody in [notify] urls a test message. Exit 6 where one did not get there."""
    from relations.errors import UsageError
    from tasks.notifying import try_notify

    if not context.settings.notify.urls:
        raise UsageError("[notify] urls is empty; state apprise URLs there, or in RATCHET_NOTIFY__URLS")
    tried = try_notify(context.home, context.settings)
    lines = tuple(f"{'✗' if why else '✓'} {name}{f': {why}' if why else ''}" for name, why in tried.items())
    return Result({"tried": tried}, lines, 6 if any(tried.values()) else 0)


notify.add_command(test)
