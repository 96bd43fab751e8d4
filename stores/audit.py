"""The hash-chained record of every change to the ledger, and the proof that ledger and record agree.

Entry n: hash_n = SHA-256(canonical JSON of {number, time, actor, action, subject, payload, previous = hash_{n−1}}).
Changing, removing or inserting an entry breaks the chain from there on; changing a table without an entry, or
cutting entries off the end, makes the tables differ from what the record says of them.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select

from stores.audit_approvals import approval_problems
from stores.audit_break_glass import glass_problems
from stores.audit_differences import differing
from stores.audit_people import people_problems
from stores.audit_roles import role_problems
from stores.audit_trials import trial_problems
from stores.ledger_records import AuditEntry, canonical_json, sha256, stamp
from stores.ledger_tables import audits, champions, deltas, reigns, standings, versions

GENESIS = "0" * 64


def append_audit(
    tx: Connection, *, actor: str, action: str, subject: str, payload: Mapping[str, Any], now: datetime
) -> str:
    """Add a link, in the transaction of the change that it tells of. Returns its hash."""
    number = (tx.execute(select(func.max(audits.c.number))).scalar() or 0) + 1
    previous = tx.execute(select(audits.c.hash).where(audits.c.number == number - 1)).scalar() or GENESIS
    link: dict[str, Any] = {
        "number": number,
        "time": stamp(now),
        "actor": actor,
        "action": action,
        "subject": subject,
        "payload": dict(payload),
        "previous": previous,
    }
    digest = sha256(canonical_json(link, what=f"audit entry {number}"))
    text = canonical_json(payload, what=f"audit entry {number}")
    tx.execute(insert(audits).values(**{**link, "payload": text, "hash": digest}))
    return digest


def read_audit(tx: Connection) -> tuple[AuditEntry, ...]:
    rows = tx.execute(select(audits).order_by(audits.c.number))
    return tuple(AuditEntry(**{**row._mapping, "payload": json.loads(row.payload)}) for row in rows)


def find_problems(tx: Connection, *, roles_enforced: bool) -> list[str]:
    """Recompute everything that is hashed and replay the record against the tables; empty when all agree.

    `roles_enforced`: that whoever decided held the role for it is a rule here, as it is everywhere but in a simulation.
    """
    entries = read_audit(tx)
    people = (people_problems, approval_problems, glass_problems)
    replayed = (_champions, _versions, trial_problems, *people, _standings, _deltas)
    return [
        *_chain(entries),
        *(problem for replay in replayed for problem in replay(tx, entries)),
        *role_problems(entries, enforced=roles_enforced),
    ]


def _chain(entries: tuple[AuditEntry, ...]) -> list[str]:
    problems = []
    previous = GENESIS
    for expected, entry in enumerate(entries, start=1):
        if entry.number != expected:
            problems.append(f"audit entry {expected} is missing: entry {entry.number} stands in its place")
            break
        link = {
            "number": entry.number,
            "time": entry.time,
            "actor": entry.actor,
            "action": entry.action,
            "subject": entry.subject,
            "payload": entry.payload,
            "previous": entry.previous,
        }
        if entry.previous != previous:
            problems.append(f"audit entry {entry.number} does not follow entry {entry.number - 1}: the chain is cut")
        if sha256(canonical_json(link, what=f"audit entry {entry.number}")) != entry.hash:
            problems.append(
                f"audit entry {entry.number} ({entry.action} {entry.subject}) was changed after it was written"
            )
        previous = entry.hash
    return problems


def _champions(tx: Connection, entries: tuple[AuditEntry, ...]) -> list[str]:
    said: dict[str, dict[str, Any]] = {}
    epochs: dict[tuple[str, int], dict[str, Any]] = {}
    problems = []
    for entry in entries:
        reached = entry.payload.get("to")
        if reached is None:
            continue
        surface = str(entry.payload["surface"])
        before = said.get(surface, {}).get("epoch", 0)
        if reached["epoch"] != before + 1:
            problems.append(f"audit entry {entry.number}: epoch {before} of {surface!r} went to {reached['epoch']}")
        said[surface] = dict(reached)
        told = {"how": entry.action, "actor": entry.actor, "reason": entry.payload["reason"]}
        epochs[surface, reached["epoch"]] = {**reached, **told}
    named = ("version", "digest", "epoch")
    held = {row.surface: {n: row._mapping[n] for n in named} for row in tx.execute(select(champions))}
    problems += [
        f"champion of {surface!r} is {held.get(surface)}, the audit says {said.get(surface)}"
        for surface in sorted(held.keys() | said.keys())
        if held.get(surface) != said.get(surface)
    ]
    told_of = (*named, "how", "actor", "reason")
    kept = {(row.surface, row.epoch): {n: row._mapping[n] for n in told_of} for row in tx.execute(select(reigns))}
    problems += [
        f"history of {key[0]!r}, epoch {key[1]}: {kept.get(key)}, the audit says {epochs.get(key)}"
        for key in sorted(kept.keys() | epochs.keys())
        if kept.get(key) != epochs.get(key)
    ]
    return problems


def _standings(tx: Connection, entries: tuple[AuditEntry, ...]) -> list[str]:
    said: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if entry.action == "allow_deltas":
            said[entry.subject] = {**entry.payload, "ended": None, "ended_by": "", "ended_reason": ""}
        elif entry.action == "end_deltas":
            told = {"ended": entry.time, "ended_by": entry.actor, "ended_reason": entry.payload["reason"]}
            said[entry.subject] = said.get(entry.subject, {}) | told
    held = {
        f"standing approval {row.number}": {
            **standing_facts(row._mapping),
            **{name: row._mapping[name] for name in ("ended", "ended_by", "ended_reason")},
        }
        for row in tx.execute(select(standings))
    }
    return differing(held, said)


def standing_facts(row: Mapping[Any, Any]) -> dict[str, Any]:
    """What an audit entry says of a standing approval when it is granted: all of it."""
    named = ("number", "surface", "version", "base_digest", "champion_epoch", "recipe", "most_deltas", "most_rows")
    limits = ("most_relative_change", "least_overlap", "granted", "expires", "granted_by", "reason")
    return {name: row[name] for name in (*named, *limits)}


def _deltas(tx: Connection, entries: tuple[AuditEntry, ...]) -> list[str]:
    said = {
        f"delta {entry.payload['sequence']} of standing approval {entry.payload['standing']}": dict(entry.payload)
        for entry in entries
        if entry.action == "record_delta"
    }
    held = {
        f"delta {row.sequence} of standing approval {row.standing}": delta_facts_of(row._mapping)
        for row in tx.execute(select(deltas))
    }
    return differing(held, said)


def delta_facts_of(row: Mapping[Any, Any]) -> dict[str, Any]:
    """What an audit entry says of a delta: all of it."""
    named = ("standing", "sequence", "digest", "base_digest", "recipe", "rows", "bytes", "relative_change", "recorded")
    return {name: row[name] for name in named}


def _versions(tx: Connection, entries: tuple[AuditEntry, ...]) -> list[str]:
    said = {entry.subject: entry.payload for entry in entries if entry.action == "record_version"}
    held = {f"version {row.version}": version_facts(row._mapping) for row in tx.execute(select(versions))}
    return differing(held, said)


def version_facts(row: Mapping[Any, Any]) -> dict[str, Any]:
    """What an audit entry says of a version: all that the gate leans on."""
    named = ("version", "digest", "mode", "parent", "events_version", "items_version", "offline_passed", "submitter")
    return {name: row[name] for name in named}
