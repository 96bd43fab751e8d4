"""Lanes: a stage of work in a thread of its own, at most a few items ahead of the next stage."""

from collections.abc import Iterable, Iterator
from queue import Full, Queue
from threading import Event, Thread
from typing import Generic, TypeVar

T = TypeVar("T")
_PATIENCE_SECONDS = 0.05


class _End(Generic[T]):
    """What ends a lane: nothing more, or an error that the consumer meets in its place."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def ahead(items: Iterable[T], *, by: int = 1) -> Iterator[T]:
    """The items in order, made by a thread that is at most `by` ahead. Its error is raised where it would have been.

    A consumer that stops early stops the thread after the item that it is at.
    """
    made: Queue[T | _End[T]] = Queue(maxsize=by)
    stopped = Event()

    def put(item: "T | _End[T]") -> bool:
        while not stopped.is_set():
            try:
                made.put(item, timeout=_PATIENCE_SECONDS)
            except Full:
                continue
            return True
        return False

    def run() -> None:
        try:
            for item in items:
                if not put(item):
                    return
        except BaseException as error:  # handed over, not swallowed
            put(_End(error))
        else:
            put(_End(None))

    thread = Thread(target=run, name="ratchet-lane", daemon=True)
    thread.start()
    try:
        while True:
            item = made.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        stopped.set()
        thread.join()
