"""The console's process: one a home, on loopback or behind a proxy that speaks https; gone when told to stop."""

import sys
from collections.abc import Sequence

from filelock import FileLock, Timeout

from relations.errors import UsageError
from serving.console.app import create_console
from serving.console.reach import Reach, listening_address
from serving.listening import listen, serve_home
from stores.home import Home
from stores.ledger import Ledger
from stores.settings import Settings

DRAIN_SECONDS = 15
"""Open requests have this long to be answered after a signal: an approval waits up to ten to see servers follow."""


def run(home: Home, settings: Settings, *, host: str | None = None, port: int | None = None) -> None:
    """Answer until SIGTERM or SIGINT.

    `host` and `port` override the settings; port 0 takes a free one. `run/console.json` names process and port, from
    when the console listens until it stops. Raises UsageError for an address beyond loopback where not everybody would
    be asked who they are, or has to say it over plain HTTP, and where a console of this home runs already;
    DependencyFailed where the port is taken.
    """
    stated = settings.console.host if host is None else host
    address = listening_address(
        stated, home=home, reach=Reach.of(home, settings), anybody=lambda: _anybody(home, settings)
    )
    lock = FileLock(home.run / "console.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UsageError(
            f"{home.root}: has a console already, see {home.run / 'console.json'}; use that one, or stop it"
        ) from error
    try:
        listen(
            create_console(home, settings),
            address=address,
            port=settings.console.port if port is None else port,
            announced=lambda _: home.run / "console.json",
            drain_seconds=DRAIN_SECONDS,
        )
    finally:
        lock.release()


def _anybody(home: Home, settings: Settings) -> bool:
    return any(person.disabled is None for person in Ledger.of(home, settings).people())


def main(arguments: Sequence[str] | None = None) -> int:
    return serve_home(run, arguments, prog="serving.console.run", description="The review console.")


if __name__ == "__main__":
    sys.exit(main())
