"""What stands against an approval: time, a champion that changed, the evidence, or who asks."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from gate.states import TrialState
from relations.errors import GateRefused, UsageError
from stores.approvals import submitters_of
from stores.ledger_records import GATE, Champion, TrialRecord
from stores.people import same_person


@dataclass(frozen=True)
class Limits:
    """`approval_age`: how long a trial may wait for a person. `evidence_age`: how old what is approved may be."""

    approval_age: timedelta
    evidence_age: timedelta


def outdated_by(
    trial: TrialRecord, present: Champion | None, *, limits: Limits, now: datetime
) -> tuple[TrialState, str] | None:
    """How an open trial has ended without anybody's doing, and why; None while it stands."""
    if not trial.is_open:
        return None
    if present is None or present.epoch != trial.champion_epoch:
        at = "none" if present is None else f"version {present.version} at epoch {present.epoch}"
        return TrialState.STALE, f"it was run against the champion of epoch {trial.champion_epoch}, now it is {at}"
    if trial.killed is not None:
        return TrialState.ABORTED, f"it was killed by {trial.killed.actor}: {trial.killed.reason}"
    waited = overdue(trial, limits=limits, now=now)
    return (TrialState.EXPIRED, waited) if waited else None


def overdue(trial: TrialRecord, *, limits: Limits, now: datetime) -> str:
    """Why the trial has waited too long for a person; empty while it has not."""
    if trial.awaiting_since is None or now - trial.awaiting_since <= limits.approval_age:
        return ""
    hours = limits.approval_age / timedelta(hours=1)
    return f"waited for approval since {trial.awaiting_since:%Y-%m-%d %H:%M} UTC, more than {hours:g} hours"


def check_approval(
    tx: Connection, trial: TrialRecord, *, limits: Limits, actor: str, evidence: str | None, now: datetime
) -> None:
    """Raises GateRefused unless the newest look says PROMOTE, is fresh, and `actor` is not who submitted.

    `evidence`: the SHA-256 of the look that `actor` saw, which must be the newest; None: not stated.
    """
    if trial.state is not TrialState.AWAIT_APPROVAL:
        raise GateRefused(f"trial {trial.id}: is {trial.state}, not {TrialState.AWAIT_APPROVAL}; nothing to approve")
    latest = trial.evidence[-1]
    if evidence not in (None, latest.sha256):
        raise GateRefused(
            f"trial {trial.id}: the newest look is {latest.number} ({latest.sha256[:12]}…, {latest.decision}), and not "
            f"the one that was approved ({str(evidence)[:12]}…); read it, and decide again"
        )
    if latest.decision != "PROMOTE":
        raise GateRefused(
            f"trial {trial.id}: look {latest.number} says {latest.decision}; only PROMOTE can be approved"
        )
    if now - latest.recorded > limits.evidence_age:
        raise GateRefused(
            f"trial {trial.id}: its evidence is of {latest.recorded:%Y-%m-%d %H:%M} UTC, older than "
            f"{limits.evidence_age / timedelta(hours=1):g} hours; "
            f"look again with `ratchet trial look {trial.id}`"
        )
    proposed = trial.proposed
    if trial.is_aa or proposed.name in trial.out:
        raise GateRefused(f"trial {trial.id}: {proposed.name} (version {proposed.version}) cannot be promoted")
    if same_person(actor, GATE):
        raise GateRefused(f"trial {trial.id}: the gate proposes, and people approve; name a person")
    if any(same_person(actor, name) for name in submitters_of(tx, trial)):
        raise GateRefused(f"trial {trial.id}: {actor} submitted it and cannot approve it; ask someone else")


def check_named(actor: str, reason: str, *, what: str) -> None:
    """Raises UsageError unless a person is named with a reason."""
    if not actor.strip():
        raise UsageError(f"{what}: who decides? Name a person with --as")
    if not reason.strip():
        raise UsageError(f"{what}: why? Give a --reason")
