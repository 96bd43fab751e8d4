"""How long work tells a person where it stands, without knowing who listens.

One listener a process: a command that has a terminal sets it; without one, reports go nowhere.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Listener = Callable[[str, int, int, str], None]
"""Called with the name of the work, what is done, the total, and how fast it goes in words, or nothing."""

_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def report(work: str, done: int, total: int, pace: str = "") -> None:
    for listener in _listeners:
        listener(work, done, total, pace)
