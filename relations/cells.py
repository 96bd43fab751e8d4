"""Small cells: a figure about a handful of users says something of each of them. Plain Python."""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def suppressed(value: T, *, users: int, k: int) -> T | str:
    """`value` of a group of `users`, or "< k" where they are fewer than k; of nobody there is nothing to hide."""
    return f"< {k}" if 0 < users < k else value


def shown(users: Mapping[str, int], *, k: int) -> set[str]:
    """Groups (name → users) whose figures may stand in a report, where they make up a whole that is shown too.

    A single hidden group would be the whole less the others, so the smallest other group is hidden with it.
    """
    hidden = {name for name, count in users.items() if 0 < count < k}
    others = sorted(
        (name for name in users if name not in hidden and users[name]), key=lambda name: (users[name], name)
    )
    return users.keys() - hidden - set(others[:1] if len(hidden) == 1 else ())
