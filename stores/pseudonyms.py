"""Pseudonyms and derived event ids: keyed functions with separate keys, kept outside the lake. Standard library only.

    p_1 = "p1_" + HMAC-SHA-256(key 1, raw id)[:32]        p_v = "p<v>_" + E(key v, p_(v−1)'s digits)

in hexadecimal, texts as UTF-8. E is a keyed permutation of 128 bits: a Feistel network of four rounds with HMAC-SHA-256
(Luby and Rackoff, SIAM J. Comput. 1988). Each key is a link of a chain, so that a stored pseudonym of any older version
is lifted to the newest without the raw id, and an old key alone says nothing about the newest pseudonyms. The newest
key file is the version in force.

The event key never rotates: a rotated one would accept every old row a second time. For the same reason a derived event
id is over the user's root, p_1, which no rotation changes; E can be undone, so that a stored pseudonym has its root.
"""

import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from relations.errors import DependencyFailed

KEY_BYTES = 32
_PSEUDONYM = re.compile(r"p([1-9][0-9]{0,5})_[0-9a-f]{32}")
_FILE = re.compile(r"pseudonym-([1-9][0-9]{0,5})\.key")
_BLOCK = 64  # bytes of a SHA-256 block

_ROUNDS = tuple(bytes([number]) for number in range(4))

_Link = Callable[[str], str]
_Mac = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Keys:
    """The home's secrets. `pseudonym`: the chain, oldest key first."""

    pseudonym: tuple[bytes, ...] = field(repr=False)
    event: bytes = field(repr=False)
    token: bytes = field(repr=False)

    @staticmethod
    def load(folder: Path) -> "Keys":
        """Read the keys of `folder`; of a folder without any, draw them at random, written 0600 and kept.

        Raises DependencyFailed where a link of the chain is missing or no key: its pseudonyms could not be made again.
        """
        newest = max(newest_version(folder), 1)
        for version in range(1, newest):
            if not key_file(folder, version).exists():
                raise DependencyFailed(
                    f"{key_file(folder, version)}: missing, and pseudonyms of version {newest} are made with it; "
                    "restore it from a backup"
                )
        chain = tuple(_key(key_file(folder, version)) for version in range(1, newest + 1))
        return Keys(pseudonym=chain, event=_key(folder / "event.key"), token=_key(folder / "token.key"))

    @staticmethod
    def write_derived(folder: Path, *, seed: int) -> None:
        """Keys from a seed, so that a simulation's assignment repeats. Only for simulation homes."""
        for name in ("pseudonym-1", "event", "token"):
            path = folder / f"{name}.key"
            if not path.exists():
                _write(path, hashlib.sha256(f"ratchet simulation {seed} {name}".encode()).digest())

    @property
    def version(self) -> int:
        """Of new pseudonyms, from 1."""
        return len(self.pseudonym)

    @property
    def prefix(self) -> str:
        """Of every pseudonym in force, and of no older one."""
        return f"p{self.version}_"

    def user(self, raw: str) -> str:
        """The pseudonym in force of one raw id."""
        return self.users((raw,))[0]

    def users(self, raw: Sequence[str]) -> list[str]:
        """The pseudonyms in force, in order; about 1 µs each, and 6 µs more for every rotation so far."""
        return self.lift_all(self.roots(raw))

    def roots(self, raw: Sequence[str]) -> list[str]:
        """First links of the chain: what derived event ids are over, whatever key is in force."""
        first = _mac(self.pseudonym[0])
        return ["p1_" + first(text.encode("utf-8", "surrogatepass")).hex()[:32] for text in raw]

    def roots_of(self, pseudonyms: Sequence[str]) -> list[str]:
        """The roots of users who are known by a pseudonym alone, in order; what is none of ours stays as it is."""
        return [said if said.startswith("p1_") else self._rooted(said) for said in pseudonyms]

    def history(self, raw: str) -> tuple[str, ...]:
        """All pseudonyms that this user ever had, the one in force first."""
        names = self.roots((raw,))
        for link in self._up:
            names.append(link(names[-1]))
        return tuple(reversed(names))

    def lift(self, pseudonym: str) -> str:
        """The pseudonym in force of the user who once had this one; what is no pseudonym of ours stays as it is."""
        return self.lift_all((pseudonym,))[0]

    def lift_all(self, pseudonyms: Sequence[str]) -> list[str]:
        """As `lift`, in order. A list without older ones costs a look at each."""
        if all(said.startswith(self.prefix) for said in pseudonyms):
            return list(pseudonyms)
        return [said if said.startswith(self.prefix) else self._lifted(said) for said in pseudonyms]

    def event_id(
        self,
        *,
        user_root: str,
        item_id: str | None,
        behaviour: str,
        event_time_us: int,
        value: float | None,
        query: str | None = None,
    ) -> str:
        """The id of an event whose source gives none: equal rows are one event."""
        columns = ((user_root,), (item_id,), (behaviour,), (event_time_us,), (value,), (query,))
        return next(self._event_ids(*columns))

    def event_ids(
        self,
        *,
        user_roots: Sequence[str],
        item_ids: Sequence[str | None],
        behaviours: Sequence[str],
        event_times_us: Sequence[int],
        values: Sequence[float | None],
        queries: Sequence[str | None] | None = None,
    ) -> list[str]:
        """As `event_id`, for columns of equal length."""
        asked = [None] * len(user_roots) if queries is None else queries
        return list(self._event_ids(user_roots, item_ids, behaviours, event_times_us, values, asked))

    @cached_property
    def _up(self) -> tuple[_Link, ...]:
        """From version 1 to 2, from 2 to 3, …"""
        return tuple(_up(key, to=version) for version, key in enumerate(self.pseudonym[1:], start=2))

    @cached_property
    def _down(self) -> tuple[_Link, ...]:
        """From version 2 to 1, from 3 to 2, …"""
        return tuple(_down(key, to=version) for version, key in enumerate(self.pseudonym[1:], start=1))

    def _lifted(self, said: str) -> str:
        for link in self._up[_version(said) - 1 :] if _version(said) else ():
            said = link(said)
        return said

    def _rooted(self, said: str) -> str:
        if _version(said) <= self.version:
            for link in reversed(self._down[: max(_version(said) - 1, 0)]):
                said = link(said)
        return said

    def _event_ids(
        self,
        roots: Sequence[str],
        items: Sequence[str | None],
        behaviours: Sequence[str],
        times: Sequence[int],
        values: Sequence[float | None],
        queries: Sequence[str | None],
    ) -> Iterator[str]:
        mac = _mac(self.event)
        for root, item, behaviour, time, value, query in zip(
            roots, items, behaviours, times, values, queries, strict=True
        ):
            said = f"{root}\x1f{item or ''}\x1f{behaviour}\x1f{time}\x1f{'' if value is None else repr(float(value))}"
            # Without a query the text is the one of homes that knew no searches: their events keep their ids.
            whole = said if query is None else f"{said}\x1f{query}"
            yield "e_" + mac(whole.encode("utf-8", "surrogatepass")).hex()[:32]


def key_file(folder: Path, version: int) -> Path:
    return folder / f"pseudonym-{version}.key"


def newest_version(folder: Path) -> int:
    """Of the pseudonym keys in `folder`; 0 without any."""
    found = [_FILE.fullmatch(path.name) for path in folder.glob("pseudonym-*.key")]
    return max((int(match[1]) for match in found if match), default=0)


def draw_key(folder: Path, version: int) -> None:
    """Put a new pseudonym key in force; one that is there stays. Visible whole or not at all."""
    _write(key_file(folder, version), secrets.token_bytes(KEY_BYTES))


def _version(said: str) -> int:
    """Of a pseudonym; 0 for what is none."""
    match = _PSEUDONYM.fullmatch(said)
    return int(match[1]) if match else 0


def _up(key: bytes, *, to: int) -> _Link:
    mac = _mac(key)

    def link(said: str) -> str:
        left, right = bytes.fromhex(said[-32:-16]), bytes.fromhex(said[-16:])
        for number in _ROUNDS:
            left, right = right, _xor(left, mac(number + right))
        return f"p{to}_{left.hex()}{right.hex()}"

    return link


def _down(key: bytes, *, to: int) -> _Link:
    mac = _mac(key)

    def link(said: str) -> str:
        left, right = bytes.fromhex(said[-32:-16]), bytes.fromhex(said[-16:])
        for number in reversed(_ROUNDS):
            left, right = _xor(right, mac(number + left)), left
        return f"p{to}_{left.hex()}{right.hex()}"

    return link


def _xor(half: bytes, digest: bytes) -> bytes:
    return (int.from_bytes(half, "big") ^ int.from_bytes(digest[:8], "big")).to_bytes(8, "big")


def _mac(key: bytes) -> _Mac:
    """HMAC-SHA-256 with the key's two blocks hashed once: less than half the time of `hmac.new` a text."""
    block = (hashlib.sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
    outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def mac(text: bytes) -> bytes:
        first, second = inner.copy(), outer.copy()
        first.update(text)
        second.update(first.digest())
        return second.digest()

    return mac


def _key(path: Path) -> bytes:
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        _write(path, secrets.token_bytes(KEY_BYTES))
        key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise DependencyFailed(f"{path}: {len(key)} bytes, a key has {KEY_BYTES}; restore it from a backup")
    return key


def _write(path: Path, key: bytes) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.part")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key)
        file.flush()
        os.fsync(file.fileno())  # a lost key cannot be drawn again
    try:
        os.link(temporary, path)  # fails where another process was first: its key stays
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
