"""Messages to the configured URLs by apprise, each URL in a thread of its own, for so long and no longer.

What goes out goes to these URLs only: no redirect is followed, no configuration or picture is fetched, nothing is kept
on disk. Nothing that apprise says is logged or kept, for its words may hold parts of a URL: what failed is told in
words of our own.
"""

import logging
import re
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from tasks.notices import Message

_WITH_HOSTS = ("json", "jsons", "xml", "xmls", "form", "forms", "mailto", "mailtos")
"""Of these the host is one; elsewhere a token may stand in its place."""
_QUIET = ("apprise", "urllib3.connectionpool", "urllib3.util.retry")
_PREFIX = "ratchet-notice"


class _Overheard(logging.Filter):
    """Keeps what is said in a sending thread from every log, and remembers it for the reason."""

    def __init__(self) -> None:
        super().__init__()
        self.said = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        if not threading.current_thread().name.startswith(_PREFIX):
            return True
        said: list[str] = getattr(self.said, "lines", [])
        if record.levelno >= logging.WARNING:
            said.append(record.getMessage())
        self.said.lines = said
        return False

    def reason(self) -> str:
        """What this thread heard since the last call, in words that hold no secret."""
        text = " ".join(getattr(self.said, "lines", []))
        self.said.lines = []
        status = re.search(r"error=(\d{3})\b", text)
        if status is not None:
            return f"it answered {status.group(1)}"
        return "no connection, or no answer" if "onnection" in text else "it was not taken"


_OVERHEARD = _Overheard()
_LOADING = threading.Lock()


def named(urls: Sequence[str]) -> dict[str, str]:
    """What a URL is called where people read it, without anything secret → the URL."""
    return {f"{_shown(url)} (#{place})": url for place, url in enumerate(urls, start=1)}


def send(
    messages: Sequence[tuple[Message, Sequence[str]]], *, urls: Mapping[str, str], timeout_s: float
) -> list[dict[str, str]]:
    """Send each message to the URLs of its names; returns for each by name why it failed, empty where all got it.

    `urls`: as `named`. Never raises for what a server does. Whatever has no answer after `timeout_s` has failed; it may
    get there all the same.
    """
    _load()
    until = time.monotonic() + timeout_s
    late = f"no answer within {timeout_s:g} s"
    failed = [dict.fromkeys((name for name in names if name in urls), late) for _, names in messages]
    lock = threading.Lock()
    over = threading.Event()

    def work(name: str) -> None:
        for place, (message, names) in enumerate(messages):
            if name not in names or over.is_set():
                continue
            why = _send_one(message, urls[name], timeout_s=max(until - time.monotonic(), 0.1))
            with lock:
                if over.is_set():
                    return
                if why:
                    failed[place][name] = why
                else:
                    failed[place].pop(name)

    workers = [
        threading.Thread(target=work, args=(name,), name=f"{_PREFIX}-{place}", daemon=True)
        for place, name in enumerate(urls)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(max(until - time.monotonic(), 0))
    with lock:
        over.set()
    return failed


def readable(url: str) -> bool:
    """Whether apprise knows what to do with it. Nothing is sent."""
    _load()
    found: list[bool] = []
    reader = threading.Thread(target=lambda: found.append(_open(url) is not None), name=_PREFIX)
    reader.start()
    reader.join()
    return found == [True]


def _load() -> None:
    """apprise and its plugins, which take most of a second: here, and not in several threads at once."""
    with _LOADING, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some plugins lean on what Python will drop
        from apprise.manager_plugins import NotificationManager

        for name in _QUIET:
            logging.getLogger(name).addFilter(_OVERHEARD)  # the same one is added once
        NotificationManager().load_modules()  # type: ignore[no-untyped-call]


def _send_one(message: Message, url: str, *, timeout_s: float) -> str:
    """Why it failed; empty when it did not."""
    try:
        import apprise

        server = _open(url)
        if server is None:
            return "apprise cannot read this URL"
        server.socket_connect_timeout = min(server.socket_connect_timeout or timeout_s, timeout_s)
        server.socket_read_timeout = min(server.socket_read_timeout or timeout_s, timeout_s)
        sender = apprise.Apprise(asset=server.asset)
        sender.add(server)
        sent = sender.notify(
            message.body,
            title=message.title,
            notify_type=apprise.NotifyType(message.tone.value),
            body_format=apprise.NotifyFormat.TEXT,
        )
    except Exception as error:  # of any of a hundred plugins; what it says may hold its URL
        return f"apprise failed ({type(error).__name__})"
    return "" if sent else _OVERHEARD.reason()


def _open(url: str) -> Any:
    """apprise's plugin for the URL, or None."""
    import apprise

    asset = apprise.AppriseAsset(
        app_id="Ratchet",
        app_desc="Ratchet",
        app_url="",
        image_url_mask="",
        image_url_logo="",
        async_mode=False,
        http_redirects=False,
        interpret_emojis=False,
        pgp_autogen=False,
        pem_autogen=False,
        storage_mode="memory",
    )
    return apprise.Apprise.instantiate(url, asset=asset)


def _shown(url: str) -> str:
    scheme = re.match(r"[a-z][a-z0-9+.-]*(?=://)", url.strip().lower())
    if scheme is None:
        return "not a URL"
    if scheme.group() not in _WITH_HOSTS:
        return scheme.group()
    try:
        return f"{scheme.group()}://{urlsplit(url.strip()).hostname or ''}"
    except ValueError:
        return scheme.group()
