"""The ledger: who is champion, which trial is open, and why. The only authority on both.

SQLite in the home by default, any SQLAlchemy URL by `[ledger] url`. Every change is one transaction together with a
hash-chained audit entry, and the champion moves only by compare-and-swap on its epoch. Ages are taken from the `now`
that callers pass: the home's clock. Refusals raise GateRefused, a database that fails DependencyFailed.

Who may do what is checked in the transaction that does it; that callers are who they say is for the edges to see to
(command line, console, flows).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from gate.states import TrialMode, TrialState
from relations.errors import GateRefused, UsageError
from stores.approval import Limits, check_named, overdue
from stores.audit import append_audit, find_problems, read_audit
from stores.break_glass import UNCONFIRMED
from stores.break_glass_ledger import BreakGlassLedger
from stores.break_glass_rows import end_glass, read_glasses
from stores.champion import former_reign, move_champion, read_champion, read_history
from stores.home import Home
from stores.ledger_database import Database
from stores.ledger_export import Exported, write_export
from stores.ledger_records import GATE, SURFACE, AuditEntry, Champion, Reign, Story, TrialRecord, VersionRecord, Waiting
from stores.lineage import enter_version, read_candidate, read_version, read_versions
from stores.people import Role, check_may, is_deployment, same_person
from stores.people_ledger import PeopleLedger
from stores.promotion import promote, roll_back, serving_bake
from stores.serving_records import ServingState
from stores.settings import LedgerSettings, Settings
from stores.stage_ledger import StageLedger
from stores.stages import what_then
from stores.standing import serving_delta
from stores.standing_ledger import StandingLedger
from stores.trial_rows import held_since, read_trial, read_trials, serving_trial
from stores.trial_steps import add_evidence, admit, close_trial
from stores.vouching import check_vouched


class Ledger(PeopleLedger, StandingLedger, StageLedger, BreakGlassLedger):
    """Threads and processes may each hold one on the same database.

    `enforce_roles`: who acts must be a person of the ledger with the role; without it, in a simulation, anybody may.
    """

    def __init__(self, url: str, *, settings: LedgerSettings | None = None, enforce_roles: bool = False) -> None:
        self._database = Database(url)
        self._enforce_roles = enforce_roles
        stated = settings or LedgerSettings()
        self._vouched: dict[str, Champion] = {}
        self._limits = Limits(timedelta(hours=stated.approval_hours), timedelta(hours=stated.evidence_hours))

    @staticmethod
    def of(home: Home, settings: Settings) -> "Ledger":
        """Of a home; who may do what is enforced but in a simulation."""
        url = settings.ledger.url or home.ledger_url
        return Ledger(url, settings=settings.ledger, enforce_roles=not home.simulation)

    # What is

    @property
    def roles_enforced(self) -> bool:
        return self._enforce_roles

    def serving_state(self, surface: str = SURFACE) -> ServingState:
        """Champion, its newest delta, and open trial or watched promotion, of one moment.

        A trial against another epoch's champion is not served. While a trial is open no delta serves: what the
        challenger is compared with must stay the same. The delta's expiry is for the caller to compare with the home's
        clock, at every look. Raises GateRefused for a champion whom no decision in the ledger has made.
        """
        with self._database.read() as tx:
            champion = read_champion(tx, surface)
            if champion is not None and champion != self._vouched.get(surface):  # once for each
                check_vouched(tx, surface, champion)
                self._vouched[surface] = champion
            trial = serving_trial(tx, surface)
            if trial is not None and champion is not None and trial.champion_epoch == champion.epoch:
                return ServingState(champion, trial)
            return ServingState(champion, None, serving_delta(tx, surface), serving_bake(tx, surface))

    def champion(self, surface: str = SURFACE) -> Champion | None:
        with self._database.read() as tx:
            return read_champion(tx, surface)

    def history(self, surface: str = SURFACE) -> tuple[Reign, ...]:
        """Every epoch, oldest first."""
        with self._database.read() as tx:
            return read_history(tx, surface)

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
        """With all its looks."""
        with self._database.read() as tx:
            return read_trial(tx, trial_id, all_looks=True)

    def trials(self) -> tuple[TrialRecord, ...]:
        """In the order of their opening, each with its newest look only."""
        with self._database.read() as tx:
            return read_trials(tx)

    def story(self, surface: str = SURFACE) -> Story:
        with self._database.read() as tx:
            return Story(read_trials(tx), read_history(tx, surface), read_versions(tx))

    def held_since(self, trial_id: str) -> datetime | None:
        """When the first look of the unbroken row of HOLDs was recorded that the newest ends; None without one."""
        with self._database.read() as tx:
            return held_since(tx, trial_id)

    def audit(self) -> tuple[AuditEntry, ...]:
        with self._database.read() as tx:
            return read_audit(tx)

    def verify(self) -> list[str]:
        """Problems found when every hash is recomputed and the audit replayed against the tables and the rules."""
        with self._database.read() as tx:
            return find_problems(tx, roles_enforced=self._enforce_roles)

    def export(self, file: Path, *, now: datetime, force: bool = False) -> Exported:
        """All of it as JSON lines that verify by themselves, see `stores.ledger_export`; no secrets.

        Raises UsageError for a file that is there already, but with `force`.
        """
        with self._database.read() as tx:
            return write_export(tx, file, roles_enforced=self._enforce_roles, now=now, force=force)

    # What happens

    def record_version(self, record: VersionRecord) -> int:
        """Enter a registered version; the same digest again keeps the first entry. Returns its number."""
        with self._database.write() as tx:
            return enter_version(tx, record)

    def bootstrap(self, version: int, *, actor: str, reason: str, now: datetime, surface: str = SURFACE) -> Champion:
        """The first champion, by a named person's approval. Possible only while there is none.

        Refuses who had it trained.
        """
        check_named(actor, reason, what="bootstrap")
        with self._database.write() as tx:
            self._check_may(tx, actor, Role.APPROVER, what=f"bootstrap version {version}")
            record, present = read_version(tx, version), read_champion(tx, surface)
            if present is not None and (present.epoch, present.digest) == (1, record.digest):
                return present
            if same_person(actor, record.submitter):
                raise GateRefused(f"version {version}: {actor} submitted it and cannot approve it; ask someone else")
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
        challengers: Sequence[int],
        salt: str,
        allocation: float,
        actor: str,
        now: datetime,
        surface: str = SURFACE,
        is_aa: bool = False,
        allow_offline_worse: bool = False,
        simulation: bool = False,
        mode: TrialMode = TrialMode.COMPARE,
        share: float | None = None,
    ) -> str:
        """Freeze `config` and let the challengers meet the champion; returns the configuration's hash.

        `challengers`: versions, at most five; the arms are named `challenger`, `challenger-2`, … in this order.
        `allocation`: the share of users who meet any of them. `is_aa`: the one challenger is the champion itself.
        `mode`: the stage to begin with, of a trial that goes through stages, and its `share` of users; see `set_stage`.

        A trial that still waits for approval is replaced by a newer challenger's, a running one never, and none begins
        while a promotion is watched. Refuses the champion itself (but as an A/A trial), a bundle rejected before, and
        one that failed the offline check unless this is a simulation.
        """
        check_named(actor, "-", what=f"trial {trial_id}")
        if allow_offline_worse and not simulation:
            raise GateRefused(f"trial {trial_id}: --allow-offline-worse is for simulation homes only")
        if not 0 < allocation < 1:
            raise UsageError(f"trial {trial_id}: allocation = {allocation}; a share between 0 and 1")
        with self._database.write() as tx:
            if not is_deployment(actor):
                self._check_may(tx, actor, Role.SUBMITTER, what=f"open trial {trial_id}")
            return admit(
                tx,
                trial_id=trial_id,
                surface=surface,
                config=config,
                challengers=[read_version(tx, version) for version in challengers],
                salt=salt,
                allocation=allocation,
                is_aa=is_aa,
                offline_worse=allow_offline_worse,
                mode=mode,
                share=share,
                actor=actor,
                now=now,
            )

    def record_evidence(self, trial_id: str, evidence: Mapping[str, Any], *, now: datetime, actor: str = GATE) -> str:
        """Record a look, with `evidence["decision"]`; returns the SHA-256 that an approval binds to.

        `challenger` names the arm that the look is about (the first by default), `out` those that nobody meets any
        more, `stage` where it was made. Only the comparison can PROMOTE, and no A/A trial.
        """
        with self._database.write() as tx:
            return add_evidence(tx, trial_id, evidence, actor=actor, now=now)

    def approve(
        self, trial_id: str, *, actor: str, reason: str, now: datetime, evidence: str | None = None
    ) -> Champion | Waiting:
        """Promote the challenger that the latest evidence names, once as many people approved that look as it takes.

        `evidence`: the SHA-256 of the look that `actor` saw; refused where another is the newest by now. Where one more
        person is needed, this one's approval is kept, for that look alone. Approving twice counts once, and is the same
        answer. With `bake_hours` in the frozen configuration the trial is PROMOTING then, see `begin_bake`; without,
        PROMOTED.

        Refuses a trial that is not waiting, evidence that is not PROMOTE or too old, and the submitter's own approval.
        One that waited too long is recorded as EXPIRED, one whose champion has changed as STALE; both are refused.
        """
        check_named(actor, reason, what=f"trial {trial_id}")
        with self._database.write() as tx:
            reached = promote(
                tx,
                trial_id,
                limits=self._limits,
                actor=actor,
                reason=reason,
                evidence=evidence,
                now=now,
                enforce=self._enforce_roles,
            )
        if isinstance(reached, Champion | Waiting):
            return reached
        # Raised after the commit: that the trial ended here is part of the record.
        state, why = reached
        raise GateRefused(f"trial {trial_id}: {state}: {why}; open a new trial, its evidence is not reused")

    def reject(self, trial_id: str, *, actor: str, reason: str, now: datetime) -> None:
        """A person's no, at any time while the trial is open. Its bundles cannot come back, but an A/A trial's."""
        may = (Role.APPROVER,)
        self._end(trial_id, may, state=TrialState.REJECTED, actor=actor, reason=reason, now=now)

    def stop_trial(self, trial_id: str, *, actor: str, reason: str, now: datetime) -> None:
        """Take the challengers off all users without a verdict."""
        may = (Role.SUBMITTER, Role.APPROVER)
        self._end(trial_id, may, state=TrialState.ABORTED, actor=actor, reason=reason, now=now)

    def expire(self, now: datetime) -> tuple[str, ...]:
        """End every trial that has waited for a person longer than `approval_hours`, and broken glass whose time is up:
        the former champion comes back. Returns what was ended, as `trial-3` or `break-glass 1`.
        """
        ended = []
        with self._database.write() as tx:
            for trial in read_trials(tx, states=(TrialState.AWAIT_APPROVAL,)):
                waited = overdue(trial, limits=self._limits, now=now)
                if waited:
                    close_trial(tx, trial, state=TrialState.EXPIRED, actor=GATE, reason=waited, now=now)
                    ended.append(trial.id)
            for broken in read_glasses(tx):
                if broken.ended is not None or now < (broken.until or broken.expires):
                    continue
                if broken.in_force:
                    why = f"{broken.name} was for {broken.hours:g} hours, and they are over"
                    roll_back(tx, broken.surface, expected_epoch=broken.epoch, actor=GATE, reason=why, now=now)
                else:
                    end_glass(tx, broken, actor=GATE, reason=UNCONFIRMED, now=now)
                ended.append(broken.name)
        return tuple(ended)

    def rollback(
        self, *, actor: str, reason: str, now: datetime, expected_epoch: int | None = None, surface: str = SURFACE
    ) -> Champion:
        """Back to the champion before the present one, under a new epoch; an open trial of the surface ends as STALE,
        the one that had made the present champion as ROLLED_BACK, whether it was still watched or not.

        `expected_epoch`: refuse if the champion has changed since the caller looked, so that two people who roll back
        at once do not go back two steps.
        """
        check_named(actor, reason, what="rollback")
        with self._database.write() as tx:
            if actor != GATE:
                self._check_may(tx, actor, Role.APPROVER, Role.ADMIN, what="roll back")
            return roll_back(tx, surface, expected_epoch=expected_epoch, actor=actor, reason=reason, now=now)

    def note(self, *, actor: str, action: str, subject: str, payload: Mapping[str, Any], now: datetime) -> None:
        """Put an act on the record that moves no champion and no trial; one of this subject is there once."""
        with self._database.write() as tx:
            if not any((entry.action, entry.subject) == (action, subject) for entry in read_audit(tx)):
                append_audit(tx, actor=actor, action=action, subject=subject, payload=payload, now=now)

    # What may happen

    def _check_may(self, tx: Connection, actor: str, *roles: Role, what: str) -> None:
        check_may(tx, actor, *roles, what=what, enforce=self._enforce_roles)

    def _end(
        self, trial_id: str, may: tuple[Role, ...], *, state: TrialState, actor: str, reason: str, now: datetime
    ) -> None:
        check_named(actor, reason, what=f"trial {trial_id}")
        step = "reject" if state is TrialState.REJECTED else "stop"
        with self._database.write() as tx:
            self._check_may(tx, actor, *may, what=f"{step} trial {trial_id}")
            trial = read_trial(tx, trial_id)
            if trial.state is state:
                return
            if not trial.is_open:
                raise GateRefused(f"trial {trial_id}: is {trial.state} already, {what_then(trial)}")
            close_trial(tx, trial, state=state, actor=actor, reason=reason, now=now)
