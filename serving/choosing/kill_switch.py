"""The kill switch as serving sees it: a file of the home, looked at by stat, beside the ledger and without it."""

import logging
from pathlib import Path

from relations.errors import RatchetError
from stores import kill_switch
from stores.stamps import Stamp, stamp_of

_LOG = logging.getLogger(__name__)


class KillSwitch:
    """`look` belongs to one thread at a time; `stops` may be asked by any.

    A file that cannot be read stops every challenger until it is mended or deleted: whoever wrote it meant to stop one.
    A file that vanishes revives no trial that was known as killed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: Stamp | None = None
        self._killed: frozenset[str] = frozenset()
        self.problem = ""
        """Why every challenger is stopped; empty while the file can be read."""

    def look(self) -> None:
        """Read the file where it has changed. Some microseconds where it has not."""
        try:
            stamp = stamp_of(self._path)
        except OSError:
            self.problem, self._stamp = "", None
            return
        if stamp == self._stamp:
            return
        try:
            killed = frozenset(kill.trial for kill in kill_switch.read(self._path))
        except RatchetError as error:
            self.problem = str(error)
            _LOG.error("%s", error)
        else:
            if new := sorted(killed - self._killed):
                _LOG.warning("killed, shown to nobody from now on: %s", ", ".join(new))
            self._killed, self.problem = killed, ""
        self._stamp = stamp

    def stops(self, trial: str) -> bool:
        return bool(self.problem) or trial in self._killed
