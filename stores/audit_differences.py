"""A table against what the audit says of it."""

from collections.abc import Mapping
from typing import Any


def differing(held: Mapping[str, Any], said: Mapping[str, Any]) -> list[str]:
    """A sentence for each name under which the two differ."""
    return [
        f"{name}: the ledger holds {held.get(name)}, the audit says {said.get(name)}"
        for name in sorted(held.keys() | said.keys())
        if held.get(name) != said.get(name)
    ]
