"""API keys of the recommend API: who may ask what, one JSON file of hashes in the home.

    key = rk_<id>_<secret>: 8 hex digits that name the key, 48 that prove it (192 random bits)

The file holds SHA-256 of the secret. A slow hash (scrypt, Argon2) guards what people choose, because a guess at a
password is likely to hit; of 192 random bits no guess is, however fast the hash, and each request would pay for it.

A home without keys is open, to its own machine only. The first key closes it, and revoking all does not open it again.
Times here are the wall clock's, also in a simulation: a key guards a real port.
"""

import contextlib
import fcntl
import hmac
import json
import logging
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Any

from relations.errors import DependencyFailed, UsageError
from stores.stamps import Stamp, stamp_of

FORMAT = 1
SECRET_BYTES = 24
MAX_NAME = 100
_NOBODYS = "0" * 64
_LOG = logging.getLogger(__name__)


class Role(StrEnum):
    """What a key may do. None includes another: whoever needs two is given two."""

    RECOMMEND = "recommend"
    FEEDBACK = "feedback"
    ADMIN = "admin"


@dataclass(frozen=True)
class ApiKey:
    id: str
    name: str
    roles: frozenset[Role]
    secret_sha256: str = field(repr=False)
    created: datetime
    expires: datetime | None = None
    revoked: datetime | None = None

    def ended(self, now: datetime) -> str | None:
        """`revoked` or `expired`; None while it counts."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and now >= self.expires else None

    def stated(self) -> dict[str, Any]:
        """For people and for --json: everything but the hash."""
        return {
            "id": self.id,
            "name": self.name,
            "roles": sorted(self.roles),
            "created": self.created.isoformat(),
            "expires": self.expires and self.expires.isoformat(),
            "revoked": self.revoked and self.revoked.isoformat(),
        }


class KeyRefused(Exception):  # noqa: N818 -- the client's mistake, told to the client
    """What was shown is no key that counts; says why, and repeats nothing of it."""


class KeyRing:
    """The keys in force, for a process that goes on: `refresh` follows the file, `check` is for each request."""

    def __init__(self, path: Path) -> None:
        """Raises DependencyFailed where the file cannot be read: without it nobody could be told from anybody."""
        self._path = path
        self._stamp: Stamp | None = None
        self._keys: dict[str, ApiKey] = {}
        self._follow()

    @property
    def open(self) -> bool:
        """Whether no key was ever made, so that none is asked for."""
        return not self._keys

    def refresh(self) -> None:
        """Look whether the file changed, by stat.

        Raises DependencyFailed where it cannot be read; the former keys stay in force then.
        """
        self._follow()

    def check(self, shown: str, *, now: datetime) -> ApiKey:
        """The key in force that was shown. Raises KeyRefused."""
        prefix, _, rest = shown.partition("_")
        key_id, _, secret = rest.partition("_")
        key = self._keys.get(key_id)
        # An unknown id is compared as well, so that the time taken tells nothing about which ids there are.
        stored = key.secret_sha256 if key is not None else _NOBODYS
        fits = hmac.compare_digest(_hash(secret), stored)
        if key is None or not fits or prefix != "rk":
            raise KeyRefused("this is no key of this server")
        if ended := key.ended(now):  # told only to who has the secret
            raise KeyRefused(f"this key was revoked; its id is {key.id}" if ended == "revoked" else _expired(key))
        return key

    def _follow(self) -> None:
        try:
            stamp = stamp_of(self._path)
        except FileNotFoundError:
            if self._keys:  # a lost file must not open what keys had closed
                raise DependencyFailed(f"{self._path}: missing; restore it from a backup, or add a key") from None
            return
        except OSError as error:
            raise DependencyFailed(f"{self._path}: cannot be read: {error.strerror}") from error
        if stamp != self._stamp:
            self._keys = {key.id: key for key in read_keys(self._path)}
            self._stamp = stamp
            _LOG.info(
                "%d API keys are in force", sum(key.ended(datetime.now(UTC)) is None for key in self._keys.values())
            )


def read_keys(path: Path) -> list[ApiKey]:
    """In the order in which they were made; none where there is no file. Raises DependencyFailed on a damaged one."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise DependencyFailed(f"{path}: cannot be read ({error}); restore it from a backup") from error
    try:
        stated = json.loads(text)
        if stated["format"] != FORMAT:
            raise ValueError(f"format {stated['format']!r}, not {FORMAT}")
        return [_key(row) for row in stated["keys"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DependencyFailed(f"{path}: not readable as API keys ({error!r}); restore it from a backup") from error


def add_key(
    path: Path, *, name: str, roles: Sequence[Role], lifetime: timedelta | None, now: datetime
) -> tuple[ApiKey, str]:
    """Make a key; with it the whole of it, `rk_<id>_<secret>`, which is nowhere else and cannot be shown again.

    Raises UsageError for a name that is empty or that a key in force has, and for no roles.
    """
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise UsageError(f"name {name[:40]!r}: 1 to {MAX_NAME} printable characters")
    if not roles:
        raise UsageError(f"key {name!r}: name at least one role of {', '.join(Role)}")
    if lifetime is not None and lifetime <= timedelta(0):
        raise UsageError(f"key {name!r}: would have expired already; give it more than 0 days")
    secret = secrets.token_hex(SECRET_BYTES)
    with _changing(path) as keys:
        if any(key.name == name and key.ended(now) is None for key in keys):
            raise UsageError(f"key {name!r}: is there already; take another name, or revoke it first")
        taken = {key.id for key in keys}
        key_id = next(drawn for drawn in iter(lambda: secrets.token_hex(4), None) if drawn not in taken)
        key = ApiKey(
            id=key_id,
            name=name,
            roles=frozenset(roles),
            secret_sha256=_hash(secret),
            created=now,
            expires=None if lifetime is None else now + lifetime,
        )
        keys.append(key)
    return key, f"rk_{key_id}_{secret}"


def revoke_key(path: Path, which: str, *, now: datetime) -> ApiKey:
    """End the key with this id, or the one in force with this name; one that is revoked already stays as it is.

    Raises UsageError where there is none.
    """
    with _changing(path) as keys:
        named = [n for n, key in enumerate(keys) if key.id == which]
        named += [n for n, key in enumerate(keys) if key.name == which and key.ended(now) is None]
        if not named:
            raise UsageError(f"key {which!r}: there is none in force of this id or name; see `ratchet keys list`")
        at = named[0]
        if keys[at].revoked is None:
            keys[at] = replace(keys[at], revoked=now)
        return keys[at]


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[list[ApiKey]]:
    """The keys, to be changed in place; written whole at the end, one change at a time."""
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keys = read_keys(path)
        yield keys
        rows = [key.stated() | {"secret_sha256": key.secret_sha256} for key in keys]
        temporary = path.with_suffix(".part")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(json.dumps({"format": FORMAT, "keys": rows}, indent=1, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def _key(row: dict[str, Any]) -> ApiKey:
    if len(row["secret_sha256"]) != len(_NOBODYS):
        raise ValueError(f"key {row['id']}: secret_sha256 is no SHA-256")
    return ApiKey(
        id=row["id"],
        name=row["name"],
        roles=frozenset(Role(role) for role in row["roles"]),
        secret_sha256=row["secret_sha256"],
        created=_time(row["created"]),
        expires=row["expires"] and _time(row["expires"]),
        revoked=row["revoked"] and _time(row["revoked"]),
    )


def _time(stated: str) -> datetime:
    time = datetime.fromisoformat(stated)
    if time.tzinfo is None:
        raise ValueError(f"{stated!r} has no offset from UTC")
    return time


def _expired(key: ApiKey) -> str:
    return f"this key expired {key.expires:%Y-%m-%d %H:%M} UTC; its id is {key.id}"


def _hash(secret: str) -> str:
    return sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
