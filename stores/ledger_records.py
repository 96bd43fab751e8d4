"""What the ledger hands out: frozen values, and the one canonical form that is hashed.

Plain Python: `serving` reads these, and installs neither pyarrow nor MLflow.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from gate.states import OPEN_STATES, WATCHED_STATES, TrialState
from gate.states import TrialMode as TrialMode  # serving reads it here: it may not import the gate
from relations.errors import UsageError

SURFACE = "default"
GATE = "gate"
CHALLENGER = "challenger"
"""The first challenger's arm, as exposures and evidence call it; the others are `challenger-2`, `challenger-3` …"""
MOST_CHALLENGERS = 5

STATE_AFTER: dict[str, TrialState | None] = {
    "PROMOTE": TrialState.AWAIT_APPROVAL,
    "REJECT": TrialState.REJECTED,
    "INCONCLUSIVE": TrialState.INCONCLUSIVE,
    "CONTINUE": None,
    "HOLD": None,
}
"""What a look's decision makes of a running trial; CONTINUE and HOLD leave it where it is. See `state_after`."""


@dataclass(frozen=True)
class Champion:
    """Who serves. `epoch` counts the changes of a surface's champion, from 1."""

    version: int
    digest: str
    epoch: int
    since: datetime


@dataclass(frozen=True)
class ChallengerRecord:
    """One arm beside the champion's. `name`: what exposures say as variant, as `challenger`, `challenger-2`."""

    name: str
    version: int
    digest: str


@dataclass(frozen=True)
class Reign:
    """One epoch of a surface: who became champion, how, and by whom.

    `how`: bootstrap, promote, rollback or break_glass. `restores`: the epoch that a rollback went back to, so that a
    second rollback goes further back, never forth. `approvers`: everybody whose approval made it, `actor` the last.
    """

    epoch: int
    version: int
    digest: str
    since: datetime
    how: str
    actor: str
    reason: str
    trial: str | None = None
    restores: int | None = None
    approvers: tuple[str, ...] = ()


@dataclass(frozen=True)
class VersionRecord:
    """A registered model version with its lineage: the weights it started from and the data that it saw.

    `parent`: the version whose weights it started from. `cutoff_us`: no event at or after this was trained on.
    `submitter`: who asked for the training; that person cannot approve it.
    """

    version: int
    digest: str
    mode: str
    parent: int | None
    events_version: int
    items_version: int
    cutoff_us: int
    offline_passed: bool
    metrics: Mapping[str, Any]
    run_id: str
    created: datetime
    checkpoint: str
    note: str = ""
    submitter: str = ""


@dataclass(frozen=True)
class EvidenceRecord:
    """One look. `sha256` is over the canonical form of `evidence`; an approval names it."""

    number: int
    sha256: str
    decision: str
    recorded: datetime
    evidence: Mapping[str, Any]


@dataclass(frozen=True)
class ApprovalRecord:
    """A person's yes to one look. `evidence`: its SHA-256; a newer look makes it void."""

    name: str
    evidence: str
    reason: str
    given: datetime


@dataclass(frozen=True)
class Waiting:
    """An approval that is on record and does not suffice. `approved_by`: whose count, of `quorum` that are needed."""

    trial: str
    approved_by: tuple[str, ...]
    quorum: int


@dataclass(frozen=True)
class StageRecord:
    """A step in how a trial's challenger meets users. `number` counts a trial's stages from 1.

    `allocation`: the share of users who may see the challenger: 0 in the shadow and once killed.
    """

    trial: str
    number: int
    mode: TrialMode
    allocation: float
    since: datetime
    actor: str
    reason: str


@dataclass(frozen=True)
class TrialRecord:
    """`challenger`, `challenger_digest`: the first challenger; `others` come after it."""

    id: str
    surface: str
    state: TrialState
    challenger: int
    challenger_digest: str
    champion: int
    champion_digest: str
    champion_epoch: int
    config: Mapping[str, Any]
    config_hash: str
    salt: str
    allocation: float
    """The share of users who meet a challenger, any of them, while the trial compares."""
    submitter: str
    opened: datetime
    changed: datetime
    """When the state was entered, or the newest look recorded."""
    awaiting_since: datetime | None
    offline_worse: bool
    """A challenger failed the offline check and was let in all the same, in a simulation."""
    decided_by: str
    reason: str
    promoted_epoch: int | None
    others: tuple[ChallengerRecord, ...] = ()
    out: tuple[str, ...] = ()
    """Names of the challengers that a look has rejected while the trial went on without them."""
    looks: int = 0
    """How many were recorded; `evidence` may hold fewer."""
    evidence: tuple[EvidenceRecord, ...] = field(default=())
    """Oldest first: all of them from `Ledger.trial`, only the newest from `Ledger.trials`."""
    stages: tuple[StageRecord, ...] = field(default=())
    """Oldest first; none for a trial that compared from the start."""
    approvals: tuple[ApprovalRecord, ...] = field(default=())
    """Of the newest look, oldest first. Once promoted: those that counted."""

    @property
    def quorum(self) -> int:
        """How many people must approve."""
        return quorum_of(self.config)

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_STATES

    @property
    def is_watched(self) -> bool:
        """Its challenger is champion, and a promotion that is still looked after."""
        return self.state in WATCHED_STATES

    @property
    def is_aa(self) -> bool:
        """The champion against itself: it tests the measuring, and promotes nobody."""
        return self.challenger_digest == self.champion_digest

    @property
    def challengers(self) -> tuple[ChallengerRecord, ...]:
        """All, in the order of the configuration."""
        return ChallengerRecord(CHALLENGER, self.challenger, self.challenger_digest), *self.others

    @property
    def proposed(self) -> ChallengerRecord:
        """The challenger that the newest look is about, whom an approval promotes; the first before any look."""
        name = named_by(self.evidence[-1].evidence) if self.evidence else CHALLENGER
        return next((each for each in self.challengers if each.name == name), self.challengers[0])

    @property
    def bake_hours(self) -> float:
        """How long a promotion is watched; 0: it is believed at once."""
        return bake_hours_of(self.config, what=f"trial {self.id}")

    @property
    def bakes_until(self) -> datetime | None:
        """On the home's clock; None unless it bakes."""
        return self.changed + timedelta(hours=self.bake_hours) if self.state is TrialState.BAKING else None

    @property
    def mode(self) -> TrialMode:
        return self.stages[-1].mode if self.stages else TrialMode.COMPARE

    @property
    def killed(self) -> StageRecord | None:
        """The stage that took the challengers off all users for good."""
        return self.stages[-1] if self.mode is TrialMode.KILLED else None

    @property
    def decision(self) -> str | None:
        """The newest look's decision; None before the first look."""
        return self.evidence[-1].decision if self.evidence else None


def named_by(evidence: Mapping[str, Any]) -> str:
    """The challenger's arm that a look is about."""
    return str(evidence.get("challenger", CHALLENGER))


def state_after(decision: str, state: TrialState) -> TrialState:
    """Where a look leaves an open trial.

    A REJECT while people are being asked takes the question back: ABORTED, and what was approved so far is void.
    REJECTED, there, is what a person says.
    """
    if decision == "REJECT" and state is TrialState.AWAIT_APPROVAL:
        return TrialState.ABORTED
    return STATE_AFTER[decision] or state


def quorum_of(config: Mapping[str, Any]) -> int:
    """How many people must approve a promotion: two where the frozen configuration protects a group of users."""
    slices = config.get("slices", ())
    parts = slices if isinstance(slices, list | tuple) else ()
    return 2 if any(isinstance(part, Mapping) and part.get("protected") for part in parts) else 1


def bake_hours_of(config: Mapping[str, Any], *, what: str) -> float:
    """Raises UsageError, naming `what`, for a frozen configuration whose `bake_hours` are no hours."""
    hours = config.get("bake_hours", 0)
    if isinstance(hours, bool) or not isinstance(hours, (int, float)) or not 0 <= hours < math.inf:
        raise UsageError(f"{what}: bake_hours = {hours!r}; a number of hours, 0 or more")
    return float(hours)


@dataclass(frozen=True)
class Story:
    """All that MLflow is made to show, of one moment."""

    trials: tuple[TrialRecord, ...]
    history: tuple[Reign, ...]
    versions: tuple[VersionRecord, ...]


@dataclass(frozen=True)
class AuditEntry:
    """One link: `hash` covers every other field here, `previous` among them."""

    number: int
    time: str
    actor: str
    action: str
    subject: str
    payload: Mapping[str, Any]
    previous: str
    hash: str


def canonical_json(value: Mapping[str, Any], *, what: str) -> str:
    """Sorted keys, no spaces, UTF-8 as it is. `what` names the value in errors.

    Raises UsageError for NaN, infinities and other things that JSON lacks: their text would differ between readers.
    """
    flawed = _not_finite(value, at="")
    if flawed:
        raise UsageError(f"{what}: {flawed} is not a finite number; write null where there is none")
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{what}: cannot be written as JSON ({error})") from error


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def stamp(time: datetime) -> str:
    """UTC with six decimals, so that text order is time order. Raises UsageError for a time without zone."""
    if time.tzinfo is None:
        raise UsageError(f"{time.isoformat()}: a time without zone; pass UTC")
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def unstamp(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _not_finite(value: Any, *, at: str) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return at or "the value"
    if isinstance(value, Mapping):
        parts = ((f"{at}.{key}" if at else str(key), part) for key, part in value.items())
    elif isinstance(value, (list, tuple)):
        parts = ((f"{at}[{index}]", part) for index, part in enumerate(value))
    else:
        return ""
    return next((found for place, part in parts if (found := _not_finite(part, at=place))), "")
