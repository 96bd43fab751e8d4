"""What the console sees to in the background, so that somebody does where nothing is scheduled.

What has waited too long ends, kills that the ledger missed are told to it, people are told of news, and MLflow is made
to show what the ledger says. What fails here is an alarm on the queue; it stops nothing.
"""

import logging
import threading
from collections.abc import Callable

from relations.errors import RatchetError
from serving.console.place import Place
from tasks.killing import settle_kills
from tasks.mirroring import MirrorLoop
from tasks.notifying import notify_new, undelivered

VERIFIED_SECONDS = 900.0
"""How often the whole chain is read."""
_LOG = logging.getLogger(__name__)


class Chores:
    """A thread from `start` to `stop`, a round every `[console] mirror_seconds`, and the mirror's own beside it."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._mirror = MirrorLoop(place.home, place.settings, place.settings.console.mirror_seconds)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="console-chores", daemon=True)
        self._rounds = 0

    def start(self) -> None:
        self._thread.start()
        self._mirror.start()

    def stop(self, *, seconds: float = 5.0) -> None:
        """Ends after the round that is under way, or after `seconds`: the process may go then, as by kill -9."""
        self._over.set()
        self._mirror.stop()
        self._thread.join(seconds)

    def round(self) -> None:
        """Each chore once, and the chain where its time has come."""
        chores: list[tuple[str, Callable[[], str]]] = [
            ("kill switch", self._settle),
            ("MLflow and expiry", self._complaints),
            ("messages", self._notify),
        ]
        every = max(round(VERIFIED_SECONDS / self._place.settings.console.mirror_seconds), 1)
        if self._rounds % every == 0:
            chores.append(("ledger", self._verify))
        self._rounds += 1
        for source, chore in chores:
            self._place.alarms.tell(source, _outcome(chore), now=self._place.wall())

    def _run(self) -> None:
        while not self._over.is_set():
            self.round()
            self._over.wait(self._place.settings.console.mirror_seconds)

    def _settle(self) -> str:
        settle_kills(self._place.home, self._place.ledger, now=self._place.now())
        return ""

    def _complaints(self) -> str:
        return "; ".join(f"{work}: {text}" for work, text in sorted(self._mirror.complaints.items()))

    def _notify(self) -> str:
        notify_new(self._place.home, self._place.settings)
        lost = undelivered(self._place.home, self._place.settings)
        return f"{len(lost)} message(s) did not reach everybody; the newest: {lost[-1]}" if lost else ""

    def _verify(self) -> str:
        found = self._place.ledger.verify()
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        return f"{found[0]}{more}; see `ratchet ledger verify`" if found else ""


def _outcome(chore: Callable[[], str]) -> str:
    """What is wrong; empty where nothing is."""
    try:
        return chore()
    except RatchetError as error:
        _LOG.warning("%s", ascii(str(error)))
        return str(error)
    except Exception:
        _LOG.exception("a defect in the background; the console goes on")
        return "a defect in Ratchet; the console's log has the trace"
