"""A trial's steps, each inside one ledger transaction together with its audit entry.

Opening, looks, endings. A step that cannot be taken raises GateRefused and leaves no trace. The promotion itself is in
`ledger.py`; what it finds out of date is recorded here by `close_trial`.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from relations.errors import GateRefused, UsageError
from stores.audit import append_audit, trial_facts
from stores.champion import read_champion
from stores.ledger_records import (
    OPEN_STATES,
    STATE_AFTER,
    Champion,
    EvidenceRecord,
    TrialRecord,
    TrialState,
    VersionRecord,
    canonical_json,
    sha256,
    stamp,
    unstamp,
)
from stores.ledger_tables import evidence as looks
from stores.ledger_tables import trials


def read_trial(tx: Connection, trial_id: str) -> TrialRecord:
    row = tx.execute(select(trials).where(trials.c.id == trial_id)).one_or_none()
    if row is None:
        raise UsageError(f"trial {trial_id!r}: no such trial; list them with `ratchet trial status`")
    return _record(tx, row._mapping)


def read_trials(tx: Connection) -> tuple[TrialRecord, ...]:
    """All, in the order of their opening."""
    rows = tx.execute(select(trials).order_by(trials.c.opened, trials.c.id)).all()
    return tuple(_record(tx, row._mapping) for row in rows)


def open_trials(tx: Connection, surface: str) -> tuple[TrialRecord, ...]:
    rows = tx.execute(select(trials).where(trials.c.surface == surface, trials.c.state.in_(OPEN_STATES))).all()
    return tuple(_record(tx, row._mapping) for row in rows)


def admit(
    tx: Connection,
    *,
    trial_id: str,
    surface: str,
    config: Mapping[str, Any],
    challenger: VersionRecord,
    salt: str,
    allocation: float,
    offline_worse: bool,
    actor: str,
    now: datetime,
) -> str:
    """Freeze the configuration and open the trial; returns the configuration's hash. A repetition changes nothing.

    `offline_worse`: let in a challenger that failed the offline check; the caller has made sure of a simulation.
    """
    text = canonical_json(config, what=f"trial {trial_id}: configuration")
    frozen = sha256(text)
    existing = tx.execute(select(trials).where(trials.c.id == trial_id)).one_or_none()
    if existing is not None:
        if (existing.config_hash, existing.challenger, existing.salt) == (frozen, challenger.version, salt):
            return frozen
        raise GateRefused(f"trial {trial_id}: exists with another frozen configuration; open a new trial instead")
    champion = _ready_to_meet(tx, challenger, surface=surface, offline_worse=offline_worse)
    for other in open_trials(tx, surface):
        _replace(tx, other, trial_id=trial_id, challenger=challenger, actor=actor, now=now)
    row = {
        "id": trial_id,
        "surface": surface,
        "state": TrialState.COMPARE,
        "challenger": challenger.version,
        "challenger_digest": challenger.digest,
        "champion": champion.version,
        "champion_digest": champion.digest,
        "champion_epoch": champion.epoch,
        "config": text,
        "config_hash": frozen,
        "salt": salt,
        "allocation": allocation,
        "submitter": actor,
        "opened": stamp(now),
        "changed": stamp(now),
        "offline_worse": not challenger.offline_passed,
        "decided_by": "",
        "reason": "",
    }
    tx.execute(insert(trials).values(**row))
    payload = {"trial": trial_id, "state": TrialState.COMPARE, **trial_facts(row)}
    append_audit(tx, actor=actor, action="open_trial", subject=f"trial {trial_id}", payload=payload, now=now)
    return frozen


def _ready_to_meet(tx: Connection, challenger: VersionRecord, *, surface: str, offline_worse: bool) -> Champion:
    champion = read_champion(tx, surface)
    name = f"version {challenger.version}"
    if champion is None:
        raise GateRefused(f"{name}: there is no champion to meet on {surface!r}; bootstrap the first one")
    if champion.digest == challenger.digest:
        raise GateRefused(f"{name}: is the champion already; train a challenger first")
    if not challenger.offline_passed and not offline_worse:
        raise GateRefused(
            f"{name}: failed the offline check against the champion; "
            "only a simulation home may try it all the same, with --allow-offline-worse"
        )
    rejected = tx.execute(
        select(trials.c.id).where(
            trials.c.surface == surface,
            trials.c.challenger_digest == challenger.digest,
            trials.c.state == TrialState.REJECTED,
        )
    ).first()
    if rejected is not None:
        raise GateRefused(f"{name}: the same bundle was rejected in trial {rejected.id}; train a new one on new data")
    return champion


def _replace(
    tx: Connection, other: TrialRecord, *, trial_id: str, challenger: VersionRecord, actor: str, now: datetime
) -> None:
    if other.state is TrialState.COMPARE:
        raise GateRefused(f"trial {other.id}: is running on {other.surface!r}; wait for it, or stop it first")
    if challenger.version <= other.challenger:
        raise GateRefused(
            f"trial {other.id}: waits for approval with version {other.challenger}, and version {challenger.version} "
            "is not newer; approve or reject it first"
        )
    close_trial(tx, other, state=TrialState.STALE, actor=actor, reason=f"replaced by trial {trial_id}", now=now)


def add_evidence(tx: Connection, trial_id: str, evidence: Mapping[str, Any], *, actor: str, now: datetime) -> str:
    """Record a look and take the step that its decision asks for. Recording the same look twice changes nothing."""
    decision = str(evidence.get("decision"))
    if decision not in STATE_AFTER:
        raise UsageError(f"trial {trial_id}: evidence decision = {decision!r}; one of {', '.join(STATE_AFTER)}")
    text = canonical_json(evidence, what=f"trial {trial_id}: evidence")
    digest = sha256(text)
    trial = read_trial(tx, trial_id)
    if any(look.sha256 == digest for look in trial.evidence):
        return digest
    if not trial.is_open:
        raise GateRefused(f"trial {trial_id}: is {trial.state}, and takes no more evidence; open a new trial")
    state = STATE_AFTER[decision] or trial.state
    number = len(trial.evidence) + 1
    tx.execute(
        insert(looks).values(
            trial=trial_id, number=number, sha256=digest, decision=decision, recorded=stamp(now), evidence=text
        )
    )
    changes: dict[str, Any] = {"state": state, "changed": stamp(now)}
    if state is TrialState.AWAIT_APPROVAL and trial.awaiting_since is None:
        changes["awaiting_since"] = stamp(now)
    if state not in OPEN_STATES:
        changes |= {"decided_by": actor, "reason": f"look {number}: {decision}"}
    tx.execute(update(trials).where(trials.c.id == trial_id).values(**changes))
    payload = {
        "trial": trial_id,
        "state": state,
        "look": number,
        "evidence": digest,
        "decision": decision,
        "config_hash": trial.config_hash,
        "champion_epoch": trial.champion_epoch,
        "champion_digest": trial.champion_digest,
        "challenger_digest": trial.challenger_digest,
    }
    append_audit(tx, actor=actor, action="record_evidence", subject=f"trial {trial_id}", payload=payload, now=now)
    return digest


def close_trial(
    tx: Connection, trial: TrialRecord, *, state: TrialState, actor: str, reason: str, now: datetime
) -> None:
    """End a trial without promoting: from the commit on, serving sends its challenger no user."""
    tx.execute(
        update(trials)
        .where(trials.c.id == trial.id)
        .values(state=state, changed=stamp(now), decided_by=actor, reason=reason)
    )
    payload = {"trial": trial.id, "state": state, "was": trial.state, "reason": reason}
    append_audit(tx, actor=actor, action="close_trial", subject=f"trial {trial.id}", payload=payload, now=now)


def _record(tx: Connection, row: Mapping[Any, Any]) -> TrialRecord:
    found = tx.execute(select(looks).where(looks.c.trial == row["id"]).order_by(looks.c.number)).all()
    fields = dict(row) | {
        "state": TrialState(row["state"]),
        "config": json.loads(row["config"]),
        "opened": unstamp(row["opened"]),
        "changed": unstamp(row["changed"]),
        "awaiting_since": None if row["awaiting_since"] is None else unstamp(row["awaiting_since"]),
        "evidence": tuple(
            EvidenceRecord(look.number, look.sha256, look.decision, unstamp(look.recorded), json.loads(look.evidence))
            for look in found
        ),
    }
    return TrialRecord(**fields)
