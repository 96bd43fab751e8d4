"""Trials as the ledger's tables hold them, read inside a transaction.

A trial has hundreds of looks of tens of kilobytes, and status pages, servers and flows ask every second: what needs no
more than the newest look reads no more.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, Table, func, select

from gate.states import OPEN_STATES, TrialMode, TrialState
from relations.errors import UsageError
from stores.ledger_records import ApprovalRecord, ChallengerRecord, EvidenceRecord, StageRecord, TrialRecord, unstamp
from stores.ledger_tables import approvals, challengers, outs, stages, trials
from stores.ledger_tables import evidence as looks
from stores.serving_records import ServingTrial


def read_trial(tx: Connection, trial_id: str, *, all_looks: bool = False) -> TrialRecord:
    """With its newest look, or all of them. Raises UsageError for an unknown one."""
    found = _records(tx, select(trials).where(trials.c.id == trial_id), all_looks=all_looks)
    if not found:
        raise UsageError(f"trial {trial_id!r}: no such trial; list them with `ratchet trial status`")
    return found[0]


def read_trials(
    tx: Connection, *, states: Sequence[TrialState] = tuple(TrialState), surface: str | None = None
) -> tuple[TrialRecord, ...]:
    """Those in one of `states`, in the order of their opening, each with its newest look."""
    wanted = select(trials).where(trials.c.state.in_(states))
    return _records(tx, wanted if surface is None else wanted.where(trials.c.surface == surface), all_looks=False)


def serving_trial(tx: Connection, surface: str) -> ServingTrial | None:
    """What serving must know of the surface's open trial: short rows, and no evidence."""
    mine = select(trials).where(trials.c.surface == surface, trials.c.state.in_(OPEN_STATES))
    row = tx.execute(mine).one_or_none()
    if row is None:
        return None
    one = select(trials.c.id).where(trials.c.id == row.id)
    passed = [stage_record(each._mapping) for each in _parts(tx, stages, one, by="number").get(row.id, ())]
    return ServingTrial(
        id=row.id,
        challenger_version=row.challenger,
        challenger_digest=row.challenger_digest,
        champion_epoch=row.champion_epoch,
        salt=row.salt,
        allocation=passed[-1].allocation if passed else row.allocation,
        mode=passed[-1].mode if passed else TrialMode.COMPARE,
        compared=row.allocation,
        canary=max((stage.allocation for stage in passed if stage.mode is TrialMode.CANARY), default=0.0),
        others=_others(_parts(tx, challengers, one, by="number").get(row.id, ())),
        out=tuple(each.name for each in _parts(tx, outs, one, by="look").get(row.id, ())),
    )


def held_since(tx: Connection, trial_id: str) -> datetime | None:
    """The first of the unbroken row of HOLDs that the newest look ends; None where that was no HOLD."""
    mine = looks.c.trial == trial_id
    other = select(func.coalesce(func.max(looks.c.number), 0)).where(mine, looks.c.decision != "HOLD")
    first = select(func.min(looks.c.recorded)).where(mine, looks.c.number > other.scalar_subquery())
    recorded = tx.execute(first).scalar()
    return None if recorded is None else unstamp(recorded)


def stage_record(row: Mapping[Any, Any]) -> StageRecord:
    return StageRecord(**dict(row) | {"mode": TrialMode(row["mode"]), "since": unstamp(row["since"])})


def _records(tx: Connection, wanted: Select[Any], *, all_looks: bool) -> tuple[TrialRecord, ...]:
    ids = wanted.with_only_columns(trials.c.id)
    newest = (
        select(looks.c.trial, func.max(looks.c.number).label("number"), func.count().label("looks"))
        .where(looks.c.trial.in_(ids))
        .group_by(looks.c.trial)
    )
    counted = {row.trial: row.looks for row in tx.execute(newest)}
    last = newest.subquery()
    told = select(looks).where(looks.c.trial.in_(ids))
    if not all_looks:
        told = told.join(last, (looks.c.trial == last.c.trial) & (looks.c.number == last.c.number))
    evidence: dict[str, list[EvidenceRecord]] = {}
    for row in tx.execute(told.order_by(looks.c.trial, looks.c.number)):
        look = EvidenceRecord(row.number, row.sha256, row.decision, unstamp(row.recorded), json.loads(row.evidence))
        evidence.setdefault(row.trial, []).append(look)
    passed = _parts(tx, stages, ids, by="number")
    further = _parts(tx, challengers, ids, by="number")
    out = _parts(tx, outs, ids, by="look")
    given = _parts(tx, approvals, ids, by="given")
    return tuple(
        TrialRecord(
            **dict(row._mapping)
            | {
                "state": TrialState(row.state),
                "config": json.loads(row.config),
                "opened": unstamp(row.opened),
                "changed": unstamp(row.changed),
                "awaiting_since": None if row.awaiting_since is None else unstamp(row.awaiting_since),
                "others": _others(further.get(row.id, ())),
                "out": tuple(each.name for each in out.get(row.id, ())),
                "looks": counted.get(row.id, 0),
                "evidence": tuple(evidence.get(row.id, ())),
                "stages": tuple(stage_record(each._mapping) for each in passed.get(row.id, ())),
                "approvals": _approvals(given.get(row.id, ()), evidence.get(row.id, ())),
            }
        )
        for row in tx.execute(wanted.order_by(trials.c.opened, trials.c.id))
    )


def _parts(tx: Connection, table: Table, ids: Select[Any], *, by: str) -> dict[str, list[Row[Any]]]:
    """Rows of `table` by their trial, in the order of column `by`."""
    found: dict[str, list[Row[Any]]] = {}
    for row in tx.execute(select(table).where(table.c.trial.in_(ids)).order_by(table.c[by], *table.primary_key)):
        found.setdefault(row.trial, []).append(row)
    return found


def _approvals(rows: Sequence[Row[Any]], looks: Sequence[EvidenceRecord]) -> tuple[ApprovalRecord, ...]:
    newest = looks[-1].sha256 if looks else ""
    return tuple(
        ApprovalRecord(row.name, row.evidence, row.reason, unstamp(row.given)) for row in rows if row.evidence == newest
    )


def _others(rows: Sequence[Row[Any]]) -> tuple[ChallengerRecord, ...]:
    return tuple(ChallengerRecord(row.name, row.version, row.digest) for row in rows)
