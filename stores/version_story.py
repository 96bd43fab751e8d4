"""What MLflow is to say of a version, from the ledger alone: the `gate.*` tags, and why it is or is not champion."""

from collections.abc import Mapping
from typing import Any

from gate.states import TrialState
from stores.champion import BREAK_GLASS, PROMOTING_STEPS
from stores.ledger_records import GATE as THE_GATE
from stores.ledger_records import Reign, TrialRecord, VersionRecord, named_by
from stores.markdown import plain

GATE = "gate."
APPROVED_BY = "approved_by"
MOST = 500
"""Characters of somebody's words."""
_ONE_IS_CHOSEN = (
    TrialState.AWAIT_APPROVAL,
    TrialState.PROMOTING,
    TrialState.BAKING,
    TrialState.PROMOTED,
    TrialState.ROLLED_BACK,
)
_COMPARING = TrialState.COMPARE.value
_BECAME = {
    "bootstrap": "was approved",
    "promote": "was approved",
    BREAK_GLASS: "was put in charge by break-glass",
}
NOT_CHOSEN = "NOT_CHOSEN"
"""Another challenger of the same trial was promoted."""


def gate_tags(record: VersionRecord, *, trials: tuple[TrialRecord, ...], history: tuple[Reign, ...]) -> dict[str, str]:
    """What the gate has to say of a version: its newest trial, and who made it champion.

    `trials`: each with its newest look. A/A trials say nothing of a version, and are passed over.
    """
    tags = {f"{GATE}state": "OFFLINE_OK" if record.offline_passed else "OFFLINE_WORSE"}
    approval = _approval(record, history)
    if approval is not None:
        tags[APPROVED_BY] = made_by(approval)
        tags[f"{GATE}state"] = "PROMOTED" if approval.trial else "BOOTSTRAP"
    tags |= _trial_tags(record, _trial(record, trials))
    present = history[-1] if history else None
    if present is not None and (present.version, present.how) == (record.version, BREAK_GLASS):
        tags |= {f"{GATE}state": "BREAK_GLASS", f"{GATE}reason": _words(present.reason), APPROVED_BY: made_by(present)}
    return {name: value for name, value in tags.items() if value}


def _trial_tags(record: VersionRecord, trial: TrialRecord | None) -> dict[str, str]:
    if trial is None:
        return {}
    tags = {f"{GATE}state": _state(record, trial), f"{GATE}trial": trial.id, f"{GATE}stage": _stage(trial)}
    if trial.evidence:
        latest = trial.evidence[-1]
        part = _part(record, trial)
        tags[f"{GATE}evidence"] = latest.sha256
        tags[f"{GATE}decision"] = _text(part.get("verdict")) or latest.decision
        lift, ends = part.get("lift"), _ends(part.get("lift_interval"))
        tags[f"{GATE}lift"] = f"{lift:+.4f}" if isinstance(lift, int | float) else ""
        tags[f"{GATE}interval"] = f"[{ends[0]:+.4f}, {ends[1]:+.4f}]" if ends else ""
        tags[f"{GATE}users"] = _users(part)
    tags[f"{GATE}reason"] = _reason(record, trial)
    return tags


def description(record: VersionRecord, *, trials: tuple[TrialRecord, ...], history: tuple[Reign, ...]) -> str:
    """Two or three sentences: whether the version is champion, since when and by whom, and on what evidence."""
    trial = _trial(record, trials)
    told = f" {_evidence(record, trial)}" if trial is not None and trial.evidence and _part(record, trial) else ""
    present = history[-1] if history else None
    if present is not None and present.version == record.version:
        return f"{_crowned(present, history)}{told}{_watched(trial)}"
    past = next((reign for reign in reversed(history) if reign.version == record.version), None)
    if past is not None:
        after = next(reign for reign in history if reign.epoch > past.epoch)
        how = _BECAME.get(after.how, "came back by a rollback")
        who = f"{_shown(after.actor)}: {_shown(after.reason)}"
        return f"Not champion any more: v{after.version} {how} on {_day(after)} ({who}).{told}"
    if trial is None:
        offline = "passed" if record.offline_passed else "failed"
        return f"Not champion: it {offline} the offline check, and no trial has met users with it."
    return f"{_untold(record, trial)}{told}"


def made_by(reign: Reign) -> str:
    """Everybody whose approval made it."""
    return ", ".join(reign.approvers or (reign.actor,))


def _crowned(reign: Reign, history: tuple[Reign, ...]) -> str:
    since, why = f"since {_day(reign)} (epoch {reign.epoch})", _shown(reign.reason)
    if reign.how == "bootstrap":
        return f"Champion {since}: made the first one by {_shown(reign.actor)}, without a trial ({why})."
    if reign.how in PROMOTING_STEPS:
        return f"Champion {since}: {_shown(made_by(reign))} approved it ({why})."
    if reign.how == BREAK_GLASS:
        return f"BREAK-GLASS: champion {since} without a trial's proof, by {_shown(made_by(reign))} ({why})."
    taken = next((each for each in reversed(history) if each.epoch < reign.epoch), None)
    from_ = "" if taken is None else f" from v{taken.version}"
    return f"Champion again {since}: {_shown(reign.actor)} rolled back{from_} ({why})."


def _untold(record: VersionRecord, trial: TrialRecord) -> str:
    """Why a version that never was champion is none."""
    state, person, name = _state(record, trial), trial.decided_by not in ("", THE_GATE), _shown(trial.id)
    if _name(record, trial) in trial.out:
        earlier = "" if trial.evidence and _part(record, trial) else " at an earlier look"
        return f"Not champion: {name} rejected it{earlier}."
    why = f" by {_shown(trial.decided_by)} ({_shown(trial.reason)})" if person else ""
    said = {
        TrialState.AWAIT_APPROVAL.value: f"{name} would promote it, and waits for a person's approval",
        TrialState.REJECTED.value: f"{name} rejected it{why}",
        TrialState.INCONCLUSIVE.value: f"{name} ended without an answer",
        TrialState.EXPIRED.value: f"{name} would have promoted it, and nobody answered in time",
        TrialState.STALE.value: f"{name} was overtaken by another change of the champion",
        TrialState.ABORTED.value: f"{name} was stopped{why}",
        NOT_CHOSEN: f"{name} promoted another challenger",
    }.get(state, f"{name} is still trying it, at the stage {_stage(trial)}")
    return f"Not champion: {said}."


def _evidence(record: VersionRecord, trial: TrialRecord) -> str:
    part = _part(record, trial)
    metric = trial.config.get("primary")
    metric_name = _shown(str(metric.get("name", ""))) if isinstance(metric, Mapping) else ""
    always, at_look = _ends(part.get("lift_sequence")), _ends(part.get("lift_interval"))
    harmed = part.get("verdict") == "REJECT" and always is not None and always[1] < 0  # what harm is judged by
    lift, span, users = _percent(part.get("lift")), _interval(always if harmed else at_look), _users(part)
    reason = _shown(_deciding(record, trial))
    measured = f": {metric_name} {lift} {span} over {int(users):,} users".replace("  ", " ") if lift and users else ""
    verdict = _text(part.get("verdict")) or trial.evidence[-1].decision
    head = f"{_shown(trial.id)}, look {trial.looks or len(trial.evidence)}, {verdict}"
    return f"{head}{measured}{f'; {reason}' if reason else ''}."


def _watched(trial: TrialRecord | None) -> str:
    return " The promotion is still being watched." if trial is not None and trial.is_watched else ""


def _approval(record: VersionRecord, history: tuple[Reign, ...]) -> Reign | None:
    own = (reign for reign in reversed(history) if reign.version == record.version and reign.how in PROMOTING_STEPS)
    return next(own, None)


def _trial(record: VersionRecord, trials: tuple[TrialRecord, ...]) -> TrialRecord | None:
    return next((trial for trial in reversed(trials) if not trial.is_aa and _name(record, trial)), None)


def _name(record: VersionRecord, trial: TrialRecord) -> str:
    """The version's arm; empty where it is none of the trial's challengers."""
    return next((each.name for each in trial.challengers if each.version == record.version), "")


def _leads(record: VersionRecord, trial: TrialRecord) -> bool:
    return trial.proposed.version == record.version


def _state(record: VersionRecord, trial: TrialRecord) -> str:
    """The trial's state, as it is for this one of its challengers."""
    withdrawn = trial.state is TrialState.ABORTED and _leads(record, trial)  # while it waited for approval
    if _name(record, trial) in trial.out and not withdrawn:
        return TrialState.REJECTED.value
    if trial.state not in _ONE_IS_CHOSEN or _leads(record, trial):
        return trial.state.value
    return _COMPARING if trial.state is TrialState.AWAIT_APPROVAL else NOT_CHOSEN


def _stage(trial: TrialRecord) -> str:
    """Where it is, or ended."""
    if trial.is_open or not trial.evidence:
        return trial.mode.value
    return _text(trial.evidence[-1].evidence.get("stage")) or trial.mode.value


def _part(record: VersionRecord, trial: TrialRecord) -> Mapping[str, Any]:
    """The newest look, so far as it is about this challenger."""
    latest, name = trial.evidence[-1].evidence, _name(record, trial)
    apart = latest.get("comparisons")
    if isinstance(apart, Mapping) and isinstance(apart.get(name), Mapping):
        own: Mapping[str, Any] = apart[name]
        return own
    return latest if named_by(latest) == name else {}


def _deciding(record: VersionRecord, trial: TrialRecord) -> str:
    """The sentence that decided, as the gate said it."""
    if not trial.evidence:
        return ""
    if _name(record, trial) in trial.out and not _part(record, trial):
        return "rejected by an earlier look"
    reasons = _part(record, trial).get("reasons")
    return _text(reasons[0]) if isinstance(reasons, list | tuple) and reasons else ""


def _reason(record: VersionRecord, trial: TrialRecord) -> str:
    """Why the trial stands where it does: a person's words where a person ended it, else the gate's."""
    person = trial.decided_by not in ("", THE_GATE) and not trial.is_open and trial.state not in _ONE_IS_CHOSEN
    return _words(trial.reason if person else _deciding(record, trial))


def _users(part: Mapping[str, Any]) -> str:
    matured = part.get("matured")
    return str(sum(int(each) for each in matured)) if isinstance(matured, list | tuple) and matured else ""


def _percent(value: Any) -> str:
    return f"{value:+.2%}" if isinstance(value, int | float) else ""


def _interval(ends: tuple[float, float] | None) -> str:
    return f"[{_percent(ends[0])}, {_percent(ends[1])}]" if ends else ""


def _ends(value: Any) -> tuple[float, float] | None:
    known = isinstance(value, list | tuple) and len(value) == 2 and None not in value
    return (float(value[0]), float(value[1])) if known else None


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _words(said: str) -> str:
    """One line, of a length that a person reads."""
    line = " ".join(said.split())
    return line if len(line) <= MOST else f"{line[: MOST - 1]}…"


def _shown(said: str) -> str:
    """Somebody's words inside a description, which MLflow renders as Markdown."""
    return plain(_words(said), most=2 * MOST)


def _day(reign: Reign) -> str:
    return f"{reign.since:%Y-%m-%d %H:%M} UTC"
