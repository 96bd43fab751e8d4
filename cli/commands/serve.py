"""`ratchet serve` and `ratchet recommend`."""

import json
import os
import urllib.error
import urllib.request

import click

from cli.console import PORT, Context, Result, command
from relations.errors import DependencyFailed, UsageError
from stores.running import running_server


@command("serve", short_help="Answer recommendation requests.")
@click.option("--host", help="An address; beyond loopback only with API keys.")
@click.option("--port", type=PORT, help="0 takes a free one.")
def serve(context: Context, *, host: str | None, port: int | None) -> Result:
    """Answer recommendation requests over HTTP until interrupted."""
    from serving.run import run

    run(context.home, context.settings, host=host, port=port)
    return Result({"stopped": True})


@command("recommend", short_help="Ask the running server.")
@click.argument("user")
@click.option("-k", "k", type=click.IntRange(1, 100), default=10, show_default=True)
def recommend(context: Context, *, user: str, k: int) -> Result:
    """Ask the running server for USER's recommendations. The answer is logged as exposures, as any other.

    Where the home has API keys, RATCHET_API_KEY holds one with the role recommend.
    """
    address = running_server(context.home, "serving")
    if address is None:
        raise DependencyFailed(f"{context.root}: no server runs in this home; start one with `ratchet serve`")
    body = json.dumps({"user_id": user, "k": k}).encode()
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("RATCHET_API_KEY"):  # not an option: other users of the machine see a command's arguments
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(f"{address}/v1/recommend", data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        detail = json.load(error)["detail"]
        if error.code in (401, 403):
            raise UsageError(f"{address}: {detail}; put a key into RATCHET_API_KEY") from error
        if error.code == 422:
            raise UsageError(f"{user[:100]!r}: {detail}") from error
        raise DependencyFailed(f"{address}: {detail}; see {context.home.run / 'serving.log'}") from error
    except urllib.error.URLError as error:
        raise DependencyFailed(f"{address}: {error}; see {context.home.run / 'serving.log'}") from error
    model = answer["model"]
    lines = [f"model v{model['version']} ({model['arm']})"]
    lines += [f"{item['position']:3}  {item['item_id']:24} {item['score']:.4f}" for item in answer["items"]]
    return Result(answer, tuple(lines))
