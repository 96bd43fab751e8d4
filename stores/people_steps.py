"""How people change, each step inside one ledger transaction together with its audit entry, which has no secret."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from relations.errors import GateRefused, UsageError
from stores.audit import append_audit
from stores.audit_people import fingerprint
from stores.ledger_records import stamp
from stores.ledger_tables import codes, people, sessions, tokens
from stores.people import Person, Role, check_may, check_name, key_of, read_people, read_person, roles_text, same_person


def check_roles(roles: frozenset[Role], *, name: str) -> None:
    if not roles:
        raise UsageError(f"person {name!r}: name at least one role of {', '.join(Role)}; who leaves is disabled")


def known(tx: Connection, name: str) -> Person:
    """Raises UsageError for who is not there, or was disabled."""
    person = read_person(tx, name)
    if person is None:
        raise UsageError(f"{name[:40]!r}: is not known to this ledger; see `ratchet people list`")
    if person.disabled is not None:
        raise UsageError(
            f"{person.name}: was disabled at {stamp(person.disabled)}; `ratchet people enable` lets them come back"
        )
    return person


def check_self_or_admin(tx: Connection, actor: str, person: Person, *, what: str, enforce: bool) -> None:
    wanted = tuple(Role) if same_person(actor, person.name) else (Role.ADMIN,)
    check_may(tx, actor, *wanted, what=what, enforce=enforce)


def enter_person(
    tx: Connection, name: str, *, roles: frozenset[Role], password: str, actor: str, now: datetime
) -> Person:
    """`password`: its hash; empty for none. Raises UsageError for a name that somebody has, disabled or not."""
    cleaned = check_name(name)
    present = read_person(tx, cleaned)
    if present is not None:
        then = "add a number to tell two people apart" if present.disabled is None else "`ratchet people enable` it"
        raise UsageError(f"person {cleaned!r}: is there already as {present.name!r}; {then}")
    facts = {"key": key_of(cleaned), "name": cleaned, "roles": roles_text(roles)}
    row = {"created": stamp(now), "created_by": actor, "disabled": None, "disabled_by": "", "password": password}
    tx.execute(insert(people).values(**facts, **row))
    _record(tx, "add_person", cleaned, {**facts, "password": fingerprint(password)}, actor=actor, now=now)
    return _there(tx, cleaned)


def change_roles(tx: Connection, person: Person, *, roles: frozenset[Role], actor: str, now: datetime) -> Person:
    """The same roles again change nothing; others end the person's sessions."""
    if roles == person.roles:
        return person
    if Role.ADMIN not in roles:
        _check_not_last(tx, person, what="give up the role")
    facts = {"key": person.key, "roles": roles_text(roles)}
    _update(tx, person, roles=facts["roles"])
    end_sessions(tx, person.name)
    _record(tx, "set_roles", person.name, facts, actor=actor, now=now)
    return _there(tx, person.name)


def change_password(
    tx: Connection, person: Person, password: str, *, actor: str, now: datetime, action: str = "set_password"
) -> Person:
    """`password`: its hash. Ends the person's sessions, unless it is the same password, kept in a newer form."""
    _update(tx, person, password=password)
    if action == "set_password":
        end_sessions(tx, person.name)
    facts = {"key": person.key, "password": fingerprint(password)}
    _record(tx, action, person.name, facts, actor=actor, now=now)
    return _there(tx, person.name)


def disable(tx: Connection, person: Person, *, actor: str, reason: str, now: datetime) -> Person:
    """Everything that would let the person in ends with it, for good: password, tokens, sessions, codes."""
    _check_not_last(tx, person, what="be disabled")
    _update(tx, person, password="", disabled=stamp(now), disabled_by=actor)
    mine = (tokens.c.person == person.key) & tokens.c.revoked.is_(None)
    tx.execute(update(tokens).where(mine).values(revoked=stamp(now)))
    tx.execute(delete(codes).where((codes.c.person == person.name) & codes.c.used.is_(None)))
    end_sessions(tx, person.name)
    _record(tx, "disable_person", person.name, {"key": person.key, "reason": reason}, actor=actor, now=now)
    return _there(tx, person.name)


def enable(tx: Connection, person: Person, *, actor: str, reason: str, now: datetime) -> Person:
    """With the roles of before, and no way in until a password is set or a token made."""
    _update(tx, person, disabled=None, disabled_by="")
    _record(tx, "enable_person", person.name, {"key": person.key, "reason": reason}, actor=actor, now=now)
    return _there(tx, person.name)


def end_sessions(tx: Connection, name: str) -> None:
    tx.execute(delete(sessions).where(sessions.c.person == name))


def password_hash(tx: Connection, name: str) -> str:
    """Of a person in force; empty for anybody else."""
    named = (people.c.key == key_of(name)) & people.c.disabled.is_(None)
    return tx.execute(select(people.c.password).where(named)).scalar_one_or_none() or ""


def _check_not_last(tx: Connection, person: Person, *, what: str) -> None:
    others = [each for each in read_people(tx) if each.has(Role.ADMIN) and each.key != person.key]
    if person.has(Role.ADMIN) and not others:
        raise GateRefused(
            f"{person.name}: is the only admin and cannot {what}; make another one first: "
            "`ratchet people roles NAME --role admin`"
        )


def _update(tx: Connection, person: Person, **values: Any) -> None:
    tx.execute(update(people).where(people.c.key == person.key).values(**values))


def _record(tx: Connection, action: str, name: str, payload: Mapping[str, Any], *, actor: str, now: datetime) -> None:
    append_audit(tx, actor=actor, action=action, subject=f"person {name}", payload=payload, now=now)


def _there(tx: Connection, name: str) -> Person:
    person = read_person(tx, name)
    assert person is not None
    return person
