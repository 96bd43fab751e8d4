"""The people's part of the record, replayed: who may do what follows from audited changes alone.

A role, a password or a token that was written into the tables by hand is found here. No secret is in an entry, nor the
hash that a secret is checked against: only the hash of that hash.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, select

from stores.ledger_records import AuditEntry, sha256
from stores.ledger_tables import people, tokens

FINGERPRINT = "fingerprint:"
"""Begins what stands in a secret's place outside the ledger; no password and no token is checked against it."""
_OF_A_PERSON = ("set_roles", "set_password", "renew_password", "disable_person", "enable_person")


def people_problems(tx: Connection, entries: tuple[AuditEntry, ...]) -> list[str]:
    """Where the tables of people and tokens differ from the record, or the record from itself."""
    said: dict[str, dict[str, Any]] = {}
    issued: dict[str, dict[str, Any]] = {}
    problems = []
    for entry in entries:
        payload, key, token_id = entry.payload, str(entry.payload.get("key")), str(entry.payload.get("id"))
        match entry.action:
            case "add_person":
                if key in said:
                    problems.append(f"audit entry {entry.number}: {entry.subject} was added before")
                said[key] = _added(entry)
            case "issue_token":
                issued[token_id] = {**payload, "created": entry.time, "revoked": None}
            case "revoke_token" if token_id in issued:
                issued[token_id]["revoked"] = entry.time
            case action if action in _OF_A_PERSON and key in said:
                said[key] |= _changed(entry)
                if action == "disable_person":
                    _revoke_all(issued, key, entry.time)
            case action if action in (*_OF_A_PERSON, "revoke_token"):
                problems.append(f"audit entry {entry.number}: {action} of {entry.subject}, which was never there")
    held = {row.key: person_facts(row._mapping) for row in tx.execute(select(people))}
    kept = {row.id: token_facts(row._mapping) for row in tx.execute(select(tokens))}
    problems += _differing("person", held, said)
    return problems + _differing("token", kept, issued)


def person_facts(row: Mapping[Any, Any]) -> dict[str, Any]:
    """What the record says of a person: everything."""
    named = ("key", "name", "roles", "created", "created_by", "disabled", "disabled_by")
    return {**{name: row[name] for name in named}, "password": fingerprint(row["password"])}


def token_facts(row: Mapping[Any, Any]) -> dict[str, Any]:
    """What the record says of a token: everything."""
    same = {name: row[name] for name in ("id", "person", "label", "created", "expires", "revoked")}
    return {**same, "secret": fingerprint(row["secret_sha256"])}


def fingerprint(kept: str) -> str:
    """Tells two hashes apart and helps nobody to guess what is behind them; empty for none.

    What an export has in a secret's place is one already.
    """
    if kept.startswith(FINGERPRINT):
        return kept.removeprefix(FINGERPRINT)
    return sha256(kept) if kept else ""


def _added(entry: AuditEntry) -> dict[str, Any]:
    named = {name: entry.payload.get(name) for name in ("key", "name", "roles", "password")}
    return {**named, "created": entry.time, "created_by": entry.actor, "disabled": None, "disabled_by": ""}


def _changed(entry: AuditEntry) -> dict[str, Any]:
    match entry.action:
        case "set_roles":
            return {"roles": entry.payload.get("roles")}
        case "disable_person":
            return {"disabled": entry.time, "disabled_by": entry.actor, "password": ""}
        case "enable_person":
            return {"disabled": None, "disabled_by": ""}
        case _:
            return {"password": entry.payload.get("password")}


def _revoke_all(issued: Mapping[str, dict[str, Any]], key: str, time: str) -> None:
    for token in issued.values():
        if token.get("person") == key and token["revoked"] is None:
            token["revoked"] = time


def _differing(kind: str, held: Mapping[str, Mapping[str, Any]], said: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names what differs and not by what: a hash in a report would help nobody."""
    problems = []
    for key in sorted(held.keys() | said.keys()):
        row, told = held.get(key), said.get(key)
        if row is None or told is None:
            where = "in the ledger, and not in the audit" if told is None else "in the audit, and gone from the ledger"
            problems.append(f"{kind} {key}: {where}")
        elif differing := [name for name in row if row[name] != told.get(name)]:
            problems.append(f"{kind} {key}: {', '.join(differing)} not as the audit has it")
    return problems
