"""What is wrong, as the background has found it: shown on the queue until it is right again."""

import threading
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Alarm:
    """`since`: when it was first found, by the wall's clock. `text` says what and what to do."""

    source: str
    text: str
    since: datetime


class Alarms:
    """One a source. Written by the background's threads, read by pages."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[str, Alarm] = {}

    def tell(self, source: str, text: str, *, now: datetime) -> None:
        """`text` empty: it is right again."""
        with self._lock:
            if not text:
                self._found.pop(source, None)
                return
            known = self._found.get(source)
            self._found[source] = Alarm(source, text, known.since if known else now)

    def all(self) -> tuple[Alarm, ...]:
        """Oldest first."""
        with self._lock:
            return tuple(sorted(self._found.values(), key=lambda alarm: alarm.since))
