"""A trial: what was promised before it began, and the states it may pass through."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from gate.boundaries import Spending
from relations.errors import UsageError
from relations.schemas import ITEM_BEHAVIOURS

CHAMPION = "champion"
CHALLENGER = "challenger"


class TrialState(StrEnum):
    REGISTERED = "REGISTERED"
    OFFLINE_OK = "OFFLINE_OK"
    SHADOW = "SHADOW"
    CANARY = "CANARY"
    INTERLEAVE = "INTERLEAVE"
    COMPARE = "COMPARE"
    AWAIT_APPROVAL = "AWAIT_APPROVAL"
    PROMOTING = "PROMOTING"
    BAKING = "BAKING"
    PROMOTED = "PROMOTED"
    REJECTED = "REJECTED"
    ABORTED = "ABORTED"
    EXPIRED = "EXPIRED"
    INCONCLUSIVE = "INCONCLUSIVE"
    STALE = "STALE"
    ROLLED_BACK = "ROLLED_BACK"

    @property
    def is_end(self) -> bool:
        return not TRANSITIONS[self]

    def may_become(self, other: "TrialState") -> bool:
        return other in TRANSITIONS[self]


_S = TrialState
_STOPPED = frozenset({_S.REJECTED, _S.ABORTED, _S.EXPIRED, _S.STALE})

# A stage may be skipped where a home does not use it, but never COMPARE or AWAIT_APPROVAL: every way to PROMOTED leads
# through both. From REJECTED, STALE and the other ends only a new trial leads on.
TRANSITIONS: dict[TrialState, frozenset[TrialState]] = {
    _S.REGISTERED: frozenset({_S.OFFLINE_OK}) | _STOPPED,
    _S.OFFLINE_OK: frozenset({_S.SHADOW, _S.CANARY, _S.COMPARE}) | _STOPPED,
    _S.SHADOW: frozenset({_S.CANARY, _S.COMPARE}) | _STOPPED,
    _S.CANARY: frozenset({_S.INTERLEAVE, _S.COMPARE}) | _STOPPED,
    _S.INTERLEAVE: frozenset({_S.COMPARE}) | _STOPPED,
    _S.COMPARE: frozenset({_S.AWAIT_APPROVAL, _S.INCONCLUSIVE}) | _STOPPED,
    _S.AWAIT_APPROVAL: frozenset({_S.PROMOTING}) | _STOPPED,
    _S.PROMOTING: frozenset({_S.BAKING, _S.PROMOTED, _S.STALE, _S.ABORTED}),
    _S.BAKING: frozenset({_S.PROMOTED, _S.ROLLED_BACK}),
    _S.PROMOTED: frozenset({_S.ROLLED_BACK}),
    _S.REJECTED: frozenset(),
    _S.ABORTED: frozenset(),
    _S.EXPIRED: frozenset(),
    _S.INCONCLUSIVE: frozenset(),
    _S.STALE: frozenset(),
    _S.ROLLED_BACK: frozenset(),
}


class Value(StrEnum):
    COUNT = "count"
    """At most one outcome a shown item."""
    SUM = "sum"
    """The events' values."""


class Better(StrEnum):
    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True)
class Metric:
    """Outcomes per impression. `margin`: how much worse, relative to the champion, a guardrail may be."""

    name: str
    outcome: str
    value: Value = Value.COUNT
    margin: float = 0.1
    better: Better = Better.HIGHER


@dataclass(frozen=True)
class TrialConfig:
    """What is promised before the first user is exposed. Its hash is in every record; an edit voids the trial.

    Raises UsageError, naming the field, for a value that no trial can have.
    """

    trial_id: str
    challenger_version: int
    challenger_digest: str
    champion_version: int
    champion_digest: str
    champion_epoch: int
    salt: str
    start: datetime
    """Exposures before this are the pre-period."""
    deadline: datetime
    """Event time at which the trial ends, with or without an answer."""
    n_max: int
    """Matured users in both arms at which all alpha is spent."""
    primary: Metric
    guardrails: tuple[Metric, ...] = ()
    surface: str = "default"
    allocation: float = 0.5
    """Share of users that the challenger gets, constant while the trial compares."""
    window_hours: float = 24.0
    """W: a user's outcome is frozen this long after the first exposure."""
    before_days: float = 14.0
    """Length of the pre-period that CUPED adjusts for."""
    minimum_effect: float = 0.02
    """Minimum detectable effect, relative to the champion's rate."""
    min_users: int = 400
    """Matured users before anything is decided."""
    looks: int = 10
    """Planned looks; each look that is made is judged at the information it has."""
    alpha: float = 0.025
    """One-sided probability of promoting a challenger that is no better."""
    spending: Spending = Spending.OBF
    harm_alpha: float = 0.01
    """One-sided probability of rejecting a challenger that is no worse, over the whole trial."""
    srm_alpha: float = 0.001
    crossed_limit: float = 0.01
    """Share of exposed users seen in both arms above which nothing is promoted: assignment is broken."""
    bot_rules: tuple[str, ...] = ()
    """Names of the rules behind `exposures.is_bot`, fixed before exposure and blind to the arm."""

    def __post_init__(self) -> None:
        for name in ("start", "deadline"):
            if getattr(self, name).tzinfo is None:
                raise UsageError(f"trial {self.trial_id}: {name} = {getattr(self, name)} has no zone; pass UTC")
        wrong = [
            f"{field} = {getattr(self, field)} must {law}"
            for field, law, holds in (
                ("deadline", "be after start", self.deadline > self.start),
                ("allocation", "lie in (0, 1)", 0 < self.allocation < 1),
                ("alpha", "lie in (0, 0.5)", 0 < self.alpha < 0.5),
                ("harm_alpha", "lie in (0, 0.5)", 0 < self.harm_alpha < 0.5),
                ("srm_alpha", "lie in (0, 0.5)", 0 < self.srm_alpha < 0.5),
                ("window_hours", "be above 0", self.window_hours > 0),
                ("before_days", "be 0 or more", self.before_days >= 0),
                ("minimum_effect", "be above 0", self.minimum_effect > 0),
                ("min_users", "be 4 or more", self.min_users >= 4),
                ("n_max", "be at least min_users", self.n_max >= self.min_users),
                ("looks", "be 1 or more", self.looks >= 1),
            )
            if not holds
        ]
        if wrong:
            raise UsageError(f"trial {self.trial_id}: {'; '.join(wrong)}")
        metrics = (self.primary, *self.guardrails)
        names = [metric.name for metric in metrics]
        if len(set(names)) < len(names):
            raise UsageError(
                f"trial {self.trial_id}: metrics {names} repeat a name; a guardrail is not the primary metric"
            )
        for metric in metrics:
            if metric.outcome not in ITEM_BEHAVIOURS:
                known = ", ".join(ITEM_BEHAVIOURS)
                raise UsageError(f"metric {metric.name}: outcome {metric.outcome!r} is none of {known}")
            if not 0 <= metric.margin < 1:
                raise UsageError(f"metric {metric.name}: margin {metric.margin} must lie in [0, 1)")
        if self.primary.better is Better.LOWER:
            raise UsageError(f"metric {self.primary.name}: the primary metric must be one of which more is better")

    @property
    def expected_split(self) -> tuple[float, float]:
        """Shares of users that champion and challenger should have."""
        return 1 - self.allocation, self.allocation

    def as_json(self) -> dict[str, Any]:
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    @staticmethod
    def from_json(stated: Mapping[str, Any]) -> "TrialConfig":
        """The config whose `as_json` this is. Raises UsageError for missing or unknown keys."""
        known = {field.name for field in fields(TrialConfig)}
        if set(stated) != known:
            odd = sorted(set(stated) ^ known)
            raise UsageError(f"trial.json: {', '.join(odd)} missing or unknown; the file must be as the trial wrote it")
        parts = dict(stated)
        try:
            for name in ("start", "deadline"):
                parts[name] = datetime.fromisoformat(parts[name])
            parts["primary"] = _metric(parts["primary"])
            parts["guardrails"] = tuple(_metric(part) for part in parts["guardrails"])
            parts["spending"] = Spending(parts["spending"])
            parts["bot_rules"] = tuple(parts["bot_rules"])
        except (TypeError, KeyError, ValueError) as error:
            raise UsageError(f"trial.json: {error}; the file must be as the trial wrote it") from error
        return TrialConfig(**parts)

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, 64 hex digits."""
        return digest(self.as_json())


def canonical(value: Mapping[str, Any]) -> str:
    """The one text of a JSON object: sorted keys, no spaces, UTF-8 as it is. Raises ValueError for NaN and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(value).encode("utf-8")).hexdigest()


def finite(value: float) -> float | None:
    """For JSON, which has no NaN and no infinity."""
    return float(value) if math.isfinite(value) else None


def stamp(time: datetime) -> str:
    """UTC with six decimals, so that text order is time order."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return stamp(value)
    if isinstance(value, Metric):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if isinstance(value, StrEnum):
        return value.value
    return value


def _metric(stated: Mapping[str, Any]) -> Metric:
    return Metric(**{**stated, "value": Value(stated["value"]), "better": Better(stated["better"])})
