"""The trials' part of the record, replayed: that each went its way by the rules, and that the tables say the same.

What the ledger refuses when it happens is checked here anew, from the record alone: which states lead where, that only
a comparison's newest look promotes, whom, and by whose approval.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, select

from gate.states import OPEN_STATES, WATCHED_STATES, TrialMode, TrialState
from stores.audit_differences import differing
from stores.ledger_records import (
    CHALLENGER,
    AuditEntry,
    ChallengerRecord,
    named_by,
    sha256,
    state_after,
    unstamp,
)
from stores.ledger_tables import challengers, evidence, outs, stages, trials
from stores.people import same_person

_ACTIONS = (
    *("open_trial", "set_stage", "kill_trial", "record_evidence"),
    *("promote", "begin_bake", "end_bake", "close_trial"),
)
_COMPARED = (TrialState.COMPARE, TrialState.AWAIT_APPROVAL)
_PROMOTED = (TrialState.PROMOTING, TrialState.BAKING, TrialState.PROMOTED)


def trial_problems(tx: Connection, entries: tuple[AuditEntry, ...]) -> list[str]:
    """Where the record breaks the trials' rules, or the tables differ from it."""
    said: dict[str, _Replayed] = {}
    trained: dict[str, str] = {}  # digest → who submitted its training
    surfaces: dict[str, _Surface] = {}
    problems = []
    for entry in entries:
        if entry.action == "record_version":
            trained[entry.payload["digest"]] = entry.payload.get("submitter", "")
        if entry.action not in _ACTIONS:
            continue
        name = str(entry.payload["trial"])
        if entry.action == "open_trial":
            said[name] = _Replayed(entry, trained)
        if name not in said:
            problems.append(f"audit entry {entry.number}: {entry.action} of trial {name}, which was never opened")
            continue
        surface = surfaces.setdefault(str(said[name].opening.payload["surface"]), _Surface())
        broken = [*surface.admit(said[name]), *said[name].follow(entry)]
        surface.keep(name, said[name])
        problems += [f"audit entry {entry.number}: trial {name}: {told}" for told in broken]
    return [*problems, *_trials(tx, said), *_looks(tx, entries), *_stages(tx, entries)]


def trial_facts(row: Mapping[Any, Any]) -> dict[str, Any]:
    """What an audit entry says of a trial at its opening, beside further challengers, and nothing may change after."""
    named = ("surface", "challenger", "challenger_digest", "champion", "champion_digest", "champion_epoch")
    return {name: row[name] for name in (*named, "config_hash", "salt", "allocation", "submitter", "offline_worse")}


def stage_facts(row: Mapping[Any, Any]) -> dict[str, Any]:
    """What an audit entry says of a trial's stage: all of it."""
    return {name: row[name] for name in ("trial", "number", "mode", "allocation", "since", "actor", "reason")}


def others_facts(others: Sequence[ChallengerRecord]) -> list[dict[str, Any]]:
    """What an audit entry says of the challengers after the first."""
    return [{"name": arm.name, "version": arm.version, "digest": arm.digest} for arm in others]


@dataclass
class _Surface:
    """What stands against a further trial, as the entries so far have it."""

    newest: tuple[str, "_Replayed"] | None = None
    rejected: dict[str, str] = field(default_factory=dict)
    """Digest → the trial that has rejected it."""

    def admit(self, trial: "_Replayed") -> list[str]:
        """Which rules the opening of `trial` breaks; none where it is open already, or of before schema 5."""
        if trial.state is not TrialState.OFFLINE_OK or "quorum" not in trial.opening.payload:
            return []
        told = []
        if self.newest is not None and self.newest[1].state in (*OPEN_STATES, *WATCHED_STATES):
            told.append(f"open_trial while trial {self.newest[0]} is {self.newest[1].state}")
        again = [] if trial.is_aa else [self.rejected[each] for each in trial.arms.values() if each in self.rejected]
        return told + [f"open_trial of a bundle that trial {name} has rejected" for name in dict.fromkeys(again)]

    def keep(self, name: str, trial: "_Replayed") -> None:
        """Remember where `trial` stands now."""
        if self.newest is None or self.newest[1].opening.number <= trial.opening.number:
            self.newest = name, trial
        if not trial.is_aa:
            all_of_them = trial.state is TrialState.REJECTED
            for arm in trial.arms if all_of_them else trial.out:
                self.rejected.setdefault(trial.arms.get(arm, ""), name)


@dataclass
class _Replayed:
    """A trial as the entries so far have it."""

    opening: AuditEntry
    trained: Mapping[str, str]
    state: TrialState = TrialState.OFFLINE_OK
    look: Mapping[str, Any] = field(default_factory=dict)
    """The newest look's payload."""
    looks: int = 0
    out: dict[str, int] = field(default_factory=dict)
    """Challengers that looks have rejected → the look's number."""
    killed: bool = False
    promoted_epoch: int | None = None
    baking_since: datetime | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What was said at the opening."""
        apart = ("trial", "state", "others", "quorum")
        return {name: said for name, said in self.opening.payload.items() if name not in apart}

    @property
    def others(self) -> list[dict[str, Any]]:
        return list(self.opening.payload.get("others", ()))

    @property
    def arms(self) -> dict[str, str]:
        """Name → digest."""
        first = {CHALLENGER: str(self.facts["challenger_digest"])}
        return first | {str(arm["name"]): str(arm["digest"]) for arm in self.others}

    def follow(self, entry: AuditEntry) -> list[str]:
        """Take the entry's step; returns the rules that it breaks."""
        before, told = self.state, self._broken(entry)
        self._take(entry)
        if "others" not in self.opening.payload:
            return told  # of before schema 4, when every running trial was COMPARE and could end in any way
        if self.state is not before and not before.may_become(self.state):
            told.append(f"went from {before} to {self.state}, and no way leads there")
        if entry.payload.get("state", self.state) != self.state:
            told.append(f"is {self.state} after {entry.action}, not {entry.payload['state']}")
        return told

    def _take(self, entry: AuditEntry) -> None:
        payload = entry.payload
        match entry.action:
            case "kill_trial":
                self.killed = True
            case "set_stage":
                self.state = TrialState(TrialMode(payload["mode"]).name)
            case "record_evidence":
                self.look, self.looks = payload, self.looks + 1
                self.out |= dict.fromkeys(payload.get("out", ()), self.looks)
                after = state_after(payload["decision"], self.state)
                withdrawn = payload["decision"] == "REJECT" and self.state is TrialState.AWAIT_APPROVAL
                old = withdrawn and payload.get("state") == TrialState.REJECTED  # as before schema 5
                self.state = TrialState.REJECTED if old else after
            case _:
                self.state = TrialState(payload["state"])
        if entry.action == "promote":
            self.promoted_epoch = payload["to"]["epoch"]
        if entry.action == "begin_bake":
            self.baking_since = unstamp(entry.time)

    def _broken(self, entry: AuditEntry) -> list[str]:
        payload = entry.payload
        match entry.action:
            case "record_evidence":
                rules = self._rules_of_looks(payload)
            case "promote":
                rules = self._rules_of_approvals(entry)
            case "end_bake":
                hours = timedelta(hours=payload["bake_hours"])
                since = self.baking_since
                rules = {"before it had baked": since is None or unstamp(entry.time) < since + hours}
            case "close_trial":
                rules = {"as a promotion": payload["state"] in _PROMOTED}
            case _:
                rules = {}
        return [f"{entry.action} {rule}" for rule, broken in rules.items() if broken]

    def _rules_of_looks(self, payload: Mapping[str, Any]) -> dict[str, bool]:
        promotes, arm = payload["decision"] == "PROMOTE", named_by(payload)
        return {
            "after it was over": self.state not in OPEN_STATES,
            "after it was killed": self.killed,
            "of a challenger that it has not": self.arms.get(arm) != payload["challenger_digest"],
            "that would promote, of no comparison": promotes and self.state not in _COMPARED,
            "that would promote the champion itself": promotes and self.is_aa,
            "that would promote a rejected challenger": promotes and arm in (*self.out, *payload.get("out", ())),
        }

    def _rules_of_approvals(self, entry: AuditEntry) -> dict[str, bool]:
        payload, look = entry.payload, self.look
        submitters = (str(self.facts["submitter"]), self.trained.get(payload["to"]["digest"], ""))
        return {
            "without a wait for it": self.state is not TrialState.AWAIT_APPROVAL,
            "without a passing look": look.get("decision") != "PROMOTE" or look["evidence"] != payload["evidence"],
            "of another than the look's challenger": look.get("challenger_digest") != payload["to"]["digest"],
            "of the champion itself": self.is_aa,
            "of a rejected challenger": named_by(payload) in self.out,
            "of another epoch's champion": payload["to"]["epoch"] != self.facts["champion_epoch"] + 1,
            "after it was killed": self.killed,
            "by its submitter": any(same_person(entry.actor, name) for name in submitters),
        }

    @property
    def is_aa(self) -> bool:
        told = self.opening.payload
        return bool(told["challenger_digest"] == told["champion_digest"])


def _trials(tx: Connection, said: dict[str, _Replayed]) -> list[str]:
    further = _by_trial(tx.execute(select(challengers).order_by(challengers.c.trial, challengers.c.number)))
    out = _by_trial(tx.execute(select(outs)))
    left = dict(said)
    problems = []
    for row in tx.execute(select(trials).order_by(trials.c.opened)):
        told = left.pop(row.id, None)
        others = [
            {name: arm._mapping[name] for name in ("name", "version", "digest")} for arm in further.pop(row.id, [])
        ]
        rejected = {arm.name: (arm.digest, arm.look) for arm in out.pop(row.id, [])}
        if sha256(row.config) != row.config_hash:
            problems.append(f"trial {row.id}: its configuration is not the one that was frozen")
        if told is None or (told.facts, told.others) != (trial_facts(row._mapping), others):
            problems.append(f"trial {row.id}: is not the trial that was opened")
        if told is None:
            continue
        if told.state != row.state:
            problems.append(f"trial {row.id}: its state {row.state} is not the one in the audit, {told.state}")
        if told.promoted_epoch != row.promoted_epoch:
            problems.append(
                f"trial {row.id}: promoted to epoch {row.promoted_epoch}, the audit says {told.promoted_epoch}"
            )
        if {name: (told.arms.get(name), look) for name, look in told.out.items()} != rejected:
            problems.append(f"trial {row.id}: out are {sorted(rejected)}, the audit says {sorted(told.out)}")
    problems += [f"trial {name}: in the audit, and gone from the ledger" for name in left]
    return problems + [f"trial {name}: has challengers, and is not in the ledger" for name in {**further, **out}]


def _by_trial(rows: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row in rows:
        found.setdefault(row.trial, []).append(row)
    return found


def _looks(tx: Connection, entries: tuple[AuditEntry, ...]) -> list[str]:
    looks = {
        (entry.payload["trial"], entry.payload["evidence"]): entry.time
        for entry in entries
        if entry.action == "record_evidence"
    }
    problems = []
    for row in tx.execute(select(evidence).order_by(evidence.c.trial, evidence.c.number)):
        if sha256(row.evidence) != row.sha256 or json.loads(row.evidence).get("decision") != row.decision:
            problems.append(f"trial {row.trial}: evidence {row.number} was changed after it was recorded")
        if looks.pop((row.trial, row.sha256), None) != row.recorded:
            problems.append(f"trial {row.trial}: evidence {row.number} is not as the audit has it")
    return problems + [
        f"trial {name}: evidence {digest[:12]}… is gone from the ledger" for name, digest in sorted(looks)
    ]


def _stages(tx: Connection, entries: tuple[AuditEntry, ...]) -> list[str]:
    said = {
        f"stage {entry.payload['number']} of trial {entry.payload['trial']}": dict(entry.payload)
        for entry in entries
        if entry.action in ("set_stage", "kill_trial")
    }
    held = {f"stage {row.number} of trial {row.trial}": stage_facts(row._mapping) for row in tx.execute(select(stages))}
    return differing(held, said)
