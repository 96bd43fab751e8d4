"""A trial's stages, each entered inside one ledger transaction together with its audit entry.

Shadow, canary, interleaving, comparison: forward only, and within a stage the share of users only grows, so that nobody
who has met the challenger is taken off it to be drawn anew. A kill is a stage too, the last one. A step that cannot be
taken raises GateRefused and leaves no trace. A trial without stages compares, with its frozen allocation. The trial's
state is its stage's.
"""

from datetime import datetime

from sqlalchemy import Connection, insert, update

from gate.states import STAGES, TrialMode, TrialState
from relations.errors import GateRefused, UsageError
from stores.audit import append_audit
from stores.audit_trials import stage_facts
from stores.ledger_records import StageRecord, TrialRecord, stamp
from stores.ledger_tables import stages, trials
from stores.trial_rows import stage_record

CANARY_MOST = 0.05
"""Who is in the canary is lost to the comparison, and nothing of it was tested on people yet."""


def share_of(trial_id: str, mode: TrialMode, allocation: float | None, *, compared: float) -> float:
    """The share of users that `mode` shows the challenger to. `compared`: the trial's frozen allocation.

    Raises UsageError where `mode` needs another share, or one that is not stated.
    """
    what = f"trial {trial_id}: {mode}"
    if mode not in STAGES:
        raise UsageError(f"{what}: is no stage to go on to; a trial is killed by `ratchet trial kill {trial_id}`")
    if mode is TrialMode.COMPARE:
        if allocation not in (None, compared):
            raise UsageError(f"{what}: allocation = {allocation}; the frozen configuration says {compared:g}")
        return compared
    if mode is TrialMode.SHADOW:
        if allocation:
            raise UsageError(f"{what}: allocation = {allocation}; a shadow is shown to nobody, leave it out")
        return 0.0
    # With half of the treated left, and as large a part of the others, the comparison still has users.
    most = min(CANARY_MOST, compared / 2) if mode is TrialMode.CANARY else 1.0
    if allocation is None or not 0 < allocation <= most:
        raise UsageError(f"{what}: allocation = {allocation}; state a share of users above 0, at most {most:g}")
    return allocation


def enter_stage(
    tx: Connection,
    trial: TrialRecord,
    mode: TrialMode,
    *,
    allocation: float | None,
    actor: str,
    reason: str,
    now: datetime,
) -> StageRecord:
    """Go on to `mode`, or further in it. The newest stage again changes nothing."""
    _check_running(trial)
    share = share_of(trial.id, mode, allocation, compared=trial.allocation)
    present = trial.stages[-1] if trial.stages else None
    at, reached = (trial.mode, trial.allocation) if present is None else (present.mode, present.allocation)
    if STAGES.index(mode) < STAGES.index(at):
        raise GateRefused(f"trial {trial.id}: is at {at}, and {mode} comes before it; open a new trial to begin again")
    if mode is at and share < reached:
        raise GateRefused(
            f"trial {trial.id}: {mode} reaches {reached:g} of the users, and a ramp only grows; "
            f"to take the challenger off them, `ratchet trial kill {trial.id}`"
        )
    if present is not None and (mode, share) == (at, reached):
        return present
    if mode is not at:
        entered = {"state": TrialState(mode.name), "changed": stamp(now)}
        tx.execute(update(trials).where(trials.c.id == trial.id).values(**entered))
    return append_stage(tx, trial.id, trial.stages, mode, share=share, actor=actor, reason=reason, now=now)


def enter_kill(tx: Connection, trial: TrialRecord, *, actor: str, reason: str, now: datetime) -> StageRecord:
    """Take the challenger off all users for good. A second kill changes nothing."""
    if trial.killed is not None:
        return trial.killed
    if not trial.is_open:
        raise GateRefused(f"trial {trial.id}: is {trial.state}, {what_then(trial)}")
    return append_stage(tx, trial.id, trial.stages, TrialMode.KILLED, share=0.0, actor=actor, reason=reason, now=now)


def append_stage(
    tx: Connection,
    trial_id: str,
    passed: tuple[StageRecord, ...],
    mode: TrialMode,
    *,
    share: float,
    actor: str,
    reason: str,
    now: datetime,
) -> StageRecord:
    row = {
        "trial": trial_id,
        "number": len(passed) + 1,
        "mode": mode,
        "allocation": share,
        "since": stamp(now),
        "actor": actor,
        "reason": reason,
    }
    tx.execute(insert(stages).values(**row))
    action = "kill_trial" if mode is TrialMode.KILLED else "set_stage"
    append_audit(tx, actor=actor, action=action, subject=f"trial {trial_id}", payload=stage_facts(row), now=now)
    return stage_record(row)


def what_then(trial: TrialRecord) -> str:
    """What to do about a trial that is not open any more."""
    promoted = trial.is_watched or trial.state is TrialState.PROMOTED
    return "its challenger is the champion: `ratchet rollback`" if promoted else "it is over"


def check_alive(trial: TrialRecord) -> None:
    """Raises GateRefused for a trial that was killed."""
    killed = trial.killed
    if killed is not None:
        raise GateRefused(
            f"trial {trial.id}: was killed by {killed.actor} ({killed.reason}); "
            f"end it with `ratchet trial stop {trial.id}`"
        )


def _check_running(trial: TrialRecord) -> None:
    check_alive(trial)
    if trial.state not in [TrialState(mode.name) for mode in STAGES]:
        raise GateRefused(f"trial {trial.id}: is {trial.state}; only a running trial has stages")
