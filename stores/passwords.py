"""Passwords as Argon2id hashes in PHC form, with the one rule for choosing them.

Parameters are RFC 9106's second recommended option (section 4: t = 3, m = 64 MiB, p = 4, 128-bit salt, 256-bit tag),
which is argon2-cffi's default too. The first option wants 2 GiB a sign-in, and a console shares its machine with
serving. A hash with other parameters is made anew at its person's next sign-in.
"""

import base64
import threading
import unicodedata
from functools import cache
from typing import TYPE_CHECKING

from relations.errors import DependencyFailed, UsageError
from stores.people import same_person

if TYPE_CHECKING:
    from argon2 import PasswordHasher

LEAST, MOST = 12, 1_000
"""Characters. Length is what counts (NIST SP 800-63B); the upper bound is for who sends megabytes."""
_TURNS = threading.BoundedSemaphore(2)
"""Hashes made at once in one process, 64 MiB each: a crowd of sign-ins waits instead of filling the memory."""


def check_password(password: str, *, name: str) -> None:
    """Raises UsageError for a password that is too short, too long, or the person's name."""
    if not LEAST <= len(password) <= MOST:
        raise UsageError(f"password of {name}: {len(password)} characters; it has {LEAST} to {MOST}")
    if same_person(password, name):
        raise UsageError(f"password of {name}: is the name; choose one that nobody can guess")


def hash_password(password: str) -> str:
    """Takes 0.2 s of a small machine's core, and 64 MiB."""
    hasher = _hasher()
    with _TURNS:
        return hasher.hash(_bytes(password))


def matches(kept: str, password: str) -> bool:
    """Whether `password` is the one behind `kept`. Where `kept` is empty or illegible, False after the same work."""
    from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

    hasher = _hasher()
    try:
        with _TURNS:
            return hasher.verify(kept or _nobodys(), _bytes(password[:MOST]))
    except VerifyMismatchError:
        return False
    except (InvalidHashError, VerificationError) as error:
        if "emory" in str(error):  # argon2 has one exception for both
            raise DependencyFailed(f"passwords cannot be checked now: {error}; free some memory") from error
        return matches("", password)  # somebody's hand in the table: `ledger verify` names it


def is_outdated(kept: str) -> bool:
    """Whether `kept` was made with other parameters than the present ones."""
    return _hasher().check_needs_rehash(kept)


@cache
def _hasher() -> "PasswordHasher":
    try:
        from argon2 import PasswordHasher
        from argon2.profiles import RFC_9106_LOW_MEMORY
    except ImportError as error:
        raise DependencyFailed(f"passwords need argon2-cffi ({error}); install it, or use tokens") from error
    return PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)


@cache
def _nobodys() -> str:
    """What an unknown person's password is checked against: it costs what any costs, and no password fits."""
    hasher = _hasher()
    salt, tag = (base64.b64encode(bytes(n)).rstrip(b"=").decode() for n in (hasher.salt_len, hasher.hash_len))
    costs = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
    return f"$argon2id$v=19${costs}${salt}${tag}"


def _bytes(password: str) -> bytes:
    # NFC, as RFC 8265 says: what is typed alike on two keyboards is one password.
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
