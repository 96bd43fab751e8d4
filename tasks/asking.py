"""What the servers on this machine say of themselves."""

import json
import socket
import time
from pathlib import Path
from typing import Any

import httpx

from stores.home import Home


def ask_servers(home: Home) -> tuple[dict[str, Any], ...]:
    """`/readyz` of each server of the home that runs here; empty where one is busy, starting, or answers nonsense.

    No entry: no server runs here. Others may run elsewhere, which nothing here can tell.
    """
    files = [home.run / "serving.json", *home.run.glob(f"serving-{socket.gethostname()}-*.json")]
    return tuple(stated for file in files if (stated := _ready(file)) is not None)


def champions_served(home: Home) -> frozenset[str] | None:
    """The champions' digests that running servers report, "" for one that does not tell; None when none runs here."""
    return frozenset(_champion(stated) for stated in ask_servers(home)) or None


def wait_until_serving(home: Home, digest: str, *, timeout_s: float) -> bool | None:
    """Whether all servers on this machine report `digest` as their champion within `timeout_s`; None when none runs."""
    until = time.monotonic() + timeout_s
    while True:
        found = champions_served(home)
        if found is None:
            return None
        if found == {digest}:
            return True
        if time.monotonic() > until:
            return False
        time.sleep(0.05)


def _champion(stated: dict[str, Any]) -> str:
    champion = stated.get("champion")
    return str(champion.get("digest", "")) if isinstance(champion, dict) else ""


def _ready(announcement: Path) -> dict[str, Any] | None:
    try:
        stated = json.loads(announcement.read_text(encoding="utf-8"))
        address = f"http://127.0.0.1:{int(stated['port'])}/readyz"
    except (OSError, ValueError, KeyError, TypeError):
        return None
    try:
        answer = httpx.get(address, timeout=2.0, trust_env=False).json()
    except httpx.ConnectError:
        return None  # a file that a killed server left behind
    except (httpx.HTTPError, ValueError):
        return {}
    return answer if isinstance(answer, dict) else {}
