"""The ledger's side of a trial's way: how far a challenger is let, the kill switch, and the watch over a promotion."""

from datetime import datetime

from sqlalchemy import Connection

from gate.states import TrialMode
from stores.approval import check_named
from stores.ledger_database import Database
from stores.ledger_records import GATE, StageRecord, TrialRecord
from stores.people import Role, check_may
from stores.promotion import bake, believe
from stores.stages import enter_kill, enter_stage
from stores.trial_rows import read_trial


class StageLedger:
    """Each method is one transaction, as in `Ledger`, which this is a part of."""

    _database: Database
    _enforce_roles: bool

    def set_stage(
        self, trial_id: str, mode: TrialMode, *, actor: str, reason: str, now: datetime, allocation: float | None = None
    ) -> StageRecord:
        """Go on to a later stage of a running trial, or let more users in; where it stands already changes nothing.

        `allocation`: the share of users who may see the challenger. The canary (at most .05, and half of the
        comparison's) and interleaving need it, the shadow shows nobody, the comparison has its frozen one. Refuses an
        earlier stage, a smaller share, and a trial that is over, waits for approval or was killed.
        """
        check_named(actor, reason, what=f"trial {trial_id}")
        with self._database.write() as tx:
            if actor != GATE:
                check_may(tx, actor, what=f"stage of trial {trial_id}", enforce=self._enforce_roles)
            trial = read_trial(tx, trial_id)
            return enter_stage(tx, trial, mode, allocation=allocation, actor=actor, reason=reason, now=now)

    def kill_trial(self, trial_id: str, *, actor: str, reason: str, now: datetime, missed: bool = False) -> StageRecord:
        """From the commit on nobody sees the challenger, ever; twice is once. The trial stays open, to be stopped.

        `missed`: serving was told by the kill switch already, so it is recorded whoever may have done it.
        A trial that waits for approval cannot be approved any more. Refuses one that is over.
        """
        check_named(actor, reason, what=f"trial {trial_id}")
        with self._database.write() as tx:
            if not missed:
                check_may(tx, actor, what=f"kill trial {trial_id}", enforce=self._enforce_roles)
            return enter_kill(tx, read_trial(tx, trial_id), actor=actor, reason=reason, now=now)

    def begin_bake(self, trial_id: str, *, now: datetime, actor: str = GATE) -> TrialRecord:
        """PROMOTING → BAKING: serving was seen to serve the promoted bundle. Twice is once, and keeps the first time.

        Refuses a trial that does not wait for this, and one whose champion has changed.
        """
        with self._database.write() as tx:
            self._check_word(tx, actor, what=f"begin the bake of trial {trial_id}")
            return bake(tx, trial_id, actor=actor, now=now)

    def end_bake(self, trial_id: str, *, now: datetime, actor: str = GATE) -> TrialRecord:
        """BAKING → PROMOTED: nothing was wrong for all of `bake_hours`. Twice is once.

        Refuses a trial that does not bake, and the end before its time; an alarm ends it by `rollback`.
        """
        with self._database.write() as tx:
            self._check_word(tx, actor, what=f"end the bake of trial {trial_id}")
            return believe(tx, trial_id, actor=actor, now=now)

    def _check_word(self, tx: Connection, actor: str, *, what: str) -> None:
        """A person's word, where the gate cannot tell, is an approver's."""
        if actor != GATE:
            check_may(tx, actor, Role.APPROVER, what=what, enforce=self._enforce_roles)
