"""The catalogue and the blocklist of a home, as their files change under a running server."""

import threading
from dataclasses import replace
from pathlib import Path

from relations.errors import RatchetError
from serving.choosing.shelves import Offer
from stores import blocklist, catalogue
from stores.stamps import Stamp, stamp_of


class OfferWatch:
    """Safe to look through from several threads: a block must not wait for whoever else looks."""

    def __init__(self, *, catalogue_file: Path, blocklist_file: Path) -> None:
        self._catalogue_file = catalogue_file
        self._blocklist_file = blocklist_file
        self._catalogue_stamp: Stamp | None = None
        self._blocklist_stamp: Stamp | None = None
        self._sure = False
        self._offer = Offer()
        self._looking = threading.Lock()

    @property
    def blocked(self) -> frozenset[str]:
        """As last read, by whoever looked."""
        return self._offer.blocked

    def look(self, problems: list[str]) -> Offer:
        """What holds now: the same object while nothing changed. A damaged file leaves what held before it.

        Raises RatchetError where the very first look finds a damaged blocklist: what it forbids is unknown, and a
        server that guessed could show it.
        """
        with self._looking:
            self._follow_catalogue(problems)
            self._obey(problems)
            return self._offer

    def obey(self) -> None:
        """Look at the blocklist alone. What is wrong with it is for `look` to report."""
        with self._looking:
            self._obey([])

    def _obey(self, problems: list[str]) -> None:
        try:
            self._follow_blocklist()
            self._sure = True
        except RatchetError as error:
            if not self._sure:
                raise
            problems.append(f"blocklist: {error}; the former one holds")

    def _follow_catalogue(self, problems: list[str]) -> None:
        try:
            stamp = stamp_of(self._catalogue_file)
            if stamp != self._catalogue_stamp:
                self._offer = replace(self._offer, catalogue=catalogue.read(self._catalogue_file))
                self._catalogue_stamp = stamp
        except FileNotFoundError:
            pass  # none yet; one that was read goes on holding
        except (RatchetError, OSError) as error:
            problems.append(f"catalogue: {error}")

    def _follow_blocklist(self) -> None:
        try:
            stamp = stamp_of(self._blocklist_file)
        except FileNotFoundError as error:
            if self._blocklist_stamp is None:
                return
            raise RatchetError(
                f"{self._blocklist_file}: is gone; `ratchet blocklist add` makes a new one, which then holds"
            ) from error
        except OSError as error:
            raise RatchetError(f"{self._blocklist_file}: {error.strerror}; check its permissions") from error
        if stamp != self._blocklist_stamp:
            blocked = frozenset(blocklist.read(self._blocklist_file).items)
            self._blocklist_stamp = stamp
            if blocked != self._offer.blocked:
                self._offer = replace(self._offer, blocked=blocked)
