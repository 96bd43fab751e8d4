"""From an approval to a believed champion, each step inside one ledger transaction together with its audit entry.

An approval moves the champion. Where the frozen configuration has `bake_hours`, the trial is then watched: PROMOTING
until serving is seen to serve the bundle, BAKING for so long, PROMOTED after. A rollback ends it at any of these.
"""

from datetime import datetime

from sqlalchemy import Connection, select, update

from gate.states import OPEN_STATES, WATCHED_STATES, TrialState
from relations.errors import GateRefused
from stores.approval import Limits, check_approval, outdated_by
from stores.approvals import counting, enter_approval, keep_only, note_approval
from stores.audit import append_audit
from stores.break_glass_rows import end_reign
from stores.champion import former_reign, move_champion, present_reign, read_champion, read_reigns
from stores.failpoints import reach
from stores.ledger_records import GATE, Champion, TrialRecord, Waiting, stamp
from stores.ledger_tables import trials
from stores.people import Role, check_may
from stores.serving_records import ServingBake
from stores.standing import end_with_champion
from stores.trial_rows import read_trial, read_trials
from stores.trial_steps import check_step, close_trial


def promote(
    tx: Connection,
    trial_id: str,
    *,
    limits: Limits,
    actor: str,
    reason: str,
    now: datetime,
    evidence: str | None = None,
    enforce: bool = False,
) -> Champion | Waiting | tuple[TrialState, str]:
    """Make the challenger of the newest look champion, once enough people approved; or how the trial has ended by
    itself, which is recorded.

    What an approval has made already is the same answer again, while it is still champion.
    """
    trial = read_trial(tx, trial_id)
    present = read_champion(tx, trial.surface)
    done = trial.is_watched or trial.state is TrialState.PROMOTED
    if done and present is not None and present.epoch == trial.promoted_epoch:
        return present
    outdated = outdated_by(trial, present, limits=limits, now=now)
    if outdated is not None:
        close_trial(tx, trial, state=outdated[0], actor=GATE, reason=outdated[1], now=now)
        return outdated
    check_may(tx, actor, Role.APPROVER, what=f"approve trial {trial_id}", enforce=enforce)
    check_approval(tx, trial, limits=limits, actor=actor, evidence=evidence, now=now)
    state = TrialState.PROMOTING if trial.bake_hours > 0 else TrialState.PROMOTED
    check_step(trial, state)
    is_new = enter_approval(tx, trial, actor=actor, reason=reason, now=now)
    reach("decide.approved")
    counted = counting(tx, trial, enforce=enforce)
    approvers = tuple(each.name for each in counted)
    if len(counted) < trial.quorum:
        if is_new:
            note_approval(tx, trial, actor=actor, reason=reason, now=now)
        return Waiting(trial_id, approvers, trial.quorum)
    keep_only(tx, trial, counted)
    reached = _crown(tx, trial, state=state, approvers=approvers, actor=actor, reason=reason, now=now)
    if reached is None:  # impossible under this transaction's lock, and the swap is what makes it so
        raise GateRefused(f"trial {trial_id}: the champion changed meanwhile; look again")
    return reached


def _crown(
    tx: Connection,
    trial: TrialRecord,
    *,
    state: TrialState,
    approvers: tuple[str, ...],
    actor: str,
    reason: str,
    now: datetime,
) -> Champion | None:
    proposed = trial.proposed
    reached = move_champion(
        tx,
        surface=trial.surface,
        expected=trial.champion_epoch,
        version=proposed.version,
        digest=proposed.digest,
        how="promote",
        subject=f"trial {trial.id}",
        actor=actor,
        reason=reason,
        now=now,
        trial=trial.id,
        facts={
            "trial": trial.id,
            "state": state,
            "challenger": proposed.name,
            "evidence": trial.evidence[-1].sha256,
            "config_hash": trial.config_hash,
            "quorum": trial.quorum,
            "approvers": list(approvers),
        },
    )
    if reached is not None:
        end_with_champion(tx, trial.surface, reached, actor=actor, now=now)
        told = {"changed": stamp(now), "decided_by": actor, "reason": reason}
        entered = {"state": state, "promoted_epoch": reached.epoch}
        tx.execute(update(trials).where(trials.c.id == trial.id).values(**entered, **told))
    return reached


def bake(tx: Connection, trial_id: str, *, actor: str, now: datetime) -> TrialRecord:
    trial = read_trial(tx, trial_id)
    if trial.state is TrialState.BAKING:
        return trial
    if trial.state is not TrialState.PROMOTING:
        raise GateRefused(f"trial {trial_id}: is {trial.state}, not {TrialState.PROMOTING}; nothing begins to bake")
    return _go_on(tx, trial, TrialState.BAKING, action="begin_bake", actor=actor, now=now)


def believe(tx: Connection, trial_id: str, *, actor: str, now: datetime) -> TrialRecord:
    trial = read_trial(tx, trial_id)
    if trial.state is TrialState.PROMOTED:
        return trial
    if trial.bakes_until is None:
        raise GateRefused(f"trial {trial_id}: is {trial.state}, not {TrialState.BAKING}; nothing has baked")
    if now < trial.bakes_until:
        raise GateRefused(
            f"trial {trial_id}: bakes until {stamp(trial.bakes_until)}, and it is {stamp(now)}; wait for it, "
            "or bring the former champion back with `ratchet rollback`"
        )
    return _go_on(tx, trial, TrialState.PROMOTED, action="end_bake", actor=actor, now=now)


def roll_back(
    tx: Connection, surface: str, *, expected_epoch: int | None, actor: str, reason: str, now: datetime
) -> Champion:
    present, history = read_champion(tx, surface), read_reigns(tx, surface)
    if present is not None and expected_epoch not in (None, present.epoch):
        raise GateRefused(
            f"rollback of {surface!r}: the champion is at epoch {present.epoch}, not {expected_epoch}; look again"
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
    end_reign(tx, surface, actor=actor, reason=reason, now=now)
    why = f"rolled back from version {present.version} to {former.version}: {reason}"
    for trial in read_trials(tx, states=OPEN_STATES, surface=surface):
        close_trial(tx, trial, state=TrialState.STALE, actor=actor, reason=why, now=now)
    left = present_reign(history)
    if left.trial is not None:
        close_trial(tx, read_trial(tx, left.trial), state=TrialState.ROLLED_BACK, actor=actor, reason=why, now=now)
    return reached


def serving_bake(tx: Connection, surface: str) -> ServingBake | None:
    """The promotion that is watched, and what a rollback would bring back."""
    watched = select(trials.c.id, trials.c.state).where(trials.c.surface == surface, trials.c.state.in_(WATCHED_STATES))
    row = tx.execute(watched).one_or_none()
    former = None if row is None else former_reign(read_reigns(tx, surface))
    return None if row is None or former is None else ServingBake(row.id, row.state, former.version, former.digest)


def _go_on(
    tx: Connection, trial: TrialRecord, state: TrialState, *, action: str, actor: str, now: datetime
) -> TrialRecord:
    present = read_champion(tx, trial.surface)
    if present is None or present.epoch != trial.promoted_epoch:
        raise GateRefused(f"trial {trial.id}: its challenger is champion no more; look again")
    check_step(trial, state)
    tx.execute(update(trials).where(trials.c.id == trial.id).values(state=state, changed=stamp(now)))
    payload = {
        "trial": trial.id,
        "state": state,
        "version": present.version,
        "digest": present.digest,
        "epoch": present.epoch,
        "bake_hours": trial.bake_hours,
    }
    append_audit(tx, actor=actor, action=action, subject=f"trial {trial.id}", payload=payload, now=now)
    return read_trial(tx, trial.id)
