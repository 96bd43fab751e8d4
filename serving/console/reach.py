"""How people reach the console: from this machine alone, or by https through a proxy that `[console] url` names.

Nothing of what a proxy says is believed but the Host header, and that has to be the one of `[console] url`.
"""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from relations.errors import UsageError
from serving.web.access import is_this_machine
from stores.home import Home
from stores.settings import Settings


@dataclass(frozen=True)
class Reach:
    """`host`: as the browser names it, with the port where it is not the usual one; empty: any name of this machine."""

    host: str = ""

    @staticmethod
    def of(home: Home, settings: Settings) -> "Reach":
        """Raises UsageError for a simulation that would be reached from elsewhere: nobody is asked for a password."""
        host = urlsplit(settings.console.url).netloc.lower()
        if not host or is_this_machine(host):
            return Reach()
        if home.simulation:
            raise UsageError(
                f"[console] url = {settings.console.url!r}: in a simulation anybody signs in with a name alone, so its "
                "console is for this machine; leave the url out"
            )
        return Reach(host)

    @property
    def secure(self) -> bool:
        """Whether people come by https."""
        return bool(self.host)

    def admits(self, host: str) -> bool:
        """Whether a Host header is one that people use. Any other may be a name that somebody pointed here."""
        return host.lower() == self.host if self.host else is_this_machine(host)

    def origin(self, host: str) -> str:
        """Where our own pages come from, for a request with this Host header."""
        return f"https://{self.host}" if self.host else f"http://{host.lower()}"


def listening_address(host: str, *, home: Home, reach: Reach, anybody: Callable[[], bool]) -> str:
    """The address of `host`. Raises UsageError for one beyond loopback where not everybody would be asked who they are,
    or would say it over a line that others read. `anybody`: whether there are people who can sign
    in, asked where it matters.
    """
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise UsageError(f"[console] host = {host!r}: is no address; write one, as 127.0.0.1 or 0.0.0.0") from None
    if address.is_loopback:
        return str(address)
    beyond = f"[console] host = {host!r}: beyond this machine"
    if home.simulation:
        raise UsageError(f"{beyond} no simulation answers: anybody signs in there with a name alone; use 127.0.0.1")
    if not anybody():
        raise UsageError(f"{beyond} only where people sign in; make the first one with `ratchet people first NAME`")
    if not reach.secure:
        raise UsageError(
            f"{beyond} only behind a proxy that speaks https, or passwords and sessions could be read on the way; "
            'write how people reach it, as [console] url = "https://review.example.com"'
        )
    return str(address)
