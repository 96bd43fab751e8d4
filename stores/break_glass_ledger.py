"""The ledger's side of breaking the glass."""

from datetime import datetime

from relations.errors import GateRefused
from stores.approval import check_named
from stores.break_glass import ask, check_epoch, confirm
from stores.break_glass_records import BreakGlassRecord
from stores.break_glass_rows import end_glass, read_glass, read_glasses
from stores.champion import read_champion
from stores.ledger_database import Database
from stores.ledger_records import GATE, SURFACE, Champion
from stores.people import Role, check_may
from stores.promotion import roll_back


class BreakGlassLedger:
    """Each method is one transaction, as in `Ledger`, which this is a part of."""

    _database: Database
    _enforce_roles: bool

    def break_glasses(self, surface: str = SURFACE) -> tuple[BreakGlassRecord, ...]:
        """All of them, oldest first."""
        with self._database.read() as tx:
            return read_glasses(tx, surface)

    def break_glass(self, number: int) -> BreakGlassRecord:
        with self._database.read() as tx:
            return read_glass(tx, number)

    def ask_break_glass(
        self,
        version: int,
        *,
        hours: float,
        actor: str,
        reason: str,
        now: datetime,
        expected_epoch: int | None = None,
        surface: str = SURFACE,
    ) -> BreakGlassRecord:
        """Ask that `version` be put in charge without a trial, for `hours`; another person confirms within the hour.

        Refuses the submitter of its training, the champion itself, and while a promotion is watched, another request
        waits, or a break-glass is in force. `expected_epoch`: of the champion that the person saw; refuses another.
        """
        check_named(actor, reason, what="break-glass")
        enforce = self._enforce_roles
        with self._database.write() as tx:
            return ask(
                tx,
                version,
                surface=surface,
                hours=hours,
                expected_epoch=expected_epoch,
                actor=actor,
                reason=reason,
                now=now,
                enforce=enforce,
            )

    def confirm_break_glass(self, number: int, *, actor: str, reason: str, now: datetime) -> Champion:
        """The second person's yes: the version is champion. Open trials of the surface end as STALE.

        Refuses who asked, the submitter of its training, a request that was not confirmed in time, and one whose
        champion has changed; the last two are recorded as ended.
        """
        check_named(actor, reason, what="break-glass")
        with self._database.write() as tx:
            reached = confirm(tx, number, actor=actor, reason=reason, now=now, enforce=self._enforce_roles)
        if isinstance(reached, Champion):
            return reached
        # Raised after the commit: that the request ended here is part of the record.
        raise GateRefused(f"break-glass {number}: {reached[1]}; ask anew")

    def end_break_glass(
        self, number: int, *, actor: str, reason: str, now: datetime, expected_epoch: int | None = None
    ) -> Champion | None:
        """Withdraw a request, or end a reign before its time: the former champion comes back, and is returned.

        Ended already: nothing changes. `expected_epoch`: of the champion that the person saw; refuses another, so that
        whoever withdraws a request does not end the reign that it has become.
        """
        check_named(actor, reason, what="break-glass")
        with self._database.write() as tx:
            record = read_glass(tx, number)
            if record.ended is not None:
                return None
            if actor != GATE:
                check_may(tx, actor, Role.APPROVER, what=f"end break-glass {number}", enforce=self._enforce_roles)
            check_epoch(read_champion(tx, record.surface), expected_epoch, what=f"end {record.name}")
            if record.in_force:
                at = record.epoch
                return roll_back(tx, record.surface, expected_epoch=at, actor=actor, reason=reason, now=now)
            end_glass(tx, record, actor=actor, reason=reason, now=now)
            return None
