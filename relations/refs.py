"""References: what travels between tasks instead of frames and models."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TableRef:
    """One version of one Delta table. `version` is -1 while the table does not exist."""

    uri: str
    version: int


@dataclass(frozen=True)
class ModelRef:
    """A registered model version and the digest of its release bundle (64 hex digits)."""

    name: str
    version: int
    digest: str
