"""`ratchet console`."""

import click

from cli.console import PORT, Context, Result, command


@command("console", short_help="Where people read the evidence and decide.")
@click.option("--host", help="An address; beyond loopback only with people who sign in, and an https [console] url.")
@click.option("--port", type=PORT, help="0 takes a free one.")
def console(context: Context, *, host: str | None, port: int | None) -> Result:
    """Serve the review console until interrupted: what waits for a person, the evidence, and the buttons to decide."""
    from serving.console.run import run

    run(context.home, context.settings, host=host, port=port)
    return Result({"stopped": True})
