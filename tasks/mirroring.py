"""MLflow kept equal to the ledger while nobody looks: the ledger's clockwork, and the mirror, every few seconds."""

import logging
import threading
from collections.abc import Callable

from relations.errors import RatchetError
from stores.clock import home_now
from stores.home import Home
from stores.ledger import Ledger
from stores.mirror import reconcile
from stores.registry import Registry
from stores.settings import Settings

LONGEST_SECONDS = 60.0
"""Between two tries while MLflow or the ledger does not answer."""
LEAVE_SECONDS = 5.0
_LOG = logging.getLogger(__name__)


class MirrorLoop:
    """A thread from `start` to `stop`: what has waited too long ends, and what MLflow shows wrongly is repaired.

    A failure is logged once, tried again ever more seldom, and its end logged too. Any number of processes may run one
    on a home: they take turns. MLflow is imported in the thread, not before.
    """

    def __init__(self, home: Home, settings: Settings, seconds: float) -> None:
        self._home = home
        self._settings = settings
        self._seconds = seconds
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._complained: dict[str, str] = {}

    def start(self) -> None:
        self._over.clear()
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Returns within seconds; a look that hangs on a dead MLflow is left to end by itself."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(LEAVE_SECONDS)
            self._thread = None

    @property
    def complaints(self) -> dict[str, str]:
        """What fails at present, by the work that does."""
        return dict(self._complained)

    def _run(self) -> None:
        ledger, registry = Ledger.of(self._home, self._settings), Registry(self._home, self._settings)
        wait = self._seconds
        while True:
            held = self._holds("expiry", lambda: ledger.expire(home_now(self._home, self._settings)))
            held &= self._holds("mirror", lambda: reconcile(ledger, registry))
            wait = self._seconds if held else min(2 * wait, max(LONGEST_SECONDS, self._seconds))
            if self._over.wait(wait):
                return

    def _holds(self, name: str, work: Callable[[], object]) -> bool:
        try:
            work()
        except (
            Exception
        ) as error:  # whatever it is, the next look may succeed; without this the loop would end for good
            if not self._complained.get(name):
                is_ours = isinstance(error, RatchetError)
                _LOG.warning("ratchet.mirror.failed %s: %s", name, error, exc_info=None if is_ours else error)
            self._complained[name] = str(error) or type(error).__name__
            return False
        if self._complained.pop(name, ""):
            _LOG.warning("ratchet.mirror.recovered %s", name)
        return True
