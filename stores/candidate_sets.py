"""The hash by which an exposure names the set of items that it was chosen from. Standard library: serving reads it."""

import hashlib
from collections.abc import Iterable
from struct import pack


def set_hash(chosen_from: str, candidates: bytes) -> str:
    """16 hex digits. `chosen_from`: what the candidates are numbers or names of, a bundle's digest say."""
    return hashlib.blake2b(candidates, digest_size=8, key=chosen_from.encode()).hexdigest()


def rows_as_bytes(rows: Iterable[int]) -> bytes:
    """A set of a network's rows, whatever the order of `rows`."""
    ordered = sorted(rows)
    return pack(f"<{len(ordered)}q", *ordered)
