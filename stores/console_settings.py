"""Settings of the review console: a section of `ratchet.toml`. See `stores.settings`."""

import ipaddress
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from stores.sections import Positive, Section


class ConsoleSettings(Section):
    host: str = "127.0.0.1"
    """An address; one beyond loopback only where people sign in, and come by https through a proxy (`url`)."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8891
    url: str = ""
    """How people reach the console, as https://review.example.com: the only name that it answers to then, and what
    links in messages begin with. Empty: from this machine alone."""
    mirror_seconds: Positive = 15.0
    """How often MLflow is compared with the ledger, what waited too long is ended, and people are told of news."""

    @field_validator("url")
    @classmethod
    def _plain_address(cls, stated: str) -> str:
        if not stated:
            return stated
        parts = urlsplit(stated)
        host, port = parts.hostname or "", parts.port
        if parts.scheme not in ("http", "https") or not host or parts.username is not None or not stated.isascii():
            raise ValueError("write scheme and host, as https://review.example.com; other letters as xn--…")
        if parts.path.strip("/") or parts.query or parts.fragment:
            raise ValueError("the console has a host of its own, not a path on another's: leave out what follows it")
        if parts.scheme == "http" and not _is_loopback(host):
            raise ValueError("https only, but on this machine: sessions could be read on the way")
        named = f"[{host}]" if ":" in host else host
        # As a browser writes it, who leaves the usual port out.
        usual = port is None or port == {"http": 80, "https": 443}[parts.scheme]
        return f"{parts.scheme}://{named}" if usual else f"{parts.scheme}://{named}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
