"""The ledger: who is champion, which trial is open, and why. The only authority on both.

SQLite in the home by default, any SQLAlchemy URL by `[ledger] url`. Every change is one transaction together with a
hash-chained audit entry, and the champion moves only by compare-and-swap on its epoch. Ages are taken from the `now`
that callers pass: the home's clock. Refusals raise GateRefused, a database that fails DependencyFailed.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, update

from relations.errors import GateRefused, UsageError
from stores.approval import Limits, check_approval, check_named, outdated_by, overdue
from stores.audit import append_audit, find_problems, read_audit
from stores.champion import former_reign, move_champion, present_reign, read_champion, read_reigns
from stores.home import Home
from stores.ledger_records import (
    GATE,
    OPEN_STATES,
    SURFACE,
    AuditEntry,
    Champion,
    Reign,
    ServingState,
    ServingTrial,
    TrialRecord,
    TrialState,
    VersionRecord,
    stamp,
)
from stores.ledger_tables import Database, trials
from stores.lineage import enter_version, read_candidate, read_version, read_versions
from stores.settings import LedgerSettings, Settings
from stores.standing import end_with_champion, serving_delta
from stores.standing_ledger import StandingLedger
from stores.trial_steps import add_evidence, admit, close_trial, open_trials, read_trial, read_trials


class Ledger(StandingLedger):
    """Threads and processes may each hold one on the same database."""

    def __init__(self, url: str, *, settings: LedgerSettings | None = None) -> None:
        self._database = Database(url)
        stated = settings or LedgerSettings()
        self._limits = Limits(timedelta(hours=stated.approval_hours), timedelta(hours=stated.evidence_hours))

    @staticmethod
    def of(home: Home, settings: Settings) -> "Ledger":
        return Ledger(settings.ledger.url or home.ledger_url, settings=settings.ledger)

    # What is

    def serving_state(self, surface: str = SURFACE) -> ServingState:
        """Champion, its newest delta and open trial of one moment. A trial against another epoch's is not served.

        While a trial is open no delta serves: what the challenger is compared with must stay the same. The delta's
        expiry is for the caller to compare with the home's clock, at every look.
        """
        with self._database.read() as tx:
            champion = read_champion(tx, surface)
            delta = serving_delta(tx, surface)
            row = tx.execute(
                select(trials).where(trials.c.surface == surface, trials.c.state.in_(OPEN_STATES))
            ).one_or_none()
        if row is None or champion is None or row.champion_epoch != champion.epoch:
            return ServingState(champion, None, delta)
        trial = ServingTrial(
            id=row.id,
            challenger_version=row.challenger,
            challenger_digest=row.challenger_digest,
            champion_epoch=row.champion_epoch,
            salt=row.salt,
            allocation=row.allocation,
        )
        return ServingState(champion, trial)

    def champion(self, surface: str = SURFACE) -> Champion | None:
        with self._database.read() as tx:
            return read_champion(tx, surface)

    def history(self, surface: str = SURFACE) -> tuple[Reign, ...]:
        """Every epoch, oldest first."""
        with self._database.read() as tx:
            return read_reigns(tx, surface)

    def former(self, surface: str = SURFACE) -> Reign | None:
        """The reign that a rollback would go back to."""
        return former_reign(self.history(surface))

    def versions(self) -> tuple[VersionRecord, ...]:
        """By version number."""
        with self._database.read() as tx:
            return read_versions(tx)

    def version(self, number: int) -> VersionRecord:
        with self._database.read() as tx:
            return read_version(tx, number)

    def candidate(self, surface: str = SURFACE) -> VersionRecord | None:
        """The newest version that passed the offline check and descends from the champion; None without one."""
        with self._database.read() as tx:
            return read_candidate(tx, surface)

    def trial(self, trial_id: str) -> TrialRecord:
        with self._database.read() as tx:
            return read_trial(tx, trial_id)

    def trials(self) -> tuple[TrialRecord, ...]:
        """In the order of their opening."""
        with self._database.read() as tx:
            return read_trials(tx)

    def audit(self) -> tuple[AuditEntry, ...]:
        with self._database.read() as tx:
            return read_audit(tx)

    def verify(self) -> list[str]:
        """Problems found when every hash is recomputed and the audit replayed against the tables."""
        with self._database.read() as tx:
            return find_problems(tx)

    # What happens

    def record_version(self, record: VersionRecord) -> int:
        """Enter a registered version; the same digest again keeps the first entry. Returns its number."""
        with self._database.write() as tx:
            return enter_version(tx, record)

    def bootstrap(self, version: int, *, actor: str, reason: str, now: datetime, surface: str = SURFACE) -> Champion:
        """The first champion, by a named person's approval. Possible only while there is none."""
        check_named(actor, reason, what="bootstrap")
        with self._database.write() as tx:
            record, present = read_version(tx, version), read_champion(tx, surface)
            if present is not None and (present.epoch, present.digest) == (1, record.digest):
                return present
            reached = move_champion(
                tx,
                surface=surface,
                expected=None,
                version=version,
                digest=record.digest,
                how="bootstrap",
                subject=f"version {version}",
                actor=actor,
                reason=reason,
                now=now,
            )
            if reached is None:
                raise GateRefused(
                    f"version {version}: {surface!r} has a champion, version {present.version if present else '?'}; "
                    "a new one needs a trial"
                )
        return reached

    def open_trial(
        self,
        trial_id: str,
        config: Mapping[str, Any],
        *,
        challenger: int,
        salt: str,
        allocation: float,
        actor: str,
        now: datetime,
        surface: str = SURFACE,
        allow_offline_worse: bool = False,
        simulation: bool = False,
    ) -> str:
        """Freeze `config` and let the challenger meet the champion; returns the configuration's hash.

        A trial that still waits for approval is replaced by a newer challenger's, a running one never. Refuses the
        champion itself, a bundle rejected before, and one that failed the offline check unless this is a simulation.
        """
        check_named(actor, "-", what=f"trial {trial_id}")
        if allow_offline_worse and not simulation:
            raise GateRefused(f"trial {trial_id}: --allow-offline-worse is for simulation homes only")
        if not 0 < allocation < 1:
            raise UsageError(f"trial {trial_id}: allocation = {allocation}; a share between 0 and 1")
        with self._database.write() as tx:
            return admit(
                tx,
                trial_id=trial_id,
                surface=surface,
                config=config,
                challenger=read_version(tx, challenger),
                salt=salt,
                allocation=allocation,
                offline_worse=allow_offline_worse,
                actor=actor,
                now=now,
            )

    def record_evidence(self, trial_id: str, evidence: Mapping[str, Any], *, now: datetime, actor: str = GATE) -> str:
        """Record a look, with `evidence["decision"]`; returns the SHA-256 that an approval binds to."""
        with self._database.write() as tx:
            return add_evidence(tx, trial_id, evidence, actor=actor, now=now)

    def approve(self, trial_id: str, *, actor: str, reason: str, now: datetime) -> Champion:
        """Promote the challenger on its latest evidence. Approving twice is one commit and the same answer.

        Refuses a trial that is not waiting, evidence that is not PROMOTE or too old, and the submitter's own approval.
        One that waited too long is recorded as EXPIRED, one whose champion has changed as STALE; both are refused.
        """
        check_named(actor, reason, what=f"trial {trial_id}")
        with self._database.write() as tx:
            trial = read_trial(tx, trial_id)
            present = read_champion(tx, trial.surface)
            if trial.state is TrialState.PROMOTED and present is not None and present.epoch == trial.promoted_epoch:
                return present
            outdated = outdated_by(trial, present, limits=self._limits, now=now)
            if outdated is None:
                check_approval(tx, trial, limits=self._limits, actor=actor, now=now)
                reached = move_champion(
                    tx,
                    surface=trial.surface,
                    expected=trial.champion_epoch,
                    version=trial.challenger,
                    digest=trial.challenger_digest,
                    how="promote",
                    subject=f"trial {trial_id}",
                    actor=actor,
                    reason=reason,
                    now=now,
                    trial=trial_id,
                    facts={
                        "trial": trial_id,
                        "state": TrialState.PROMOTED,
                        "evidence": trial.evidence[-1].sha256,
                        "config_hash": trial.config_hash,
                    },
                )
                if reached is not None:
                    end_with_champion(tx, trial.surface, reached, actor=actor, now=now)
                    done = {"state": TrialState.PROMOTED, "promoted_epoch": reached.epoch}
                    told = {"changed": stamp(now), "decided_by": actor, "reason": reason}
                    tx.execute(update(trials).where(trials.c.id == trial_id).values(**done, **told))
                    return reached
                outdated = TrialState.STALE, "the champion changed meanwhile"
            state, why = outdated
            close_trial(tx, trial, state=state, actor=GATE, reason=why, now=now)
        # Raised after the commit: that the trial ended here is part of the record.
        raise GateRefused(f"trial {trial_id}: {state}: {why}; open a new trial, its evidence is not reused")

    def reject(self, trial_id: str, *, actor: str, reason: str, now: datetime) -> None:
        """A person's no, at any time while the trial is open. The same bundle cannot come back."""
        self._end(trial_id, state=TrialState.REJECTED, actor=actor, reason=reason, now=now)

    def stop_trial(self, trial_id: str, *, actor: str, reason: str, now: datetime) -> None:
        """Take the challenger off all users without a verdict."""
        self._end(trial_id, state=TrialState.ABORTED, actor=actor, reason=reason, now=now)

    def expire(self, now: datetime) -> tuple[str, ...]:
        """End every trial that has waited for a person longer than `approval_hours`; returns their ids."""
        ended = []
        with self._database.write() as tx:
            for trial in read_trials(tx):
                waited = overdue(trial, limits=self._limits, now=now) if trial.is_open else ""
                if waited:
                    close_trial(tx, trial, state=TrialState.EXPIRED, actor=GATE, reason=waited, now=now)
                    ended.append(trial.id)
        return tuple(ended)

    def rollback(
        self, *, actor: str, reason: str, now: datetime, expected_epoch: int | None = None, surface: str = SURFACE
    ) -> Champion:
        """Back to the champion before the present one, under a new epoch; an open trial of the surface ends as STALE.

        `expected_epoch`: refuse if the champion has changed since the caller looked, so that two people who roll back
        at once do not go back two steps.
        """
        check_named(actor, reason, what="rollback")
        with self._database.write() as tx:
            present, history = read_champion(tx, surface), read_reigns(tx, surface)
            if present is not None and expected_epoch not in (None, present.epoch):
                raise GateRefused(
                    f"rollback of {surface!r}: the champion is at epoch {present.epoch}, not {expected_epoch}; "
                    "look again"
                )
            former = former_reign(history)
            if present is None or former is None:
                raise GateRefused(f"rollback of {surface!r}: there was no champion before; train and try a new one")
            reached = move_champion(
                tx,
                surface=surface,
                expected=present.epoch,
                version=former.version,
                digest=former.digest,
                how="rollback",
                subject=f"version {present.version}",
                actor=actor,
                reason=reason,
                now=now,
                restores=former.epoch,
            )
            if reached is None:
                raise GateRefused(f"rollback of {surface!r}: the champion changed meanwhile; look again")
            end_with_champion(tx, surface, reached, actor=actor, now=now)
            why = f"rolled back from version {present.version} to {former.version}: {reason}"
            for trial in open_trials(tx, surface):
                close_trial(tx, trial, state=TrialState.STALE, actor=actor, reason=why, now=now)
            left = present_reign(history)
            if left.trial is not None:
                promoted = read_trial(tx, left.trial)
                close_trial(tx, promoted, state=TrialState.ROLLED_BACK, actor=actor, reason=why, now=now)
        return reached

    def note(self, *, actor: str, action: str, subject: str, payload: Mapping[str, Any], now: datetime) -> None:
        """Put an act on the record that moves no champion and no trial; one of this subject is there once."""
        with self._database.write() as tx:
            if not any((entry.action, entry.subject) == (action, subject) for entry in read_audit(tx)):
                append_audit(tx, actor=actor, action=action, subject=subject, payload=payload, now=now)

    # What may happen

    def _end(self, trial_id: str, *, state: TrialState, actor: str, reason: str, now: datetime) -> None:
        check_named(actor, reason, what=f"trial {trial_id}")
        with self._database.write() as tx:
            trial = read_trial(tx, trial_id)
            if trial.state is state:
                return
            if not trial.is_open:
                raise GateRefused(f"trial {trial_id}: is {trial.state} already")
            close_trial(tx, trial, state=state, actor=actor, reason=reason, now=now)
