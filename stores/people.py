"""Who may decide: people, their roles, and the one way in which two spellings of a name are the same person.

Values and rules only; `people_ledger.py` changes them. Nothing here needs a password library.
"""

import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, select

from relations.errors import DependencyFailed, GateRefused, UsageError
from stores.ledger_tables import people

MOST_CHARACTERS = 100
MACHINES = ("gate", "training", "online", "schedule", "deployment")
"""Who acts where nobody is named. No person may have one of these names."""
_DEPLOYMENT = "deployment "
# Letters and marks that are drawn as nothing: with one of them, two names that look alike would be two people.
_BLANK_LETTERS = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


class Role(StrEnum):
    """What a person may do. None includes another; a person may have several."""

    SUBMITTER = "submitter"
    """Train, and open trials."""
    APPROVER = "approver"
    """Approve, reject, roll back, break the glass."""
    ADMIN = "admin"
    """Add people, give roles, forget users, roll back. Approves nothing."""


@dataclass(frozen=True)
class Person:
    """`name` is as recorded when the person was added. `disabled`: since when, for good or until enabled again."""

    name: str
    roles: frozenset[Role]
    created: datetime
    created_by: str
    disabled: datetime | None
    has_password: bool

    @property
    def key(self) -> str:
        return key_of(self.name)

    def has(self, *roles: Role) -> bool:
        """Whether this person may act now, with any of `roles`."""
        return self.disabled is None and not self.roles.isdisjoint(roles)

    def stated(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "name": self.name,
            "roles": sorted(self.roles),
            "created": self.created,
            "created_by": self.created_by,
            "disabled": self.disabled,
            "has_password": self.has_password,
        }


def key_of(name: str) -> str:
    """What all spellings of a name have in common: NFKC, case folded, blanks collapsed; of a key it is the key."""
    key = name
    while (folded := " ".join(unicodedata.normalize("NFKC", key).casefold().split())) != key:
        key = folded
    return key


def same_person(one: str, other: str) -> bool:
    """Whether two spellings name one person."""
    return key_of(one) == key_of(other)


def check_name(name: str) -> str:
    """The name as it is recorded: NFC, single blanks. Raises UsageError for one that nobody can have."""
    cleaned = re.sub(" +", " ", unicodedata.normalize("NFC", name)).strip(" ")
    if not 1 <= len(cleaned) <= MOST_CHARACTERS:
        raise UsageError(f"name {name[:40]!r}: {len(cleaned)} characters; a name has 1 to {MOST_CHARACTERS}")
    if not cleaned.isprintable() or _BLANK_LETTERS.search(cleaned):
        raise UsageError(f"name {name[:40]!a}: has characters that do not show, as direction marks; leave them out")
    if not any(character.isalnum() for character in cleaned):
        raise UsageError(f"name {name[:40]!r}: has no letter and no digit; write the person's name")
    key = key_of(cleaned)
    if key in MACHINES or key.startswith(_DEPLOYMENT):
        raise UsageError(f"name {name[:40]!r}: is kept for what acts by itself; write the person's name")
    return cleaned


def deployment_identity(name: str) -> str:
    """Who submits what a deployment trains. `name` is <flow>/<deployment>, of which only what shows is kept."""
    return _DEPLOYMENT + "".join(character if character.isprintable() else "\ufffd" for character in name)


def is_deployment(actor: str) -> bool:
    return key_of(actor).startswith(_DEPLOYMENT)


def check_may(tx: Connection, actor: str, *roles: Role, what: str, enforce: bool) -> None:
    """Raises GateRefused unless `actor` is a person in force with one of `roles`; of any role where none is named.

    `what` is what would be done, as `approve trial t1`. Without `enforce`, in a simulation, anybody may do anything.
    What acts by itself (GATE, deployments) is for the caller to let through.
    """
    if not enforce:
        return
    wanted = roles or tuple(Role)
    person = read_person(tx, actor)
    if person is not None and person.has(*wanted):
        return
    everybody = read_people(tx)
    if not any(each.has(Role.ADMIN) for each in everybody):
        raise GateRefused(f"{what}: nobody is known to this ledger; make the first admin: `ratchet people first NAME`")
    needed = " or ".join(wanted)
    if person is None:
        raise GateRefused(
            f"{what}: {actor[:MOST_CHARACTERS]!r} is not known to this ledger; "
            f"an admin adds people: `ratchet people add NAME --role {wanted[0]}`"
        )
    if person.disabled is not None:
        raise GateRefused(f"{what}: {person.name} was disabled at {person.disabled:%Y-%m-%d %H:%M} UTC; ask {needed}")
    others = [each.name for each in everybody if each.has(*wanted)]
    who = (
        f"ask {_few(others)}" if others else f"nobody has it: `ratchet people roles {person.name!r} --role {wanted[0]}`"
    )
    has = ", ".join(sorted(person.roles)) or "no role"
    raise GateRefused(f"{what}: needs role {needed}, and {person.name} has {has}; {who}")


def roles_text(roles: Iterable[Role]) -> str:
    """As the table and the record have them."""
    return json.dumps(sorted(roles))


def read_person(tx: Connection, name: str) -> Person | None:
    row = tx.execute(select(people).where(people.c.key == key_of(name))).one_or_none()
    return None if row is None else _person(row)


def read_people(tx: Connection) -> tuple[Person, ...]:
    """In the order in which they were added, disabled ones too."""
    return tuple(_person(row) for row in tx.execute(select(people).order_by(people.c.created, people.c.key)))


def _person(row: Row[Any]) -> Person:
    try:
        roles = frozenset(Role(role) for role in json.loads(row.roles))
    except (ValueError, TypeError) as error:
        raise DependencyFailed(
            f"ledger: roles of {row.key!r} are {row.roles[:80]!r}, written by no Ratchet; see `ratchet ledger verify`"
        ) from error
    return Person(
        name=row.name,
        roles=roles,
        created=datetime.fromisoformat(row.created),
        created_by=row.created_by,
        disabled=None if row.disabled is None else datetime.fromisoformat(row.disabled),
        has_password=bool(row.password),
    )


def _few(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:3])} or {len(names) - 3} more"
