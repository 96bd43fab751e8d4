"""The roles' part of the record, replayed: whoever decided held the role that it takes, at that very entry, and nobody
decided about work of their own. And what is for simulations alone was done in none other: a trial of a challenger that
failed the offline check.

Who is known, with which roles, and who is disabled follows from the entries before, as it did when the entry was made.
Entries from before the ledger knew people (schemas 1 to 4) are as they are, and so are those that any hand may make: a
kill, which only takes away and must be possible while the ledger is down, and what has trained, looked or learned.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise

from gate.states import TrialState
from stores.ledger_records import GATE, AuditEntry
from stores.people import MACHINES, Role, is_deployment, key_of, same_person

_SINCE_PEOPLE = ("add_person", "approve", "ask_break_glass", "break_glass")


@dataclass(frozen=True)
class _Rule:
    """Whose entry it may be: a person's in force with one of `roles`, the gate's or a deployment's where it says so."""

    roles: tuple[Role, ...]
    gate: bool = False
    deployments: bool = False


_ANYBODY = tuple(Role)
_APPROVER = _Rule((Role.APPROVER,))
_WATCH = _Rule((Role.APPROVER,), gate=True)
_BACK = _Rule((Role.APPROVER, Role.ADMIN), gate=True)
_OPENING = _Rule((Role.SUBMITTER,), deployments=True)
_ADMIN = _Rule((Role.ADMIN,))
_RULES: Mapping[str, _Rule] = {
    "bootstrap": _APPROVER,
    "open_trial": _OPENING,
    "set_stage": _Rule(_ANYBODY, gate=True),
    "approve": _APPROVER,
    "promote": _APPROVER,
    "begin_bake": _WATCH,
    "end_bake": _WATCH,
    "rollback": _BACK,
    "ask_break_glass": _APPROVER,
    "break_glass": _APPROVER,
    "allow_deltas": _APPROVER,
    "end_deltas": _Rule(_ANYBODY, gate=True),
    "add_person": _ADMIN,
    "set_roles": _ADMIN,
    "disable_person": _ADMIN,
    "enable_person": _ADMIN,
}
_ENDINGS: Mapping[str, _Rule] = {
    TrialState.REJECTED: _APPROVER,
    TrialState.ABORTED: _Rule((Role.SUBMITTER, Role.APPROVER)),
    TrialState.STALE: _BACK,
    TrialState.ROLLED_BACK: _BACK,
}
_KILLED = _Rule((Role.SUBMITTER, Role.APPROVER), gate=True)
"""Ending a trial that was killed: the gate does it where somebody approves."""
_GATE_ALONE = _Rule((), gate=True)


def role_problems(entries: tuple[AuditEntry, ...], *, enforced: bool) -> list[str]:
    """Where somebody decided who might not. `enforced`: roles were asked for, as everywhere but in a simulation."""
    replayed = _Replayed(enforced)
    return [told for entry, then in pairwise(chain(entries, (None,))) if entry for told in replayed.follow(entry, then)]


@dataclass(frozen=True)
class _Known:
    """A person as the entries so far have them."""

    roles: frozenset[str] = frozenset()
    disabled: str = ""
    """Since when."""

    @property
    def administers(self) -> bool:
        return not self.disabled and Role.ADMIN in self.roles

    def told(self) -> str:
        has = ", ".join(sorted(self.roles)) or "no role"
        return f"was disabled since {self.disabled} (with {has})" if self.disabled else f"had {has}"


@dataclass
class _Replayed:
    """What the entries so far say."""

    enforced: bool
    people: dict[str, _Known] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    """Id → whose, by key."""
    trained: dict[str, str] = field(default_factory=dict)
    """Digest → who had it trained."""
    failed: set[str] = field(default_factory=set)
    """Digests that did not pass the offline check."""
    proposed: dict[str, str] = field(default_factory=dict)
    """Trial → the digest that its newest look is about."""
    staged_by: dict[str, str] = field(default_factory=dict)
    """Trial that begins with a stage before the comparison → who opened it, and so entered that stage."""
    killed: set[str] = field(default_factory=set)
    asked: dict[str, str] = field(default_factory=dict)
    """Break-glass → who asked for it."""
    knows_people: bool = False

    def follow(self, entry: AuditEntry, then: AuditEntry | None) -> Iterator[str]:
        """Take the entry's step; yields what is wrong with it. `then`: the entry after it."""
        self.knows_people = self.knows_people or _is_since_people(entry)
        broken: list[str] = []
        if self.knows_people:
            broken = [*self._own_work(entry), *(self._unentitled(entry, then) if self.enforced else ())]
        before = self.people
        self._take(entry)
        if self.people is not before and _is_administered(before) and not _is_administered(self.people):
            broken.append("leaves nobody who can administer")
        yield from (f"audit entry {entry.number} ({entry.action} {entry.subject}): {told}" for told in broken)

    def _unentitled(self, entry: AuditEntry, then: AuditEntry | None) -> Iterator[str]:
        if entry.action == "open_trial" and not self.failed.isdisjoint(_challengers(entry)):
            yield "with a challenger that failed the offline check, which only a simulation lets in"
        rule = self._rule(entry, then)
        if rule is None:
            return
        named = [entry.actor]
        if entry.action == "promote":
            named += [str(name) for name in entry.payload.get("approvers", ())]
        elif entry.action == "break_glass":
            named.append(self.asked.get(entry.subject, entry.actor))
        for name in {key_of(name): name for name in named}.values():
            yield from self._without(rule, name)

    def _rule(self, entry: AuditEntry, then: AuditEntry | None) -> _Rule | None:
        """None where anybody may have made the entry."""
        payload, trial = entry.payload, str(entry.payload.get("trial"))
        match entry.action:
            case "close_trial":
                state = str(payload.get("state"))
                makes_room = then is not None and (then.action, then.actor) == ("open_trial", entry.actor)
                if state == TrialState.STALE and makes_room:
                    return _OPENING
                if state == TrialState.ABORTED and trial in self.killed:
                    return _KILLED
                return _ENDINGS.get(state, _GATE_ALONE)
            case "set_stage" if payload.get("number") == 1 and self.staged_by.get(trial) == entry.actor:
                return _OPENING
            case "end_break_glass":
                return _BACK if payload.get("reigned") else _WATCH
            case "add_person" if _is_first_admin(entry) and not _is_administered(self.people):
                return None
            case "set_password" | "renew_password" | "issue_token" | "revoke_token":
                own = key_of(entry.actor) == self._whose(entry)
                return _Rule(_ANYBODY) if own else _ADMIN
            case action:
                return _RULES.get(action)

    def _without(self, rule: _Rule, name: str) -> Iterator[str]:
        """What `name` lacked for it."""
        person = self.people.get(key_of(name))
        if (rule.gate and name == GATE) or (rule.deployments and is_deployment(name)):
            return
        if person is not None and not person.disabled and not person.roles.isdisjoint(rule.roles):
            return
        acts_by_itself = key_of(name) in MACHINES or is_deployment(name)
        held = person.told() if person is not None else "is no person" if acts_by_itself else "was not known"
        if rule.roles:
            yield f"{name} needed role {' or '.join(rule.roles)}, and {held}"
        else:
            yield f"{name} did what only the gate does"

    def _own_work(self, entry: AuditEntry) -> Iterator[str]:
        payload = entry.payload
        match entry.action:
            case "bootstrap":
                digest = (payload.get("to") or {}).get("digest")
            case "approve":
                digest = self.proposed.get(str(payload.get("trial")))
            case "ask_break_glass":
                digest = payload.get("digest")
            case "allow_deltas":
                digest = payload.get("base_digest")
            case _:
                return
        submitter = self.trained.get(str(digest), "")
        if same_person(entry.actor, submitter):
            yield f"{entry.actor} had it trained"

    def _take(self, entry: AuditEntry) -> None:
        payload = entry.payload
        match entry.action:
            case "record_version":
                self.trained[str(payload.get("digest"))] = str(payload.get("submitter", ""))
                if not payload.get("offline_passed"):
                    self.failed.add(str(payload.get("digest")))
            case "open_trial" if payload.get("state") != TrialState.COMPARE:
                self.staged_by[str(payload.get("trial"))] = entry.actor
            case "kill_trial":
                self.killed.add(str(payload.get("trial")))
            case "record_evidence":
                self.proposed[str(payload.get("trial"))] = str(payload.get("challenger_digest"))
            case "ask_break_glass":
                self.asked[entry.subject] = entry.actor
            case "issue_token":
                self.tokens[str(payload.get("id"))] = str(payload.get("person"))
            case "add_person" | "set_roles" | "disable_person" | "enable_person":
                key = str(payload.get("key"))
                known = _Known() if entry.action == "add_person" else self.people.get(key)
                if known is not None:
                    self.people = {**self.people, key: _changed(known, entry)}

    def _whose(self, entry: AuditEntry) -> str | None:
        """Key of the person whose password or token it is."""
        payload = entry.payload
        if entry.action == "revoke_token":
            return self.tokens.get(str(payload.get("id")))
        return str(payload.get("person" if entry.action == "issue_token" else "key"))


def _challengers(entry: AuditEntry) -> set[str]:
    """Digests of a trial's challengers; none of an A/A trial, where the champion meets itself."""
    payload = entry.payload
    first = str(payload.get("challenger_digest"))
    if first == payload.get("champion_digest"):
        return set()
    return {first, *(str(arm["digest"]) for arm in payload.get("others", ()))}


def _is_since_people(entry: AuditEntry) -> bool:
    """Whether only a Ratchet that knows people writes such an entry."""
    told = {"open_trial": "quorum", "promote": "approvers"}.get(entry.action)
    return entry.action in _SINCE_PEOPLE or (told is not None and told in entry.payload)


def _is_first_admin(entry: AuditEntry) -> bool:
    """Somebody who adds themselves as an admin."""
    named = same_person(entry.actor, str(entry.payload.get("name")))
    return named and Role.ADMIN in _roles(entry)


def _is_administered(people: Mapping[str, _Known]) -> bool:
    return any(person.administers for person in people.values())


def _changed(known: _Known, entry: AuditEntry) -> _Known:
    match entry.action:
        case "disable_person":
            return replace(known, disabled=entry.time)
        case "enable_person":
            return replace(known, disabled="")
        case _:
            return replace(known, roles=_roles(entry))


def _roles(entry: AuditEntry) -> frozenset[str]:
    """As the entry has them; none where no Ratchet has written them."""
    try:
        stated = json.loads(str(entry.payload.get("roles")))
    except ValueError:
        return frozenset()
    return frozenset(map(str, stated)) if isinstance(stated, list) else frozenset()
