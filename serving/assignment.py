"""Who gets the challenger: a salted hash, the same in every process, with no memory.

    bucket = int(first 8 hex digits of SHA-256("salt:layer:unit"), 16) mod 10,000
    challenger ⇔ bucket < 10,000 · allocation

One salt a trial, so that trials are independent of each other. A larger allocation only adds users to the challenger.
"""

import hashlib
from dataclasses import dataclass

BUCKETS = 10_000
LAYER = "ranker"
"""Experiments on other layers (pages, prices) hash independently of ours even under an equal salt."""


@dataclass(frozen=True)
class Assignment:
    """A user's arm, fixed before anything is tried; what really served may differ, and the analysis stays with this."""

    variant: str
    """champion, challenger, or popularity while there is no champion."""
    reason: str
    trial: str | None
    allocation: float


NO_CHAMPION = Assignment(variant="popularity", reason="no champion", trial=None, allocation=0.0)
NO_TRIAL = Assignment(variant="champion", reason="no trial", trial=None, allocation=0.0)


def bucket(unit: str, *, salt: str, layer: str = LAYER) -> int:
    """0 … 9,999, uniform over units."""
    digest = hashlib.sha256(f"{salt}:{layer}:{unit}".encode("utf-8", "surrogatepass")).hexdigest()
    return int(digest[:8], 16) % BUCKETS


def assign(unit: str, *, trial: str, salt: str, allocation: float) -> Assignment:
    """The arm of `unit` (a pseudonym) in a trial whose challenger gets the share `allocation` of users."""
    treated = bucket(unit, salt=salt) < round(BUCKETS * allocation)
    return Assignment("challenger" if treated else "champion", "trial", trial, allocation)
