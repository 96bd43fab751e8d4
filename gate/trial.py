"""A trial's frozen promise: what was said before the first user was exposed."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from gate.boundaries import Spending
from gate.metrics import MOST_SLICES, RETURN, SERVED, Better, Metric, Slice
from gate.states import STAGES, TrialMode
from relations.errors import UsageError

CHAMPION = "champion"
CHALLENGER = "challenger"
MOST_CHALLENGERS = 5
BUCKETS = 10_000
"""Users are hashed into so many; a challenger's share is a whole number of them."""


@dataclass(frozen=True)
class Challenger:
    """`name`: its arm in exposures, `challenger`, `challenger-2`, …"""

    name: str
    version: int
    digest: str


@dataclass(frozen=True)
class StagePlan:
    """One stage on the trial's way. `share`: of users who may meet a challenger. `hours`: at least so long, in event
    time. `least`: shadow: requests scored, canary: users shown a challenger, interleaving: users credited until it is
    over without an answer."""

    mode: TrialMode
    share: float = 0.0
    hours: float = 0.0
    least: int = 0


COMPARE_AT_ONCE = (StagePlan(TrialMode.COMPARE),)


@dataclass(frozen=True)
class TrialConfig:
    """What is promised before the first user is exposed. Its hash is in every record; an edit voids the trial.

    `n_max` and `min_users` are of one comparison: the champion's users and one challenger's.
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
    """The trial's opening. Exposures before the comparison's own beginning are its pre-period."""
    deadline: datetime
    """Event time at which the trial ends, with or without an answer."""
    n_max: int
    """Matured users in both arms at which all alpha is spent."""
    primary: Metric
    guardrails: tuple[Metric, ...] = ()
    slices: tuple[Slice, ...] = ()
    others: tuple[Challenger, ...] = ()
    """Further challengers, against the same champion's users."""
    is_aa: bool = False
    """The same artifact in both arms: a rehearsal of the gate, which must find no difference and never promotes."""
    stages: tuple[StagePlan, ...] = COMPARE_AT_ONCE
    surface: str = "default"
    allocation: float = 0.5
    """Share of users that meet a challenger, any of them, constant while the trial compares."""
    window_hours: float = 24.0
    """W: a user's outcome is frozen this long after the first exposure."""
    before_days: float = 14.0
    """Length of the pre-period that CUPED adjusts for."""
    minimum_effect: float = 0.02
    """Minimum detectable effect, relative to the champion's rate."""
    min_users: int = 400
    """Matured users before anything is decided."""
    minimum_days: float = 0.0
    """Days of comparison before anything is promoted, for what is liked because it is new. Harm ends it at any time."""
    looks: int = 10
    """Planned looks; each look that is made is judged at the information it has."""
    alpha: float = 0.025
    """One-sided probability of promoting any challenger when none is better."""
    spending: Spending = Spending.OBF
    harm_alpha: float = 0.01
    """One-sided probability of rejecting a challenger that is no worse, over the whole trial."""
    interleave_alpha: float = 0.01
    """One-sided probability that interleaving prunes a challenger that is no worse."""
    srm_alpha: float = 0.001
    crossed_limit: float = 0.01
    """Share of exposed users seen in both arms above which nothing is promoted: assignment is broken."""
    bot_rules: tuple[str, ...] = ()
    """Names of the rules behind `exposures.is_bot`, fixed before exposure and blind to the arm."""
    bake_hours: float = 0.0
    """How long a promotion is watched before it is believed; 0: not at all."""
    bake_margin: float = 0.2
    """While it is watched: proven to be this much below the former champion's rate, relative, is an alarm."""

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
                ("interleave_alpha", "lie in (0, 0.5)", 0 < self.interleave_alpha < 0.5),
                ("srm_alpha", "lie in (0, 0.5)", 0 < self.srm_alpha < 0.5),
                ("window_hours", "be above 0", self.window_hours > 0),
                ("before_days", "be 0 or more", self.before_days >= 0),
                (
                    "minimum_days",
                    "be 0 or more, and end before the deadline",
                    self.minimum_days >= 0 and self.start + timedelta(days=self.minimum_days) <= self.deadline,
                ),
                ("minimum_effect", "be above 0", self.minimum_effect > 0),
                ("min_users", "be 4 or more", self.min_users >= 4),
                ("n_max", "be at least min_users", self.n_max >= self.min_users),
                ("looks", "be 1 or more", self.looks >= 1),
                ("bake_hours", "be 0 or more", self.bake_hours >= 0),
                ("bake_margin", "lie in (0, 1)", 0 < self.bake_margin < 1),
            )
            if not holds
        ]
        if wrong:
            raise UsageError(f"trial {self.trial_id}: {'; '.join(wrong)}")
        self._check_challengers()
        self._check_metrics()
        self._check_stages()

    def _check_challengers(self) -> None:
        names = [f"{CHALLENGER}-{number}" for number in range(2, len(self.others) + 2)]
        if [each.name for each in self.others] != names or len(self.challengers) > MOST_CHALLENGERS:
            raise UsageError(
                f"trial {self.trial_id}: further challengers are named {CHALLENGER}-2, {CHALLENGER}-3, … in order, at "
                f"most {MOST_CHALLENGERS} in all; got {', '.join(each.name for each in self.others)}"
            )
        digests = Counter(each.digest for each in self.challengers)
        if max(digests.values()) > 1:
            raise UsageError(f"trial {self.trial_id}: one bundle twice: {digests.most_common(1)[0][0][:12]}…")
        same = self.champion_digest in digests
        if self.is_aa is not same or (same and self.others):
            law = "has the champion as its one challenger" if self.is_aa else "needs another bundle than the champion's"
            raise UsageError(f"trial {self.trial_id}: {'an A/A trial' if self.is_aa else 'a trial'} {law}")
        if min(self.shares) <= 0:
            raise UsageError(
                f"trial {self.trial_id}: allocation = {self.allocation} leaves an arm without users; "
                f"each of {len(self.arms)} arms needs at least 1 of {BUCKETS:,} buckets"
            )

    def _check_metrics(self) -> None:
        metrics = (self.primary, *self.guardrails)
        names = [metric.name for metric in metrics]
        if len(set(names)) < len(names):
            raise UsageError(
                f"trial {self.trial_id}: metrics {names} repeat a name; a guardrail is not the primary metric"
            )
        for metric in metrics:
            window = self.window_hours if metric.window_hours is None else metric.window_hours
            if window > self.window_hours:
                raise UsageError(
                    f"metric {metric.name}: window_hours {window:g} is longer than the trial's {self.window_hours:g}; "
                    "users mature once, so raise [trial] window_hours"
                )
            if metric.outcome == RETURN and metric.after_hours >= window:
                raise UsageError(
                    f"metric {metric.name}: after_hours {metric.after_hours:g} must be below its window of {window:g} "
                    "hours; a return within 7 days needs [trial] window_hours = 168"
                )
        if self.primary.better is Better.LOWER:
            raise UsageError(f"metric {self.primary.name}: the primary metric must be one of which more is better")
        slices = [part.name for part in self.slices]
        if len(set(slices)) < len(slices) or len(slices) > MOST_SLICES:
            raise UsageError(f"trial {self.trial_id}: slices {slices}: at most {MOST_SLICES}, each name once")

    def _check_stages(self) -> None:
        places = [STAGES.index(stage.mode) for stage in self.stages if stage.mode in STAGES]
        whole = len(places) == len(self.stages) and places == sorted(places)
        if not whole or not places or self.stages[-1].mode is not TrialMode.COMPARE:
            stated = ", ".join(stage.mode for stage in self.stages) or "none"
            raise UsageError(
                f"trial {self.trial_id}: stages {stated}; they go shadow, canary, interleave, compare, and end with "
                "compare, the only one that can promote"
            )
        if self.primary.outcome in (*SERVED, RETURN) and any(s.mode is TrialMode.INTERLEAVE for s in self.stages):
            raise UsageError(
                f"trial {self.trial_id}: {self.primary.outcome} names no item, so lists drafted from both rankings "
                f"tell nothing of metric {self.primary.name}; leave the stage interleave out"
            )

    @property
    def challengers(self) -> tuple[Challenger, ...]:
        return (Challenger(CHALLENGER, self.challenger_version, self.challenger_digest), *self.others)

    @property
    def arms(self) -> tuple[str, ...]:
        return (CHAMPION, *(each.name for each in self.challengers))

    @property
    def shares(self) -> tuple[float, ...]:
        """Expected share of users of each arm: bucket b < 10,000 · allocation meets challenger b mod K."""
        treated, count = round(BUCKETS * self.allocation), len(self.challengers)
        each = [len(range(number, treated, count)) for number in range(count)]
        return ((BUCKETS - treated) / BUCKETS, *(size / BUCKETS for size in each))

    def pair(self, challenger: str) -> tuple[float, float]:
        """Expected split between the champion's users and this challenger's."""
        shares = dict(zip(self.arms, self.shares, strict=True))
        both = shares[CHAMPION] + shares[challenger]
        return shares[CHAMPION] / both, shares[challenger] / both

    @property
    def alpha_each(self) -> float:
        """Bonferroni: one of K null challengers is promoted with at most `alpha`."""
        return self.alpha / len(self.challengers)

    @property
    def harm_alpha_each(self) -> float:
        return self.harm_alpha / len(self.challengers)

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
            for name, read in _READ.items():
                parts[name] = read(parts[name])
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


_READ: dict[str, Callable[[Any], Any]] = {
    "start": datetime.fromisoformat,
    "deadline": datetime.fromisoformat,
    "primary": Metric.from_json,
    "guardrails": lambda parts: tuple(Metric.from_json(part) for part in parts),
    "slices": lambda parts: tuple(Slice.from_json(part) for part in parts),
    "others": lambda parts: tuple(Challenger(**part) for part in parts),
    "stages": lambda parts: tuple(StagePlan(**{**part, "mode": TrialMode(part["mode"])}) for part in parts),
    "spending": Spending,
    "bot_rules": tuple,
}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return stamp(value)
    if isinstance(value, Metric | Slice):
        return value.as_json()
    if isinstance(value, Challenger | StagePlan):
        return {name: _plain(part) for name, part in vars(value).items()}
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if isinstance(value, StrEnum):
        return value.value
    return value
