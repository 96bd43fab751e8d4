"""A trial's steps, each inside one ledger transaction together with its audit entry.

Opening, looks, endings. Every change of a trial's state goes through `check_step`. A step that cannot be taken raises
GateRefused and leaves no trace. The promotion itself is in `promotion.py`; what it finds out of date is recorded here
by `close_trial`.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from gate.states import OPEN_STATES, WATCHED_STATES, TrialMode, TrialState
from relations.errors import GateRefused, UsageError
from stores.audit import append_audit
from stores.audit_trials import others_facts, trial_facts
from stores.break_glass_rows import glass_in_force
from stores.champion import read_champion
from stores.ledger_records import (
    CHALLENGER,
    MOST_CHALLENGERS,
    STATE_AFTER,
    ChallengerRecord,
    Champion,
    TrialRecord,
    VersionRecord,
    bake_hours_of,
    canonical_json,
    named_by,
    quorum_of,
    sha256,
    stamp,
    state_after,
)
from stores.ledger_tables import challengers as further
from stores.ledger_tables import evidence as looks
from stores.ledger_tables import outs, trials
from stores.stages import append_stage, check_alive, share_of
from stores.trial_rows import read_trial, read_trials


def admit(
    tx: Connection,
    *,
    trial_id: str,
    surface: str,
    config: Mapping[str, Any],
    challengers: Sequence[VersionRecord],
    salt: str,
    allocation: float,
    is_aa: bool,
    offline_worse: bool,
    mode: TrialMode,
    share: float | None,
    actor: str,
    now: datetime,
) -> str:
    """Freeze the configuration and open the trial; returns the configuration's hash. A repetition changes nothing.

    `offline_worse`: let in a challenger that failed the offline check; the caller has made sure of a simulation.
    `mode`, `share`: the first stage and its share of users.
    """
    what = f"trial {trial_id}"
    arms = _arms(challengers, is_aa=is_aa, what=what)
    first, others = arms[0], arms[1:]
    at_first = share_of(trial_id, mode, share, compared=allocation)
    bake_hours_of(config, what=f"{what}: configuration")
    text = canonical_json(config, what=f"{what}: configuration")
    frozen = sha256(text)
    if tx.execute(select(trials.c.id).where(trials.c.id == trial_id)).one_or_none() is not None:
        known = read_trial(tx, trial_id)
        if (known.config_hash, known.challengers, known.salt) == (frozen, arms, salt):
            return frozen
        raise GateRefused(f"{what}: exists with another frozen configuration; open a new trial instead")
    _check_config(config, arms=arms, is_aa=is_aa, what=what)
    champion = _ready_to_meet(tx, challengers, surface=surface, is_aa=is_aa, offline_worse=offline_worse)
    _make_room(tx, surface, trial_id=trial_id, challengers=challengers, actor=actor, now=now)
    state = TrialState(mode.name)
    row = {
        "id": trial_id,
        "surface": surface,
        "state": state,
        "challenger": first.version,
        "challenger_digest": first.digest,
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
        "offline_worse": not is_aa and not all(each.offline_passed for each in challengers),
        "decided_by": "",
        "reason": "",
    }
    tx.execute(insert(trials).values(**row))
    for number, arm in enumerate(others, start=2):
        tx.execute(insert(further).values(trial=trial_id, number=number, **vars(arm)))
    quorum = {"quorum": quorum_of(config)}
    payload = {"trial": trial_id, "state": state, **trial_facts(row), "others": others_facts(others), **quorum}
    append_audit(tx, actor=actor, action="open_trial", subject=what, payload=payload, now=now)
    if mode is not TrialMode.COMPARE:
        append_stage(tx, trial_id, (), mode, share=at_first, actor=actor, reason="the trial's first stage", now=now)
    return frozen


def add_evidence(tx: Connection, trial_id: str, evidence: Mapping[str, Any], *, actor: str, now: datetime) -> str:
    """Record a look and take the step that its decision asks for. Recording the same look twice changes nothing."""
    what, decision = f"trial {trial_id}", str(evidence.get("decision"))
    if decision not in STATE_AFTER:
        raise UsageError(f"{what}: evidence decision = {decision!r}; one of {', '.join(STATE_AFTER)}")
    text = canonical_json(evidence, what=f"{what}: evidence")
    digest = sha256(text)
    trial = read_trial(tx, trial_id)
    if tx.execute(select(looks.c.number).where(looks.c.trial == trial_id, looks.c.sha256 == digest)).first():
        return digest
    if not trial.is_open:
        raise GateRefused(f"{what}: is {trial.state}, and takes no more evidence; open a new trial")
    check_alive(trial)
    named, newly_out = _check_arms(trial, evidence)
    if decision == "PROMOTE":
        _check_promote(trial, evidence, named=named, newly_out=newly_out)
    state = state_after(decision, trial.state)
    if state is TrialState.ABORTED and named not in newly_out and named.name not in trial.out:
        newly_out = (*newly_out, named)  # the bundle cannot come back, as one that a running trial rejects cannot
    check_step(trial, state)
    number = trial.looks + 1
    tx.execute(
        insert(looks).values(
            trial=trial_id, number=number, sha256=digest, decision=decision, recorded=stamp(now), evidence=text
        )
    )
    for arm in newly_out:
        tx.execute(insert(outs).values(trial=trial_id, name=arm.name, digest=arm.digest, look=number))
    changes: dict[str, Any] = {"state": state, "changed": stamp(now)}
    if state is TrialState.AWAIT_APPROVAL and trial.awaiting_since is None:
        changes["awaiting_since"] = stamp(now)
    if state not in OPEN_STATES:
        changes |= {"decided_by": actor, "reason": _ending(trial, evidence, number=number, decision=decision)}
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
        "challenger": named.name,
        "challenger_digest": named.digest,
        "out": [arm.name for arm in newly_out],
    }
    append_audit(tx, actor=actor, action="record_evidence", subject=what, payload=payload, now=now)
    return digest


def close_trial(
    tx: Connection, trial: TrialRecord, *, state: TrialState, actor: str, reason: str, now: datetime
) -> None:
    """End a trial without promoting: from the commit on, serving sends its challengers no user."""
    check_step(trial, state)
    tx.execute(
        update(trials)
        .where(trials.c.id == trial.id)
        .values(state=state, changed=stamp(now), decided_by=actor, reason=reason)
    )
    payload = {"trial": trial.id, "state": state, "was": trial.state, "reason": reason}
    append_audit(tx, actor=actor, action="close_trial", subject=f"trial {trial.id}", payload=payload, now=now)


def check_step(trial: TrialRecord, state: TrialState) -> None:
    """Raises GateRefused for a step that the states do not allow."""
    if state is not trial.state and not trial.state.may_become(state):
        raise GateRefused(f"trial {trial.id}: is {trial.state}, and no way leads from there to {state}")


def _arms(versions: Sequence[VersionRecord], *, is_aa: bool, what: str) -> tuple[ChallengerRecord, ...]:
    if not 1 <= len(versions) <= MOST_CHALLENGERS:
        raise UsageError(f"{what}: {len(versions)} challengers; at least 1, at most {MOST_CHALLENGERS}")
    if is_aa and len(versions) > 1:
        raise UsageError(f"{what}: an A/A trial has one challenger, the champion itself, not {len(versions)}")
    if len({version.digest for version in versions}) < len(versions):
        told = ", ".join(str(version.version) for version in versions)
        raise UsageError(f"{what}: challengers {told} repeat a bundle; name each once")
    return tuple(
        ChallengerRecord(CHALLENGER if place == 1 else f"{CHALLENGER}-{place}", version.version, version.digest)
        for place, version in enumerate(versions, start=1)
    )


def _check_config(config: Mapping[str, Any], *, arms: tuple[ChallengerRecord, ...], is_aa: bool, what: str) -> None:
    """What the configuration promises of the arms, where it does, must be what users will meet."""
    promised = {
        "challenger_version": arms[0].version,
        "challenger_digest": arms[0].digest,
        "others": others_facts(arms[1:]),
        "is_aa": is_aa,
    }
    for key, opened in promised.items():
        if key in config and config[key] != opened:
            raise UsageError(f"{what}: configuration says {key} = {config[key]!r}, the trial is opened with {opened!r}")


def _ready_to_meet(
    tx: Connection, versions: Sequence[VersionRecord], *, surface: str, is_aa: bool, offline_worse: bool
) -> Champion:
    champion = read_champion(tx, surface)
    if champion is None:
        raise GateRefused(
            f"version {versions[0].version}: there is no champion to meet on {surface!r}; bootstrap the first one"
        )
    if is_aa:
        if versions[0].digest != champion.digest:
            raise GateRefused(
                f"version {versions[0].version}: an A/A trial lets the champion meet itself, "
                f"which is version {champion.version}"
            )
        return champion
    for version in versions:
        _check_challenger(tx, version, champion=champion, surface=surface, offline_worse=offline_worse)
    return champion


def _check_challenger(
    tx: Connection, version: VersionRecord, *, champion: Champion, surface: str, offline_worse: bool
) -> None:
    name = f"version {version.version}"
    if champion.digest == version.digest:
        raise GateRefused(f"{name}: is the champion already; train a challenger first")
    if not version.offline_passed and not offline_worse:
        raise GateRefused(
            f"{name}: failed the offline check against the champion; "
            "only a simulation home may try it all the same, with --allow-offline-worse"
        )
    rejected = _rejected_in(tx, version.digest, surface=surface)
    if rejected is not None:
        raise GateRefused(f"{name}: the same bundle was rejected in trial {rejected}; train a new one on new data")


def _rejected_in(tx: Connection, digest: str, *, surface: str) -> str | None:
    """The trial that has rejected the bundle, as a whole or while it went on without it. An A/A trial rejects none."""
    mine = select(trials.c.id).where(
        trials.c.surface == surface, trials.c.challenger_digest != trials.c.champion_digest
    )
    refused = trials.c.state == TrialState.REJECTED
    for rejected in (
        mine.where(refused, trials.c.challenger_digest == digest),
        mine.where(refused).join(further, further.c.trial == trials.c.id).where(further.c.digest == digest),
        mine.join(outs, outs.c.trial == trials.c.id).where(outs.c.digest == digest),
    ):
        found: str | None = tx.execute(rejected.order_by(trials.c.opened)).scalars().first()
        if found is not None:
            return found
    return None


def _make_room(
    tx: Connection, surface: str, *, trial_id: str, challengers: Sequence[VersionRecord], actor: str, now: datetime
) -> None:
    """A surface has one trial: a running one and a watched promotion stay, one that waits makes way for newer ones."""
    broken = glass_in_force(tx, surface)
    if broken is not None:
        raise GateRefused(
            f"{surface!r}: break-glass {broken.number} has put version {broken.version} in charge, which no trial has "
            f"proven; end it first: `ratchet break-glass end {broken.number}`"
        )
    for watched in read_trials(tx, states=WATCHED_STATES, surface=surface):
        until = (
            f"is baking until {stamp(watched.bakes_until)}"
            if watched.bakes_until
            else f"is PROMOTING, and bakes for {watched.bake_hours:g} hours once serving is seen to serve it"
        )
        raise GateRefused(
            f"trial {watched.id}: its challenger was promoted on {surface!r} and {until}; "
            "wait for it, or bring the former champion back with `ratchet rollback`"
        )
    newest = max(version.version for version in challengers)
    for other in read_trials(tx, states=OPEN_STATES, surface=surface):
        if other.state is not TrialState.AWAIT_APPROVAL:
            raise GateRefused(f"trial {other.id}: is running on {surface!r}; wait for it, or stop it first")
        waiting = max(arm.version for arm in other.challengers)
        if newest <= waiting:
            raise GateRefused(
                f"trial {other.id}: waits for approval with version {waiting}, and version {newest} is not newer; "
                "approve or reject it first"
            )
        close_trial(tx, other, state=TrialState.STALE, actor=actor, reason=f"replaced by trial {trial_id}", now=now)


def _check_arms(
    trial: TrialRecord, evidence: Mapping[str, Any]
) -> tuple[ChallengerRecord, tuple[ChallengerRecord, ...]]:
    """The challenger that the look is about, and those that it rejects anew."""
    arms = {arm.name: arm for arm in trial.challengers}
    name, out = named_by(evidence), evidence.get("out", ())
    for key, stated in (("challenger", [name]), ("out", out)):
        unknown = [each for each in stated if each not in arms]
        if unknown:
            raise UsageError(f"trial {trial.id}: evidence {key} names {unknown[0]!r}; its arms are {', '.join(arms)}")
    return arms[name], tuple(arms[each] for each in dict.fromkeys(out) if each not in trial.out)


def _check_promote(
    trial: TrialRecord,
    evidence: Mapping[str, Any],
    *,
    named: ChallengerRecord,
    newly_out: Sequence[ChallengerRecord],
) -> None:
    """Raises GateRefused for what can promote nobody: see the messages."""
    what = f"trial {trial.id}"
    if trial.is_aa:
        raise GateRefused(f"{what}: the champion meets itself; an A/A trial never promotes")
    stage = str(evidence.get("stage", TrialMode.COMPARE))
    if trial.state not in (TrialState.COMPARE, TrialState.AWAIT_APPROVAL) or stage != TrialMode.COMPARE:
        at = trial.mode if stage == TrialMode.COMPARE else stage
        raise GateRefused(f"{what}: is at {at}; only a comparison can promote")
    if named.name in trial.out or named in newly_out:
        raise GateRefused(
            f"{what}: {named.name} (version {named.version}) was rejected by a look, and is promoted no more"
        )
    facts = {
        "config_hash": trial.config_hash,
        "champion_epoch": trial.champion_epoch,
        "champion_digest": trial.champion_digest,
        "challenger_digest": named.digest,
    }
    for key, mine in facts.items():
        if evidence.get(key, mine) != mine:
            raise GateRefused(f"{what}: evidence says {key} = {evidence[key]!r}, the trial has {mine!r}; look again")


def _ending(trial: TrialRecord, evidence: Mapping[str, Any], *, number: int, decision: str) -> str:
    found = ""
    if trial.is_aa and decision == "REJECT":
        found = (
            ": a difference between the champion and itself; mend the metric or the pipeline before trusting a trial"
        )
    elif trial.state is TrialState.AWAIT_APPROVAL and decision == "REJECT":
        said = evidence.get("reasons")
        first = f": {said[0]}" if isinstance(said, list | tuple) and said else ""
        found = f" while it waited for approval{first}; approvals given so far are void"
    return f"look {number}: {decision}{found}"
