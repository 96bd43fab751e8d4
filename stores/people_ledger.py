"""The ledger's side of people: who they are, how they prove it, and what they may."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta

from sqlalchemy import Connection

from relations.errors import DependencyFailed, GateRefused, UsageError
from stores import people_secrets as proofs
from stores import people_steps as steps
from stores.ledger_database import Database
from stores.ledger_records import unstamp
from stores.passwords import check_password, hash_password, is_outdated, matches
from stores.people import Person, Role, check_may, check_name, read_people, read_person
from stores.people_secrets import Token


class PeopleLedger:
    """Each method is one transaction, as in `Ledger`, which this is a part of.

    `now` is the wall clock here, in a simulation too: a secret is as old as it is. Changes are on the record and need
    the role, or the person's own hand; that `actor` is who it says is for the edges to see to.
    """

    _database: Database
    _enforce_roles: bool

    # People

    def people(self) -> tuple[Person, ...]:
        """In the order in which they were added, disabled ones too."""
        with self._database.read() as tx:
            return read_people(tx)

    def person(self, name: str) -> Person | None:
        with self._database.read() as tx:
            return read_person(tx, name)

    def check_may(self, actor: str, *roles: Role, what: str) -> None:
        """For acts that no transaction of the ledger is part of. Raises GateRefused, see `people.check_may`."""
        with self._database.read() as tx:
            check_may(tx, actor, *roles, what=what, enforce=self._enforce_roles)

    def add_first_admin(
        self, name: str, *, password: str | None, now: datetime, roles: frozenset[Role] = frozenset(Role)
    ) -> Person:
        """By their own word, while nobody can administer: of two at once, one. Raises GateRefused afterwards."""
        kept = "" if password is None else _hashed(password, name=check_name(name))
        with self._database.write() as tx:
            admins = [each.name for each in read_people(tx) if each.has(Role.ADMIN)]
            if admins:
                raise GateRefused(f"person {name[:40]!a}: {admins[0]} is admin already, and can add people")
            return steps.enter_person(
                tx, name, roles=roles | {Role.ADMIN}, password=kept, actor=check_name(name), now=now
            )

    def add_person(
        self, name: str, *, roles: frozenset[Role], password: str | None, actor: str, now: datetime
    ) -> Person:
        """Without a password the person has tokens only. Raises UsageError for a name that somebody has."""
        steps.check_roles(roles, name=name)
        kept = "" if password is None else _hashed(password, name=check_name(name))
        with self._database.write() as tx:
            check_may(tx, actor, Role.ADMIN, what=f"add person {name[:40]!a}", enforce=self._enforce_roles)
            return steps.enter_person(tx, name, roles=roles, password=kept, actor=actor, now=now)

    def set_roles(self, name: str, *, roles: frozenset[Role], actor: str, now: datetime) -> Person:
        """These and no others. The person's sessions end. Refuses to leave nobody who can administer."""
        steps.check_roles(roles, name=name)
        with self._database.write() as tx:
            person = steps.known(tx, name)
            check_may(tx, actor, Role.ADMIN, what=f"roles of {person.name}", enforce=self._enforce_roles)
            return steps.change_roles(tx, person, roles=roles, actor=actor, now=now)

    def set_password(self, name: str, password: str, *, actor: str, now: datetime) -> Person:
        """One's own, or an admin anybody's. The person's sessions end, tokens stay."""
        kept = _hashed(password, name=name)
        with self._database.write() as tx:
            person = steps.known(tx, name)
            what = f"password of {person.name}"
            steps.check_self_or_admin(tx, actor, person, what=what, enforce=self._enforce_roles)
            return steps.change_password(tx, person, kept, actor=actor, now=now)

    def disable_person(self, name: str, *, actor: str, reason: str, now: datetime) -> Person:
        """Nothing lets the person in any more: password, tokens, sessions and codes end, for good. Twice is once.

        Refuses to leave nobody who can administer.
        """
        if not reason.strip():
            raise UsageError(f"person {name[:40]!a}: why? Give a --reason")
        with self._database.write() as tx:
            check_may(tx, actor, Role.ADMIN, what=f"disable {name[:40]!a}", enforce=self._enforce_roles)
            present = read_person(tx, name)
            if present is not None and present.disabled is not None:
                return present
            return steps.disable(tx, steps.known(tx, name), actor=actor, reason=reason, now=now)

    def enable_person(self, name: str, *, actor: str, reason: str, now: datetime) -> Person:
        """Takes a disabling back: the roles of before, and no password and no token yet."""
        if not reason.strip():
            raise UsageError(f"person {name[:40]!a}: why? Give a --reason")
        with self._database.write() as tx:
            check_may(tx, actor, Role.ADMIN, what=f"enable {name[:40]!a}", enforce=self._enforce_roles)
            present = read_person(tx, name)
            if present is None or present.disabled is None:
                return steps.known(tx, name)
            return steps.enable(tx, present, actor=actor, reason=reason, now=now)

    # Tokens

    def issue_token(
        self, name: str, *, label: str, lifetime: timedelta | None, actor: str, now: datetime
    ) -> tuple[Token, str]:
        """For oneself, or by an admin. With it the whole of it, `rt_<id>_<secret>`, which is nowhere else.

        `lifetime` None: until it is revoked.
        """
        with self._database.write() as tx:
            person = steps.known(tx, name)
            what = f"token of {person.name}"
            steps.check_self_or_admin(tx, actor, person, what=what, enforce=self._enforce_roles)
            return proofs.make_token(tx, person, label=label, lifetime=lifetime, actor=actor, now=now)

    def revoke_token(self, token_id: str, *, actor: str, now: datetime) -> Token:
        """One's own, or an admin anybody's. Twice is once."""
        with self._database.write() as tx:
            token = proofs.read_token(tx, token_id)
            owner = read_person(tx, token.person)
            assert owner is not None  # a token's row is joined with its person's
            what = f"token {token.id} of {token.person}"
            steps.check_self_or_admin(tx, actor, owner, what=what, enforce=self._enforce_roles)
            return proofs.end_token(tx, token, actor=actor, now=now)

    def tokens(self, name: str) -> tuple[Token, ...]:
        """Oldest first, ended ones too; without their secrets, which nobody has."""
        with self._database.read() as tx:
            person = read_person(tx, name)
            return () if person is None else proofs.read_tokens(tx, person.key)

    def who_is(self, shown: str, *, now: datetime) -> Person:
        """Whose token this is. Raises UsageError for one that is none, expired, revoked, or a disabled person's."""
        with self._database.read() as tx:
            return steps.known(tx, proofs.shown_token(tx, shown, now=now).person)

    # The console's sessions

    def sign_in(self, name: str, password: str, *, now: datetime) -> str:
        """A session's secret. Raises UsageError, with the same words and after the same work, whether there is no
        such person, none with a password, or the password is wrong. How often one may try is for the console to see
        to: `stores.sign_in_brake`.
        """
        with self._proven(name, password, now=now) as (tx, person):
            return proofs.make_session(tx, person.name, now=now)

    def who_knows(self, name: str, password: str, *, now: datetime) -> Person:
        """The person, in force, whose password this is. Raises as `sign_in`."""
        with self._proven(name, password, now=now) as (_, person):
            return person

    @contextmanager
    def _proven(self, name: str, password: str, *, now: datetime) -> Iterator[tuple[Connection, Person]]:
        with self._database.read() as tx:
            kept = steps.password_hash(tx, name)
        if not matches(kept, password):
            raise UsageError("name or password is wrong")
        renewed = hash_password(password) if is_outdated(kept) else ""
        with self._database.write() as tx:
            if steps.password_hash(tx, name) != kept:
                raise UsageError("name or password is wrong")  # it was changed while this one was checked
            person = steps.known(tx, name)
            if renewed:
                steps.change_password(tx, person, renewed, actor=person.name, now=now, action="renew_password")
            yield tx, person

    def open_session(self, name: str, *, now: datetime) -> str:
        """In a simulation home, where a name is enough. Raises GateRefused elsewhere."""
        if self._enforce_roles:
            raise GateRefused(f"session of {name[:40]!a}: signing in without a password is for simulation homes only")
        cleaned = check_name(name)
        with self._database.write() as tx:
            return proofs.make_session(tx, cleaned, now=now)

    def session(self, secret: str, *, now: datetime) -> Person | None:
        """Whose session this is; None once it is over: idle for 8 hours, 24 hours old, signed out, or ended because
        the person was disabled or their password or roles have changed.
        """
        with self._database.read() as tx:
            row = proofs.read_session(tx, secret, now=now)
            person = None if row is None else self._actor(read_person(tx, row.person), row.person, now=now)
        if row is None or person is None:
            return None
        if unstamp(row.seen) + proofs.RENEWED_EVERY <= now:
            # A ledger that can be read and not written, with a full disk, must still be there to be looked at.
            with suppress(DependencyFailed), self._database.write() as tx:
                proofs.renew_session(tx, secret, now=now)
        return person

    def sign_out(self, secret: str) -> None:
        with self._database.write() as tx:
            proofs.end_session(tx, secret)

    # One-time codes

    def issue_code(self, name: str, *, step: str, subject: str, evidence: str, now: datetime) -> str:
        """A code for one step of one person within 10 minutes, to be typed where a token would be kept.

        `subject`: the trial; empty for a rollback. `evidence`: SHA-256 of the look that the person has seen.
        """
        proofs.check_step(step, subject)
        with self._database.write() as tx:
            what = f"{step} {subject}".rstrip()
            check_may(tx, name, *proofs.STEPS[step], what=what, enforce=self._enforce_roles)
            person = read_person(tx, name)
            who = check_name(name) if person is None else person.name
            return proofs.make_code(tx, who, step=step, subject=subject, evidence=evidence, now=now)

    def redeem_code(self, shown: str, *, step: str, subject: str, now: datetime) -> tuple[Person, str]:
        """Whose code it is, and the evidence that it was made for; once. Raises UsageError for one that is none,
        expired, used, for another step or trial, or of a person who was disabled since.
        """
        with self._database.write() as tx:
            name, evidence = proofs.use_code(tx, shown, step=step, subject=subject, now=now)
            person = self._actor(read_person(tx, name), name, now=now)
            return person or steps.known(tx, name), evidence

    def _actor(self, person: Person | None, name: str, *, now: datetime) -> Person | None:
        """In a simulation anybody, with every role; elsewhere a person in force."""
        if person is None and not self._enforce_roles:
            return Person(name, frozenset(Role), now, name, None, has_password=False)
        return None if person is None or person.disabled is not None else person


def _hashed(password: str, *, name: str) -> str:
    check_password(password, name=name)
    return hash_password(password)
