"""Where the home's servers on this machine listen, as they have announced it in the home's `run` folder."""

import json
import os

from stores.home import Home

LOOPBACK = "127.0.0.1"


def running_server(home: Home, name: str) -> str | None:
    """The address of the home's `name` server, if its process lives."""
    try:
        stated = json.loads((home.run / f"{name}.json").read_text())
        os.kill(int(stated["pid"]), 0)
        return f"http://{LOOPBACK}:{int(stated['port'])}"
    except (OSError, ValueError, KeyError, TypeError):
        return None
