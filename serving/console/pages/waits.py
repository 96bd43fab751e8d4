"""What a trial waits for, and how far it has come: the same words on every page."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from gate.states import TrialState
from serving.console.place import Place
from stores.ledger_records import EvidenceRecord, TrialRecord


@dataclass(frozen=True)
class Waits:
    """`what`: in words, empty for a trial that is over. `by_person`: nothing goes on until somebody does something.

    `until`: when it ends by itself. `left`: from now to then.
    """

    what: str
    by_person: bool = False
    since: datetime | None = None
    until: datetime | None = None
    left: timedelta | None = None


@dataclass(frozen=True)
class Shown:
    """A trial as lists show it. `look`: the newest one. `share`: of users who may meet a challenger now.

    `progress`: matured users of those that the trial may have at most, as a share; None where that is not stated.
    """

    trial: TrialRecord
    waits: Waits
    look: EvidenceRecord | None
    share: float
    matured: int
    progress: float | None

    @property
    def said(self) -> dict[str, Any]:
        """What the newest look says; empty before the first."""
        return {} if self.look is None else dict(self.look.evidence)

    @property
    def versions(self) -> str:
        """`v7, v8 against v5`."""
        if self.trial.is_aa:
            return f"v{self.trial.champion} against itself"
        names = (f"v{c.version}{' (out)' if c.name in self.trial.out else ''}" for c in self.trial.challengers)
        return f"{', '.join(names)} against v{self.trial.champion}"


def shown(place: Place, trial: TrialRecord, *, now: datetime) -> Shown:
    look = trial.evidence[-1] if trial.evidence else None
    matured = sum(look.evidence.get("matured", (0, 0))) if look else 0
    most = trial.config.get("n_max")
    progress = min(matured / most, 1.0) if isinstance(most, int) and most > 0 else None
    share = trial.stages[-1].allocation if trial.stages else trial.allocation
    return Shown(trial, waits_of(place, trial, now=now), look, share, matured, progress)


def waits_of(place: Place, trial: TrialRecord, *, now: datetime) -> Waits:
    if trial.state is TrialState.PROMOTING:
        return Waits(f"serving to be seen to serve v{trial.proposed.version}", since=trial.changed)
    if trial.bakes_until is not None:
        until = trial.bakes_until
        return Waits("the end of its watch", since=trial.changed, until=until, left=max(until - now, timedelta(0)))
    if not trial.is_open:
        return Waits("")
    if trial.killed:
        return Waits("its end, after a kill: stop or reject it", by_person=True, since=trial.killed.since)
    if trial.state is TrialState.AWAIT_APPROVAL and trial.awaiting_since is not None:
        until = trial.awaiting_since + timedelta(hours=place.settings.ledger.approval_hours)
        given = len(trial.approvals)
        more = "an approver" if not given else f"another approver: {given} of {trial.quorum} have approved"
        return Waits(more, by_person=True, since=trial.awaiting_since, until=until, left=max(until - now, timedelta(0)))
    since = trial.stages[-1].since if trial.stages else trial.opened
    newest = trial.evidence[-1] if trial.evidence else None
    if newest is None or newest.evidence.get("stage", "compare") != trial.mode:
        return Waits(f"the first look at its {trial.mode} stage", since=since)
    return Waits("; ".join(newest.evidence.get("reasons", ())[:2]), since=since)
