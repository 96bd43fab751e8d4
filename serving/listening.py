"""One server process: it listens, tells where in a file once it does, and is gone without a trace when told to stop."""

import argparse
import gc
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import uvicorn
from fastapi import FastAPI

from relations.errors import DependencyFailed, RatchetError
from stores.home import Home
from stores.settings import Settings, find_settings, load_settings

_LOG = logging.getLogger(__name__)


class Run(Protocol):
    """Serves a home until it is told to stop."""

    def __call__(self, home: Home, settings: Settings, /, *, host: str | None, port: int | None) -> None: ...


def serve_home(run: Run, arguments: Sequence[str] | None, *, prog: str, description: str) -> int:
    """`python -m PROG --home DIR [--config FILE] [--host HOST] [--port N]`; returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m {prog}", description=description)
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


def listen(app: FastAPI, *, address: str, port: int, announced: Callable[[int], Path], drain_seconds: int) -> None:
    """Answer until SIGTERM or SIGINT. `announced`: by port, the file that names process and port meanwhile.

    Open requests have `drain_seconds` to be answered after a signal. Raises DependencyFailed where the port is taken,
    and what the app left at `app.state.failure` when it could not start.
    """
    config = uvicorn.Config(
        app,
        loop="asyncio",  # the same wherever it runs, whatever else is installed there
        log_config=None,
        access_log=False,
        lifespan="on",
        server_header=False,
        proxy_headers=False,  # nothing here goes by a client's address
        timeout_graceful_shutdown=drain_seconds,
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
        announcement = announced(listener.getsockname()[1])
        try:
            _Server(config, announcement=announcement).run(sockets=[listener])
        except SystemExit as error:
            failure = getattr(app.state, "failure", None)
            raise failure or DependencyFailed(f"{announcement}: the server did not start; its log says why") from error
        finally:
            announcement.unlink(missing_ok=True)


class _Server(uvicorn.Server):
    """uvicorn, but: tells where it listens once it does, keeps the startup's error, and returns after a signal."""

    def __init__(self, config: uvicorn.Config, *, announcement: Path) -> None:
        super().__init__(config)
        self._announcement = announcement

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # What is loaded by now stays: collections that walk all of it would take tens of milliseconds from answers.
        gc.collect()
        gc.freeze()
        assert sockets is not None
        host, port = sockets[0].getsockname()[:2]
        stated = {"pid": os.getpid(), "host": host, "port": port}
        temporary = self._announcement.with_suffix(".part")
        temporary.write_text(json.dumps(stated) + "\n")
        temporary.replace(self._announcement)
        _LOG.info("listening on port %d of %s", port, host)

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
