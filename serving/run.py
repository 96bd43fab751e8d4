"""The server process: one a home, loopback only, gone without a trace when told to stop."""

import argparse
import ipaddress
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from filelock import FileLock, Timeout

from relations.errors import DependencyFailed, RatchetError, UsageError
from serving.app import create_app
from stores.home import Home
from stores.settings import Settings, find_settings, load_settings

_LOG = logging.getLogger(__name__)


def run(home: Home, settings: Settings, *, host: str | None = None, port: int | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then hand over the logs and return.

    `host` and `port` override the settings; port 0 takes a free one. `run/serving.json` names process and port, from
    when the server listens until it stops. Raises UsageError for an address that is not loopback or where the home is
    served already, DependencyFailed where the port is taken, the disk refuses, or the device is missing.
    """
    address = _loopback(settings.serving.host if host is None else host)
    lock = FileLock(home.run / "serving.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UsageError(
            f"{home.root}: is served already, see {home.run / 'serving.json'}; stop that server"
        ) from error
    try:
        _serve(home, settings, address, settings.serving.port if port is None else port)
    finally:
        lock.release()


class _Server(uvicorn.Server):
    """uvicorn, but: tells where it listens once it does, keeps the startup's error, and returns after a signal."""

    def __init__(self, config: uvicorn.Config, *, announcement: Path) -> None:
        super().__init__(config)
        self._announcement = announcement

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets is not None
        host, port = sockets[0].getsockname()[:2]
        stated = {"pid": os.getpid(), "host": host, "port": port}
        temporary = self._announcement.with_suffix(".part")
        temporary.write_text(json.dumps(stated) + "\n")
        temporary.replace(self._announcement)
        _LOG.info("serving on port %d of %s", port, host)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's own raises the signal again at the end, which would kill us before we have cleaned up.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former = {one: signal.signal(one, self.handle_exit) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in former.items():
                signal.signal(one, handler)


def _serve(home: Home, settings: Settings, address: str, port: int) -> None:
    announcement = home.run / "serving.json"
    app = create_app(home, settings)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="on", server_header=False, timeout_graceful_shutdown=5
    )
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # asyncio switches Nagle's algorithm off only where the protocol is stated; with it each answer takes 40 ms.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
        except OSError as error:
            raise DependencyFailed(
                f"{address}:{port}: cannot listen: {error.strerror}; take another --port, 0 takes a free one"
            ) from error
        try:
            _Server(config, announcement=announcement).run(sockets=[listener])
        except SystemExit as error:
            failure = getattr(app.state, "failure", None)
            raise failure or DependencyFailed(f"{home.root}: the server did not start; its log says why") from error
        finally:
            announcement.unlink(missing_ok=True)


def _loopback(host: str) -> str:
    """The address of `host`. Refuses every other than loopback: the API has no authentication."""
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        raise UsageError(f"[serving] host = {host!r}: loopback only, as there is no authentication; use 127.0.0.1")
    return str(address)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m serving.run --home DIR [--config FILE] [--host HOST] [--port N]`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m serving.run", description="Answer recommendation requests.")
    parser.add_argument("--home", type=Path, default=Path(".ratchet"))
    parser.add_argument("--config", type=Path)
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    stated = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        run(
            Home.open(stated.home),
            load_settings(find_settings(stated.home, stated.config)),
            host=stated.host,
            port=stated.port,
        )
    except RatchetError as error:
        sys.stderr.write(f"ratchet: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
