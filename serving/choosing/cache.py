"""What networks chose lately, for requests that ask the same again within seconds.

Kept are the candidates, never an answer: each answer has a request id, draws, exposures and tokens of its own. The key
holds all that candidates follow from, the moment of the request aside: who answers (digest), what was offered, the
history that was read, what was told and asked for. So a user's new event, here or at another replica, a swap, a change
of the catalogue, the blocklist or the user's preferences each miss by themselves. What the moment changes (events get
older) is bounded by `seconds`, on the request's clock.
"""

import hashlib
import json
from array import array
from collections import OrderedDict
from collections.abc import Collection, Hashable
from typing import Generic, TypeVar

from serving.networks.attributes import Told
from serving.networks.histories import History

T = TypeVar("T")


class CandidateCache(Generic[T]):
    """Newest `entries` of what was put in. Not for several threads at once."""

    def __init__(self, *, seconds: float, entries: int) -> None:
        """`seconds` 0: keeps nothing."""
        self._microseconds = seconds * 1e6
        self._most = entries
        self._held: OrderedDict[tuple[str, Hashable], tuple[int, T]] = OrderedDict()  # (digest, key) → (made, value)

    def __len__(self) -> int:
        return len(self._held)

    @property
    def on(self) -> bool:
        return self._microseconds > 0

    def get(self, digest: str, key: Hashable, *, now_us: int) -> T | None:
        """What was chosen at most `seconds` before `now_us`, and not after it."""
        found = self._held.get((digest, key))
        if found is None or not 0 <= now_us - found[0] <= self._microseconds:
            return None
        return found[1]

    def put(self, digest: str, key: Hashable, value: T, *, now_us: int) -> None:
        self._held.pop((digest, key), None)
        self._held[digest, key] = (now_us, value)
        if len(self._held) > self._most:
            self._held.popitem(last=False)

    def keep(self, digests: Collection[str]) -> None:
        """Drop what others than these chose: after a swap nothing asks for it."""
        for place in [place for place in self._held if place[0] not in digests]:
            del self._held[place]


def history_key(history: History) -> bytes:
    """A digest of what was read of a user, in order: equal only for equal histories. 0.1 µs an event.

    Lengths stand beside the joined texts, so that no id can run into the next.
    """
    texts = (*history.items_L, *history.behaviours_L)
    if not texts:
        return b""
    said = hashlib.blake2b(array("q", history.times_L).tobytes(), digest_size=16)
    said.update(array("I", map(len, texts)).tobytes())
    said.update("".join(texts).encode("utf-8", "surrogatepass"))
    if any(history.contexts_L):
        said.update(json.dumps([dict(context) for context in history.contexts_L], sort_keys=True).encode())
    return said.digest()


def told_key(told: Told) -> str:
    """What was told of a user, as text: equal only for equal attributes."""
    return json.dumps(dict(told), sort_keys=True) if told else ""
