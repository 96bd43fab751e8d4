"""The approvals' part of the record, replayed: that enough people, each another one and none of them the submitter,
approved the very look that a promotion stands on, and that the table says the same.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, select

from stores.audit_differences import differing
from stores.ledger_records import AuditEntry, quorum_of
from stores.ledger_tables import approvals, trials
from stores.people import key_of, same_person

_Look = tuple[str, str]
"""Trial and the look's SHA-256."""


def approval_problems(tx: Connection, entries: tuple[AuditEntry, ...]) -> list[str]:
    """Where the record breaks the approvals' rules, or the table differs from it."""
    configured = {row.id: quorum_of(json.loads(row.config)) for row in tx.execute(select(trials.c.id, trials.c.config))}
    replayed, problems = _Replayed(), []
    for entry in entries:
        problems += [f"audit entry {entry.number}: {told}" for told in replayed.follow(entry, configured)]
    held = {
        _name((row.trial, row.evidence), row.person): {"name": row.name, "reason": row.reason, "given": row.given}
        for row in tx.execute(select(approvals))
    }
    said = {_name(look, key): given for look, people in replayed.given.items() for key, given in people.items()}
    return [*problems, *differing(held, said)]


@dataclass
class _Replayed:
    """What the entries so far say."""

    given: dict[_Look, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Look → person's key → the approval."""
    newest: dict[str, str] = field(default_factory=dict)
    """Trial → its newest look."""
    opened: dict[str, AuditEntry] = field(default_factory=dict)
    trained: dict[str, str] = field(default_factory=dict)
    """Digest → who had it trained."""

    def follow(self, entry: AuditEntry, configured: dict[str, int]) -> list[str]:
        """Take the entry's step; returns what is wrong with it."""
        payload = entry.payload
        match entry.action:
            case "record_version":
                self.trained[payload["digest"]] = payload.get("submitter", "")
            case "open_trial":
                self.opened[payload["trial"]] = entry
                stated = payload.get("quorum")
                if stated not in (None, configured.get(payload["trial"], stated)):
                    return [f"trial {payload['trial']}: opened for {stated} approvals, its configuration needs others"]
            case "record_evidence":
                self.newest[payload["trial"]] = payload["evidence"]
            case "approve":
                return self._approve(entry)
            case "promote":
                return self._promote(entry, configured)
        return []

    def _approve(self, entry: AuditEntry) -> list[str]:
        trial, evidence, key = entry.payload["trial"], entry.payload["evidence"], key_of(entry.actor)
        people = self.given.setdefault((trial, evidence), {})
        rules = {
            "of a look that is not the newest": self.newest.get(trial) != evidence,
            "a second time": key in people,
            "by its submitter": same_person(entry.actor, self._submitter(trial)),
        }
        people[key] = {"name": entry.actor, "reason": entry.payload["reason"], "given": entry.time}
        return [f"trial {trial}: {entry.actor} approved {rule}" for rule, broken in rules.items() if broken]

    def _promote(self, entry: AuditEntry, configured: dict[str, int]) -> list[str]:
        payload, trial = entry.payload, entry.payload["trial"]
        opening = self.opened.get(trial)
        if "approvers" not in payload:  # of before schema 5, where one person's was enough
            late = opening is not None and "quorum" in opening.payload
            return [f"trial {trial}: promote without its approvers"] if late else []
        quorum = configured.get(trial, 1)
        people = self.given.setdefault((trial, payload["evidence"]), {})
        last = {"name": entry.actor, "reason": payload["reason"], "given": entry.time}
        people.setdefault(key_of(entry.actor), last)
        named = {key_of(name) for name in payload["approvers"]}
        submitters = (self._submitter(trial), self.trained.get(payload["to"]["digest"], ""))
        rules = {
            f"by {len(named)} of {quorum} people": len(named) < quorum,
            f"for a quorum of {payload['quorum']}": payload["quorum"] != quorum,
            "by people who did not approve its look": not named <= people.keys(),
            "by another than those who approved": key_of(entry.actor) not in named,
            "by its submitter": any(same_person(each, name) for each in payload["approvers"] for name in submitters),
        }
        self.given[trial, payload["evidence"]] = {key: people[key] for key in people if key in named}
        return [f"trial {trial}: promote {rule}" for rule, broken in rules.items() if broken]

    def _submitter(self, trial: str) -> str:
        opening = self.opened.get(trial)
        return "" if opening is None else str(opening.payload["submitter"])


def _name(look: _Look, person: str) -> str:
    trial, evidence = look
    return f"approval of trial {trial}, look {evidence[:12]}…, by {person!r}"
