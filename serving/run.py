"""The server process: one a home, or several that share users' state; beyond loopback only with API keys; gone without
a trace when told to stop.
"""

import ipaddress
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from relations.errors import UsageError
from serving.app import create_app
from serving.listening import listen, serve_home
from stores.api_keys import KeyRing
from stores.home import Home
from stores.settings import Settings

DRAIN_SECONDS = 5
"""Open requests have this long to be answered after a signal; the logs' last rows are written after that."""


def run(home: Home, settings: Settings, *, host: str | None = None, port: int | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then hand over the logs and return.

    `host` and `port` override the settings; port 0 takes a free one. `run/serving.json` names process and port, from
    when the server listens until it stops; those of any further server are in `run/serving-<machine>-<port>.json`.
    Raises UsageError for an address beyond loopback without API keys, or where the home is served already and users'
    state is not shared, DependencyFailed where the port is taken, the disk refuses, or the device is missing.
    """
    address = _address(settings.serving.host if host is None else host, open_home=KeyRing(home.api_keys).open)
    lock = FileLock(home.run / "serving.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        # In a simulation request ids follow from user and time: two servers would give the same ones.
        if not settings.serving.user_state or settings.home.clock == "request":
            raise UsageError(
                f"{home.root}: is served already, see {home.run / 'serving.json'}; stop that server, or let several "
                "share users' state: [serving] user_state = redis://…, which a simulation cannot"
            ) from error
    try:
        _serve(home, settings, address, settings.serving.port if port is None else port, first=lock.is_locked)
    finally:
        lock.release()


def _serve(home: Home, settings: Settings, address: str, port: int, *, first: bool) -> None:
    def announced(bound: int) -> Path:
        return home.run / ("serving.json" if first else f"serving-{socket.gethostname()}-{bound}.json")

    # A browser cannot show a key when it opens a page. The page says nothing of this home, but beyond it is asked for.
    app = create_app(home, settings, open_pages=ipaddress.ip_address(address).is_loopback)
    listen(app, address=address, port=port, announced=announced, drain_seconds=DRAIN_SECONDS)


def _address(host: str, *, open_home: bool) -> str:
    """The address of `host`. Refuses every other than loopback while `open_home`: anybody could ask for anything."""
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise UsageError(f"[serving] host = {host!r}: is no address; write one, as 127.0.0.1 or 0.0.0.0") from None
    if open_home and not address.is_loopback:
        raise UsageError(
            f"[serving] host = {host!r}: loopback only, as no API key was made; use 127.0.0.1, or make a key with "
            "`ratchet keys add`"
        )
    return str(address)


def main(arguments: Sequence[str] | None = None) -> int:
    return serve_home(run, arguments, prog="serving.run", description="Answer recommendation requests.")


if __name__ == "__main__":
    sys.exit(main())
