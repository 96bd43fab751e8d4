"""What can be done with a trial now, and why a person may not do it: said before they press a button.

The ledger decides by its own rules when a step is taken; this only foretells it.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from gate.states import TrialState
from serving.console.access import ROUTES
from serving.console.place import Place
from serving.console.rendering import Frame, lasting
from stores.ledger_records import TrialRecord
from stores.people import same_person


@dataclass(frozen=True)
class Steps:
    """`submitters`: who opened the trial and who had the proposed challenger trained."""

    trial: TrialRecord
    submitters: tuple[str, ...]
    evidence_age: timedelta
    evidence_limit: timedelta
    is_expired: bool

    @staticmethod
    def of(place: Place, trial: TrialRecord, *, now: datetime) -> "Steps":
        rules = place.settings.ledger
        trained = place.ledger.version(trial.proposed.version).submitter
        age = now - trial.evidence[-1].recorded if trial.evidence else timedelta(0)
        waited = timedelta(0) if trial.awaiting_since is None else now - trial.awaiting_since
        return Steps(
            trial,
            tuple(name for name in (trial.submitter, trained) if name),
            age,
            timedelta(hours=rules.evidence_hours),
            waited > timedelta(hours=rules.approval_hours),
        )

    def why_not(self, action: str, frame: Frame) -> str:
        """Why the person of this page cannot take the step `action`; empty where they can."""
        return (
            self._not_now(action) or not_yours(action, frame) or (self._not_you(frame) if action == "approve" else "")
        )

    def possible(self) -> bool:
        """Whether anybody could do anything."""
        return self.trial.is_open

    def _not_now(self, action: str) -> str:
        trial = self.trial
        if not trial.is_open:
            return "the trial is over"
        if action == "kill" and trial.killed is not None:
            return f"it was killed already, by {trial.killed.actor}"
        if action != "approve":
            return ""
        if trial.killed is not None:
            return "it was killed, and nobody meets its challenger any more; stop it or reject it"
        if trial.is_aa:
            return "it compares the champion with itself, and promotes nobody"
        if trial.state is not TrialState.AWAIT_APPROVAL:
            return f"the gate does not propose it: the newest look says {trial.decision or 'nothing yet'}"
        if self.is_expired:
            return "its time for an answer is over, and it expires at the next step of the gate; open a new trial"
        if self.evidence_age > self.evidence_limit:
            return (
                f"the evidence is {lasting(self.evidence_age)} old, more than {lasting(self.evidence_limit)}; "
                f"look anew: ratchet trial look {trial.id}"
            )
        return ""

    def _not_you(self, frame: Frame) -> str:
        name = frame.person.name if frame.person else ""
        if any(same_person(name, submitter) for submitter in self.submitters):
            return "you submitted it, and nobody approves their own; ask another approver"
        mine = next((each for each in self.trial.approvals if same_person(each.name, name)), None)
        if mine is not None:
            return f"you have approved this evidence, at {mine.given:%Y-%m-%d %H:%M} UTC; another approver is needed"
        return ""


def not_yours(action: str, frame: Frame) -> str:
    """Why this person's roles do not let them do `action`; empty where they do."""
    if frame.may(action):
        return ""
    roles = next((route.roles for route in ROUTES if route.action == action), None) or frozenset()
    held = ", ".join(sorted(frame.person.roles)) if frame.person else ""
    return f"it needs the role {' or '.join(sorted(roles))}, and you have {held or 'none'}; an admin gives roles"
