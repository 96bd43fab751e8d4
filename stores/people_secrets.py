"""What proves who somebody is: tokens, sessions and one-time codes, each of 192 random bits.

Kept is the SHA-256, which is enough for what nobody can guess. A row is found by its id or by that hash, so that how
long it takes tells nothing of a secret. Every step is inside a ledger transaction.
"""

import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from relations.errors import UsageError
from stores.audit import append_audit
from stores.audit_people import token_facts
from stores.ledger_records import sha256, stamp, unstamp
from stores.ledger_tables import codes, people, sessions, tokens
from stores.people import Person, Role

BYTES = 24
MOST_LABEL = 100
CODE_LIFETIME = timedelta(minutes=10)
IDLE, SESSION_LIFETIME = timedelta(hours=8), timedelta(hours=24)
RENEWED_EVERY = timedelta(minutes=1)
STEPS: dict[str, tuple[Role, ...]] = {
    "approve": (Role.APPROVER,),
    "reject": (Role.APPROVER,),
    "rollback": (Role.APPROVER, Role.ADMIN),
}
"""What a one-time code may be for, and whose it may be."""
_TOKEN = re.compile(r"rt_([0-9a-f]{8})_([0-9a-f]{48})")
_NOBODYS = sha256("")


@dataclass(frozen=True)
class Token:
    """`id` is no secret. `person` is the name as recorded; `expires` None: never."""

    id: str
    person: str
    label: str
    created: datetime
    expires: datetime | None
    revoked: datetime | None

    def ended(self, now: datetime) -> str:
        """Why it is not in force; empty while it is."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else ""


def make_token(
    tx: Connection, person: Person, *, label: str, lifetime: timedelta | None, actor: str, now: datetime
) -> tuple[Token, str]:
    if len(label) > MOST_LABEL or not label.isprintable():
        raise UsageError(f"label {label[:40]!a}: at most {MOST_LABEL} printable characters")
    if lifetime is not None and lifetime <= timedelta(0):
        raise UsageError(f"token of {person.name}: would have expired already; give it more than 0 days")
    taken = set(tx.execute(select(tokens.c.id)).scalars())
    token_id = next(drawn for drawn in iter(lambda: secrets.token_hex(4), None) if drawn not in taken)
    secret = secrets.token_hex(BYTES)
    row = {
        "id": token_id,
        "person": person.key,
        "label": label,
        "secret_sha256": sha256(secret),
        "created": stamp(now),
        "expires": None if lifetime is None else stamp(now + lifetime),
        "revoked": None,
    }
    tx.execute(insert(tokens).values(**row))
    named = ("id", "person", "label", "expires", "secret")
    facts = {name: token_facts(row)[name] for name in named}
    append_audit(tx, actor=actor, action="issue_token", subject=f"token {token_id}", payload=facts, now=now)
    return read_token(tx, token_id), f"rt_{token_id}_{secret}"


def end_token(tx: Connection, token: Token, *, actor: str, now: datetime) -> Token:
    """One that is revoked stays as it is."""
    if token.revoked is not None:
        return token
    tx.execute(update(tokens).where(tokens.c.id == token.id).values(revoked=stamp(now)))
    facts = {"id": token.id}
    append_audit(tx, actor=actor, action="revoke_token", subject=f"token {token.id}", payload=facts, now=now)
    return read_token(tx, token.id)


def read_token(tx: Connection, token_id: str) -> Token:
    """Raises UsageError where there is none."""
    row = tx.execute(_TOKENS.where(tokens.c.id == token_id)).one_or_none()
    if row is None:
        raise UsageError(f"token {token_id[:40]!a}: there is none of this id; see `ratchet people list`")
    return _token(row)


def read_tokens(tx: Connection, key: str) -> tuple[Token, ...]:
    """One person's, oldest first, ended ones too."""
    return tuple(_token(row) for row in tx.execute(_TOKENS.where(tokens.c.person == key).order_by(tokens.c.created)))


def shown_token(tx: Connection, shown: str, *, now: datetime) -> Token:
    """The token in force that `shown` is. Raises UsageError, without repeating `shown`."""
    parts = _TOKEN.fullmatch(shown)
    token_id, secret = parts.groups() if parts else ("", "")
    kept = tx.execute(select(tokens.c.secret_sha256).where(tokens.c.id == token_id)).scalar_one_or_none()
    if not hmac.compare_digest(kept or _NOBODYS, sha256(secret)) or kept is None:
        raise UsageError("this is no token of this ledger; make one with `ratchet people token NAME`")
    token = read_token(tx, token_id)
    if ended := token.ended(now):
        when = stamp(token.revoked or token.expires or now)
        raise UsageError(f"token {token.id} of {token.person} {ended} at {when}; make one: `ratchet people token NAME`")
    return token


def make_session(tx: Connection, name: str, *, now: datetime) -> str:
    """Sweeps those that are over."""
    over = (sessions.c.expires <= stamp(now)) | (sessions.c.seen <= stamp(now - IDLE))
    tx.execute(delete(sessions).where(over))
    secret = secrets.token_hex(BYTES)
    tx.execute(
        insert(sessions).values(
            secret_sha256=sha256(secret),
            person=name,
            created=stamp(now),
            seen=stamp(now),
            expires=stamp(now + SESSION_LIFETIME),
        )
    )
    return secret


def read_session(tx: Connection, secret: str, *, now: datetime) -> Row[Any] | None:
    """Its row, while it is neither idle for too long nor too old."""
    row = tx.execute(select(sessions).where(sessions.c.secret_sha256 == sha256(secret))).one_or_none()
    over = row is None or unstamp(row.expires) <= now or unstamp(row.seen) + IDLE <= now
    return None if over else row


def renew_session(tx: Connection, secret: str, *, now: datetime) -> None:
    tx.execute(update(sessions).where(sessions.c.secret_sha256 == sha256(secret)).values(seen=stamp(now)))


def end_session(tx: Connection, secret: str) -> None:
    tx.execute(delete(sessions).where(sessions.c.secret_sha256 == sha256(secret)))


def check_step(step: str, subject: str) -> None:
    if step not in STEPS:
        raise UsageError(f"step {step[:40]!a}: a code is for one of {', '.join(STEPS)}")
    if bool(subject) == (step == "rollback"):
        raise UsageError(f"step {step}: {'names no trial' if subject else 'name the TRIAL that the code is for'}")


def make_code(tx: Connection, name: str, *, step: str, subject: str, evidence: str, now: datetime) -> str:
    """Sweeps those that are over for a day."""
    tx.execute(delete(codes).where(codes.c.expires <= stamp(now - timedelta(days=1))))
    secret = secrets.token_hex(BYTES)
    tx.execute(
        insert(codes).values(
            secret_sha256=sha256(secret),
            person=name,
            step=step,
            subject=subject,
            evidence=evidence,
            created=stamp(now),
            expires=stamp(now + CODE_LIFETIME),
            used=None,
        )
    )
    return f"rc_{secret}"


def use_code(tx: Connection, shown: str, *, step: str, subject: str, now: datetime) -> tuple[str, str]:
    """Whose code it is, and the evidence that it was made for. Only once: of two uses at once, one is refused.

    Raises UsageError without using it up where it is for something else.
    """
    kept = sha256(shown.strip().removeprefix("rc_"))
    row = tx.execute(select(codes).where(codes.c.secret_sha256 == kept)).one_or_none()
    again = f"make a new one: `ratchet people code {subject or '--step rollback'}`"
    if row is None:
        raise UsageError(f"this is no one-time code of this ledger; {again}")
    if (row.step, row.subject) != (step, subject):
        raise UsageError(
            f"this code is to {row.step} {row.subject}".rstrip() + f", not to {step} {subject}".rstrip() + f"; {again}"
        )
    if row.used is not None:
        raise UsageError(f"this code was used at {row.used}; {again}")
    if unstamp(row.expires) <= now:
        raise UsageError(f"this code expired at {row.expires}; {again}")
    unused = (codes.c.secret_sha256 == kept) & codes.c.used.is_(None)
    if tx.execute(update(codes).where(unused).values(used=stamp(now))).rowcount != 1:
        raise UsageError(f"this code was used just now; {again}")
    return row.person, row.evidence


_TOKENS = select(tokens, people.c.name).join(people, people.c.key == tokens.c.person)


def _token(row: Row[Any]) -> Token:
    return Token(
        id=row.id,
        person=row.name,
        label=row.label,
        created=unstamp(row.created),
        expires=None if row.expires is None else unstamp(row.expires),
        revoked=None if row.revoked is None else unstamp(row.revoked),
    )
