"""`ratchet serve` and `ratchet recommend`."""

import json
import urllib.error
import urllib.request

import click

from cli.console import Context, Result, command
from cli.processes import running_server
from relations.errors import DependencyFailed


@command("serve", short_help="Answer recommendation requests.")
@click.option("--host", help="Loopback only, until there is authentication.")
@click.option("--port", type=int, help="0 takes a free one.")
def serve(context: Context, *, host: str | None, port: int | None) -> Result:
    """Answer recommendation requests over HTTP until interrupted."""
    from serving.run import run

    run(context.home, context.settings, host=host, port=port)
    return Result({"stopped": True})


@command("recommend", short_help="Ask the running server.")
@click.argument("user")
@click.option("-k", "k", type=click.IntRange(1, 100), default=10, show_default=True)
def recommend(context: Context, *, user: str, k: int) -> Result:
    """Ask the running server for USER's recommendations. The answer is logged as exposures, as any other."""
    address = running_server(context.home, "serving")
    if address is None:
        raise DependencyFailed(f"{context.root}: no server runs in this home; start one with `ratchet serve`")
    body = json.dumps({"user_id": user, "k": k}).encode()
    request = urllib.request.Request(f"{address}/v1/recommend", data=body, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            answer = json.load(response)
    except urllib.error.URLError as error:
        raise DependencyFailed(f"{address}: {error}; see {context.home.run / 'serving.log'}") from error
    model = answer["model"]
    lines = [f"model v{model['version']} ({model['arm']})"]
    lines += [f"{item['position']:3}  {item['item_id']:24} {item['score']:.4f}" for item in answer["items"]]
    return Result(answer, tuple(lines))
