"""What people are told of an audit entry: plain text, in which nothing that a person or a log has named is markup."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from gate.states import TrialState
from stores.ledger_records import GATE, AuditEntry, TrialRecord, stamp
from stores.notify_settings import Kind
from tasks.trial_page.reading import comparison, ends, figure, leading, matured, texts
from tasks.trial_page.wording import count, interval, moment, percent, several

MOST_CHARACTERS = 300
"""Of one thing that a person has written."""
MOST_REASONS = 3

# A message reaches mail, chats and pages that each read other signs as markup, mentions or links. The look-alikes are
# none of them; the ledger keeps what was written.
_LOOK_ALIKES = str.maketrans({"<": "‹", ">": "›", "[": "(", "]": ")", "@": "＠", "`": "ˋ", "|": "¦"})

_CLOSED: dict[str, Kind] = {
    TrialState.REJECTED: "rejected",
    TrialState.ABORTED: "ended",
    TrialState.EXPIRED: "ended",
    TrialState.STALE: "ended",
    TrialState.INCONCLUSIVE: "ended",
}  # ROLLED_BACK is told by the rollback itself
_ACTIONS: dict[str, Kind] = {
    "approve": "approval",
    "bootstrap": "promoted",
    "promote": "promoted",
    "rollback": "rolled_back",
    "end_bake": "believed",
    "kill_trial": "killed",
    "ask_break_glass": "break_glass",
    "break_glass": "break_glass",
    "end_break_glass": "break_glass",
    "mirror_repaired": "mirror",
}


class Tone(StrEnum):
    """How a message is coloured, where it is."""

    INFO = "info"
    GOOD = "success"
    ACT = "warning"
    BAD = "failure"


@dataclass(frozen=True)
class Message:
    """`title` is one line."""

    tone: Tone
    title: str
    body: str


@dataclass(frozen=True)
class Setting:
    """Where the entry is from. `link`: where it can be read; empty: nowhere."""

    home: str
    simulation: bool
    approval_hours: float
    link: str


def kind_of(entry: AuditEntry, *, awaiting: Mapping[str, str]) -> Kind | None:
    """What the entry is told as; None: not at all. `awaiting`: trial → stamp of when it began to wait for approval."""
    if entry.action == "record_evidence":
        state, trial = entry.payload.get("state"), str(entry.payload.get("trial"))
        if state == TrialState.AWAIT_APPROVAL:
            return "waits" if awaiting.get(trial) == entry.time else None  # a later look of one that waits already
        return _CLOSED.get(str(state))
    if entry.action == "close_trial":
        return _CLOSED.get(str(entry.payload.get("state")))
    return _ACTIONS.get(entry.action)


def compose(entry: AuditEntry, kind: str, *, trial: TrialRecord | None, where: Setting) -> Message:
    """The message of an entry. `trial`: the one that it is about, as it is now, where there is one."""
    tone, title, facts = _TOLD[kind](entry, trial, where)
    told = [*facts, ("when", moment(entry.time)), ("home", where.home), ("see", where.link)]
    lines = [f"- {name}: {text}" for name, text in told if text]
    mark = "simulation: " if where.simulation else ""
    return Message(tone, f"Ratchet {mark}{title}", "\n".join(lines))


def plain(text: str) -> str:
    """One line without control characters, direction marks or signs that some reader takes for markup."""
    flat = "".join(" " if each.isspace() else each for each in unicodedata.normalize("NFC", text))
    kept = "".join(each for each in flat if not unicodedata.category(each).startswith("C"))
    safe = " ".join(kept.translate(_LOOK_ALIKES).replace("://", ": //").split())
    return safe if len(safe) <= MOST_CHARACTERS else f"{safe[: MOST_CHARACTERS - 1]}…"


Facts = list[tuple[str, str]]
Told = tuple[Tone, str, Facts]


def _waits(entry: AuditEntry, trial: TrialRecord | None, where: Setting) -> Told:
    name = _trial(entry)
    if trial is None or not trial.evidence:
        return Tone.ACT, f"{name} waits for approval", [_by(entry)]
    look = trial.evidence[-1].evidence
    part = comparison(look, leading(look))
    lift, span = percent(figure(part, "lift")), interval(ends(part, "lift_interval"))
    since = trial.awaiting_since
    facts = [
        ("lift", f"{lift}, interval {_brackets(span)}"),
        ("matured users", count(matured(part))),
        ("challenger", f"version {trial.proposed.version}, against version {trial.champion}"),
        ("submitted by", f"{plain(trial.submitter)}, who cannot approve it"),
        ("approvals needed", _quorum(trial)),
        ("expires", moment(stamp(since + timedelta(hours=where.approval_hours))) if since else ""),
        ("evidence", trial.evidence[-1].sha256),
        ("decide", f"in the console, or `ratchet approve {name} --as NAME --reason TEXT`, or `ratchet reject …`"),
    ]
    return Tone.ACT, f"{name} waits for approval: lift {lift} {_brackets(span)}", facts


def _approval(entry: AuditEntry, trial: TrialRecord | None, _where: Setting) -> Told:
    facts = [_by(entry), ("reason", _reason(entry)), ("approvals needed", "" if trial is None else _quorum(trial))]
    return Tone.ACT, f"{_trial(entry)} has a first approval and waits for another person's", facts


def _promoted(entry: AuditEntry, _trial_record: TrialRecord | None, _where: Setting) -> Told:
    version = _to(entry, "version")
    trial = _trial(entry)
    facts = [_by(entry), ("reason", _reason(entry)), ("champion", _swap(entry)), ("trial", trial)]
    approvers = texts(entry.payload, "approvers")
    if len(approvers) > 1:
        facts.append(("approved by", " and ".join(plain(name) for name in approvers)))
    return Tone.GOOD, f"version {version} is champion" + (f", promoted after {trial}" if trial else ""), facts


def _believed(entry: AuditEntry, _trial_record: TrialRecord | None, _where: Setting) -> Told:
    facts = [_by(entry), ("watched for", f"{entry.payload.get('bake_hours', 0):g} hours")]
    return (
        Tone.GOOD,
        f"{_trial(entry)}: version {entry.payload.get('version')} stays champion, its watch is over",
        facts,
    )


def _rejected(entry: AuditEntry, trial: TrialRecord | None, _where: Setting) -> Told:
    return Tone.BAD, f"{_trial(entry)} is rejected", _ending(entry, trial)


def _ended(entry: AuditEntry, trial: TrialRecord | None, _where: Setting) -> Told:
    state = plain(str(entry.payload.get("state"))).lower()
    return Tone.ACT, f"{_trial(entry)} ended without a promotion: {state}", _ending(entry, trial)


def _killed(entry: AuditEntry, _trial_record: TrialRecord | None, _where: Setting) -> Told:
    facts = [_by(entry), ("reason", _reason(entry)), ("then", f"end it with `ratchet trial stop {_trial(entry)}`")]
    return Tone.BAD, f"{_trial(entry)} was killed: nobody sees its challengers any more", facts


def _rolled_back(entry: AuditEntry, _trial_record: TrialRecord | None, _where: Setting) -> Told:
    facts = [_by(entry), ("reason", _reason(entry)), ("champion", _swap(entry))]
    whose = "by the gate's watch, " if entry.actor == GATE else ""
    return Tone.BAD, f"rolled back {whose}to version {_to(entry, 'version')}", facts


def _break_glass(entry: AuditEntry, _trial_record: TrialRecord | None, _where: Setting) -> Told:
    said = {
        "ask_break_glass": (Tone.ACT, "BREAK GLASS asked for: another approver has to confirm it"),
        "break_glass": (Tone.BAD, f"BREAK GLASS: version {_to(entry, 'version')} is champion past the gate"),
        "end_break_glass": (Tone.ACT, "BREAK GLASS ended"),
    }
    tone, title = said[entry.action]
    facts = [_by(entry), ("what", plain(entry.subject)), ("reason", _reason(entry)), ("champion", _swap(entry))]
    named = {"asked_by": "asked for by", "confirmed_reason": "confirmed because", "version": "version"}
    facts += [(told, plain(str(entry.payload.get(name) or ""))) for name, told in named.items()]
    return tone, title, [*facts, ("until", moment(str(entry.payload.get("until") or "")))]


def _mirror(entry: AuditEntry, _trial_record: TrialRecord | None, _where: Setting) -> Told:
    found = texts(entry.payload, "repaired")
    facts = [("put back", plain(each)) for each in found[:MOST_REASONS]]
    more = len(found) - MOST_REASONS + int(figure(entry.payload, "further") or 0)
    facts.append(("and", several(more, "more change") if more > 0 else ""))
    facts.append(("meaning", "somebody changed in MLflow what the ledger says; serving never looked at it"))
    return Tone.ACT, "MLflow was changed by hand, and put back", facts


_TOLD = {
    "waits": _waits,
    "approval": _approval,
    "promoted": _promoted,
    "believed": _believed,
    "rejected": _rejected,
    "ended": _ended,
    "killed": _killed,
    "rolled_back": _rolled_back,
    "break_glass": _break_glass,
    "mirror": _mirror,
}


def _ending(entry: AuditEntry, trial: TrialRecord | None) -> Facts:
    if entry.action == "close_trial":
        return [_by(entry), ("reason", _reason(entry))]
    look = entry.payload.get("look")
    reasons = texts(trial.evidence[-1].evidence, "reasons")[:MOST_REASONS] if trial and trial.evidence else []
    return [("by", f"look {look}"), *(("reason", plain(reason)) for reason in reasons)]


def _by(entry: AuditEntry) -> tuple[str, str]:
    return "by", "the gate" if entry.actor == GATE else plain(entry.actor)


def _reason(entry: AuditEntry) -> str:
    return plain(str(entry.payload.get("reason") or ""))


def _trial(entry: AuditEntry) -> str:
    return plain(str(entry.payload.get("trial") or ""))


def _to(entry: AuditEntry, name: str) -> Any:
    reached = entry.payload.get("to")
    return reached.get(name) if isinstance(reached, Mapping) else None


def _swap(entry: AuditEntry) -> str:
    if _to(entry, "version") is None:
        return ""
    before = entry.payload.get("from")
    came = f"version {before.get('version')} → " if isinstance(before, Mapping) else ""
    return f"{came}version {_to(entry, 'version')}, epoch {_to(entry, 'epoch')}"


def _quorum(trial: TrialRecord) -> str:
    return "one" if trial.quorum == 1 else f"{trial.quorum}, of different people: a protected slice is concerned"


def _brackets(span: str) -> str:
    """Square ones begin a link in Markdown."""
    return span.translate(_LOOK_ALIKES)
