"""Pseudonyms and derived event ids: two keyed functions with separate keys, kept outside the lake.

A pseudonym is `p<key version>_<32 hex digits>` of HMAC-SHA-256(key, user id in UTF-8). The same function serves
ingest and serving. The event key never rotates: a rotated one would accept every old row a second time.
"""

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

KEY_BYTES = 32


@dataclass(frozen=True)
class Keys:
    """The home's secrets. `pseudonym_version` is part of each pseudonym."""

    pseudonym: bytes
    event: bytes
    token: bytes
    pseudonym_version: int = 1

    @staticmethod
    def load(folder: Path, *, version: int = 1) -> "Keys":
        """Read the keys of `folder`; those that are missing are drawn at random, written 0600 and kept."""
        return Keys(
            pseudonym=_key(folder / f"pseudonym-{version}.key"),
            event=_key(folder / "event.key"),
            token=_key(folder / "token.key"),
            pseudonym_version=version,
        )

    @staticmethod
    def write_derived(folder: Path, *, seed: int) -> None:
        """Keys from a seed, so that a simulation's assignment repeats. Only for simulation homes."""
        for name in ("pseudonym-1", "event", "token"):
            path = folder / f"{name}.key"
            if not path.exists():
                _write(path, hashlib.sha256(f"ratchet simulation {seed} {name}".encode()).digest())

    def user(self, raw: str) -> str:
        digest = hmac.new(self.pseudonym, raw.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
        return f"p{self.pseudonym_version}_{digest[:32]}"

    def event_id(self, *, user: str, item_id: str, behaviour: str, event_time_us: int, value: float | None) -> str:
        """The id of an event whose source gives none: equal rows are one event."""
        said = "\x1f".join((user, item_id, behaviour, str(event_time_us), "" if value is None else repr(float(value))))
        return "e_" + hmac.new(self.event, said.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:32]


def _key(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        _write(path, secrets.token_bytes(KEY_BYTES))
        return path.read_bytes()


def _write(path: Path, key: bytes) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.part")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key)
    try:
        os.link(temporary, path)  # fails where another process was first: its key stays
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
