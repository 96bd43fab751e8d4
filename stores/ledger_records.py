"""What the ledger hands out: frozen values, the trial's states, and the one canonical form that is hashed.

Plain Python: `serving` reads these, and installs neither pyarrow nor MLflow.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from relations.errors import UsageError

SURFACE = "default"
GATE = "gate"


class TrialState(StrEnum):
    """Where a trial stands. Only the first two let the challenger see users."""

    COMPARE = "COMPARE"
    AWAIT_APPROVAL = "AWAIT_APPROVAL"
    PROMOTED = "PROMOTED"
    REJECTED = "REJECTED"
    INCONCLUSIVE = "INCONCLUSIVE"
    EXPIRED = "EXPIRED"
    STALE = "STALE"
    ABORTED = "ABORTED"
    ROLLED_BACK = "ROLLED_BACK"


OPEN_STATES = (TrialState.COMPARE, TrialState.AWAIT_APPROVAL)

# What a look's decision makes of an open trial; CONTINUE and HOLD leave it where it is.
STATE_AFTER: dict[str, TrialState | None] = {
    "PROMOTE": TrialState.AWAIT_APPROVAL,
    "REJECT": TrialState.REJECTED,
    "INCONCLUSIVE": TrialState.INCONCLUSIVE,
    "CONTINUE": None,
    "HOLD": None,
}


@dataclass(frozen=True)
class Champion:
    """Who serves. `epoch` counts the changes of a surface's champion, from 1."""

    version: int
    digest: str
    epoch: int
    since: datetime


@dataclass(frozen=True)
class ServingTrial:
    """An open trial, as far as serving must know it. `allocation`: the challenger's share of users."""

    id: str
    challenger_version: int
    challenger_digest: str
    champion_epoch: int
    salt: str
    allocation: float


@dataclass(frozen=True)
class DeltaLimits:
    """What a standing approval allows.

    `deltas`: how many; `rows`: how many rows one may change; `relative_change`: the largest of a row, see
    `stores.deltas.patch`; `overlap`: the least share of the base's ten best that a delta must keep, on probe histories.
    """

    deltas: int
    rows: int
    relative_change: float
    overlap: float


@dataclass(frozen=True)
class DeltaFacts:
    """A delta bundle, as the ledger records it. `sequence` counts from 1 on its base; `recipe` is a SHA-256."""

    digest: str
    base_digest: str
    sequence: int
    recipe: str
    rows: int
    bytes: int
    relative_change: float


@dataclass(frozen=True)
class StandingRecord:
    """A person's approval, in advance, of deltas that one recipe makes on one base, within limits, until it expires.

    `number` counts a ledger's standing approvals from 1. `ended` is when it was withdrawn or its base ceased to be
    champion; expiry needs nobody's doing and is not written there.
    """

    number: int
    surface: str
    version: int
    base_digest: str
    champion_epoch: int
    recipe: str
    limits: DeltaLimits
    granted: datetime
    expires: datetime
    granted_by: str
    reason: str
    ended: datetime | None = None
    ended_by: str = ""
    ended_reason: str = ""
    deltas: tuple[DeltaFacts, ...] = ()

    def is_live(self, now: datetime) -> bool:
        return self.ended is None and now < self.expires


@dataclass(frozen=True)
class ServingDelta:
    """The newest delta that may serve in the champion's place until `expires`, on the home's clock."""

    digest: str
    base_digest: str
    sequence: int
    standing: int
    limits: DeltaLimits
    expires: datetime


@dataclass(frozen=True)
class ServingState:
    champion: Champion | None
    trial: ServingTrial | None
    delta: ServingDelta | None = None


@dataclass(frozen=True)
class Reign:
    """One epoch of a surface: who became champion, how, and by whom.

    `restores`: the epoch that a rollback went back to, so that a second rollback goes further back, never forth.
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
class TrialRecord:
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
    submitter: str
    opened: datetime
    changed: datetime
    awaiting_since: datetime | None
    offline_worse: bool
    """The challenger failed the offline check and was let in all the same, in a simulation."""
    decided_by: str
    reason: str
    promoted_epoch: int | None
    evidence: tuple[EvidenceRecord, ...] = field(default=())

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_STATES

    @property
    def decision(self) -> str | None:
        """The newest look's decision; None before the first look."""
        return self.evidence[-1].decision if self.evidence else None


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
