"""Where people read on: the console's pages where a console is known, else the evidence page's file."""

from urllib.parse import quote

from stores.home import Home
from stores.running import running_server
from stores.settings import Settings


def console_address(home: Home, settings: Settings) -> str:
    """[console] url, else that of the console that runs on this machine; without a slash at the end, empty: none."""
    return settings.console.url or running_server(home, "console") or ""


def page_link(home: Home, settings: Settings, *, trial: str = "") -> str:
    """The page of `trial`, or the history of champions; the file of its evidence without a console; empty: nothing."""
    console = console_address(home, settings)
    if console:
        return f"{console}/trials/{quote(trial, safe='')}" if trial else f"{console}/champions"
    file = home.reports / f"{trial}.html"
    return file.as_uri() if trial and file.exists() else ""
