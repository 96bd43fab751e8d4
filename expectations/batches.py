"""Batch verdicts: does a delivery as a whole look like the deliveries before it.

Rows can be right one by one and wrong together. `relations.profile` says in numbers what a delivery looks like; here
each number is held against its values in the trailing window, by Great Expectations on a frame of one row.

A bound is robust: median + `spread` robust standard deviations (1.4826 × the median absolute deviation, Hampel 1974),
so that one strange delivery in the window moves it little. It is never tighter than the norm's `floor`, nor than chance
among so few rows allows. Only excess counts, but for volume and means: fewer bots than usual are no fault.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import median
from typing import Any

from expectations.engine import frame_definition, great_expectations
from expectations.verdicts import Reason

CLUSTERED = 1.4
"""Ratings of one user err together: the standard deviation of clean batches' flip evidence, as a multiple of that of
independent rows. Measured on MovieLens 100k (1.2 to 1.6)."""
Profile = Mapping[str, float]


class Severity(Enum):
    CRITICAL = "critical"
    WARNING = "warning"


class Unit(Enum):
    """Of a number, and so how it varies by chance and how it is said."""

    SHARE = "share"
    COUNT = "count"
    HOURS = "hours"
    SCORE = "score"
    PLAIN = "plain"


@dataclass(frozen=True)
class Norm:
    """A bound on one number of the profile. `says`: what is the matter, with {saw}. `do`: what to do about it."""

    number: str
    severity: Severity
    unit: Unit
    floor: float
    """The bound is never below: what is harmless whatever was usual."""
    says: str
    do: str
    spread: float = 6.0
    rows: int = 0
    """A share below this many rows is chance."""
    factor: float | None = None
    """Varies by factors, as volumes and maxima do: judged by its logarithm, and this factor is never remarkable."""
    both: bool = False
    """Too little counts as well."""


_CHECK = "look at its rows with `ratchet quarantine show`; replay it if they are right, drop it if not"
EVENT_RULES: tuple[Norm, ...] = (
    Norm(
        *("user_top", Severity.CRITICAL, Unit.SHARE, 0.03),
        says="one user wrote {saw} of the rows",
        do=f"a client that gives everybody one id, or a script; {_CHECK}",
        rows=20,
        factor=1.5,
    ),
    Norm(
        *("presence", Severity.CRITICAL, Unit.SHARE, 0.35),
        says="one user, among the busiest, is active in {saw} of the delivery's time",
        do=f"people come and go: an id that many share, or a script; {_CHECK}",
    ),
    Norm(
        *("regular", Severity.CRITICAL, Unit.SHARE, 0.01),
        says="{saw} of the rows come from users who write at an even pace, as timers do",
        do=f"bots or a load test; {_CHECK}",
        rows=20,
    ),
    Norm(
        *("fast", Severity.CRITICAL, Unit.SHARE, 0.01),
        says="{saw} of the rows come from users who write more than an event a second",
        do=f"bots, or clients that stamp what they kept back; {_CHECK}",
        rows=20,
    ),
    Norm(
        *("heavy", Severity.CRITICAL, Unit.SHARE, 0.027),  # exceeded by 1 of 190 clean batches of DIGINETICA
        says="{saw} of the rows come from users with more rows than 999 of 1,000 had in an earlier delivery",
        do=f"bots or scripts; {_CHECK}",
        rows=20,
    ),
    Norm(
        *("item_surge", Severity.CRITICAL, Unit.SHARE, 0.025),
        says="one item's share of the rows rose by {saw} over its share of the window",
        do=f"a bought or scripted popularity, or a real launch; {_CHECK}",
        rows=20,
    ),
    Norm(
        *("orphans", Severity.CRITICAL, Unit.SHARE, 0.005),
        says="{saw} of the rows put in a cart or buy what the user never looked at",
        do=f"labels that were exchanged, or a source that lost its views; {_CHECK}",
        rows=10,
    ),
    Norm(
        *("flip_mean", Severity.CRITICAL, Unit.SCORE, 0.0),
        says="ratings contradict their users' and items' other ratings, as flipped ones do ({saw} a row)",
        do=f"a scale that was turned round, or forged labels; {_CHECK}",
        spread=3.0,
    ),
    Norm(
        *("behaviour_psi", Severity.CRITICAL, Unit.PLAIN, 0.25),
        says="what users do differs from the window's (population stability index {saw})",
        do=f"0.25 is a different mix: a mapping that exchanged behaviours, or half of a feed; {_CHECK}",
    ),
    Norm(
        *("behaviour_psi", Severity.WARNING, Unit.PLAIN, 0.02),
        says="what users do differs from the window's (population stability index {saw})",
        do="compare the shares of the behaviours in the receipts' profiles; a sale and a new app look like this",
    ),
    *(
        Norm(
            *("item_unknown", severity, Unit.SHARE, floor),
            says="{saw} of the rows are on items that neither the items table nor an earlier event knows",
            do="deliver the items first, or check the mapping of item_id",
            rows=20,
        )
        for severity, floor in ((Severity.CRITICAL, 0.8), (Severity.WARNING, 0.05))
    ),
    *(
        Norm(
            *("ahead", severity, Unit.SHARE, floor),
            says="{saw} of the rows happened more than 5 minutes after they arrived",
            do="a clock or a time zone is wrong at the source; set it right and deliver again",
            rows=5,
        )
        for severity, floor in ((Severity.CRITICAL, 0.5), (Severity.WARNING, 0.01))
    ),
    Norm(
        *("behind", Severity.WARNING, Unit.SHARE, 0.05),
        says="{saw} of the rows are more than a week old on arrival",
        do="a backfill comes in by `ratchet ingest FILE`; else a clock or a queue at the source is late",
        rows=5,
    ),
    Norm(
        *("newest_age_hours", Severity.WARNING, Unit.HOURS, 24.0),
        says="the newest row was {saw} old on arrival",
        do="the source's export or the upload is late, or its clock is",
    ),
    Norm(
        *("null_value", Severity.WARNING, Unit.SHARE, 0.05),
        says="{saw} of the rows have no value",
        do="check the mapping of `value` and the source's columns",
        rows=20,
    ),
    Norm(
        *("rating_mean", Severity.WARNING, Unit.PLAIN, 0.0),
        says="the mean rating is {saw}",
        do="check the scale that the source writes",
        factor=2.0,
        both=True,
    ),
)
VOLUME = Norm(
    *("rows", Severity.WARNING, Unit.COUNT, 0.0),
    says="the delivery has {saw} rows",
    do="half a day, two days in one, or a second copy under new ids; look at what the source exported",
    factor=3.0,
    both=True,
)
RULES: Mapping[str, tuple[Norm, ...]] = {"events": (VOLUME, *EVENT_RULES)}


@dataclass(frozen=True)
class BatchVerdict:
    """`result`: Great Expectations' own; None where there was nothing to compare with."""

    critical: tuple[Reason, ...]
    warnings: tuple[Reason, ...]
    result: Any


@dataclass(frozen=True)
class Bound:
    norm: Norm
    low: float | None
    high: float
    smallest: float
    largest: float
    """Of the window."""

    @property
    def name(self) -> str:
        return f"{self.norm.number}_{self.norm.severity.value}"

    def holds(self, profile: Profile) -> bool:
        """What the expectation says, without Great Expectations."""
        value = profile[self.norm.number]
        return value <= self.high and (self.low is None or value >= self.low)


def judge_profile(
    profile: Profile, *, baseline: Sequence[Profile], kind: str, min_window: int = 8, min_rows: int = 200
) -> BatchVerdict:
    """Hold `profile` against those of earlier accepted deliveries of the same source and `kind`, in any order.

    With fewer than `min_window` of at least `min_rows` rows, or fewer rows than that itself, nothing is an anomaly.
    A number that the profile or most of the window lacks is not judged. Raises RuntimeError when an expectation raises:
    our fault, not the delivery's.
    """
    found = bounds(profile, baseline=baseline, kind=kind, min_window=min_window, min_rows=min_rows)
    if not found:
        return BatchVerdict((), (), None)
    import pandas as pd

    gx = great_expectations()
    checks = [_expectation(gx, bound, saw=profile[bound.norm.number], window=len(baseline)) for bound in found]
    suite = gx.ExpectationSuite(name=f"{kind} batch", expectations=checks)
    at = {bound.name: bound for bound in found}
    parameters = {f"{bound.name}_max": bound.high for bound in found}
    parameters |= {f"{bound.name}_min": bound.low for bound in found if bound.low is not None}
    frame = pd.DataFrame([{bound.norm.number: profile[bound.norm.number] for bound in found}])
    batch = frame_definition(f"{kind}_batch").get_batch(batch_parameters={"dataframe": frame})
    result = batch.validate(suite, result_format="COMPLETE", expectation_parameters=parameters)
    reasons: dict[Severity, dict[str, Reason]] = {severity: {} for severity in Severity}
    for outcome in result.results:
        config = outcome.expectation_config
        if "observed_value" not in outcome.result and "element_count" not in outcome.result:
            raise RuntimeError(f"expectation {config.type} on {config.kwargs.get('column')}: {outcome.exception_info}")
        if not outcome.success:
            number = config.kwargs["column"]
            bound = at[f"{number}_{config.severity.value}"]
            said = f"{config.notes}; {bound.norm.do}"
            reasons[bound.norm.severity][number] = Reason(config.type, number, said)
    critical = reasons[Severity.CRITICAL]
    warned = [reason for number, reason in reasons[Severity.WARNING].items() if number not in critical]
    return BatchVerdict(tuple(critical.values()), tuple(warned), result)


def bounds(
    profile: Profile, *, baseline: Sequence[Profile], kind: str, min_window: int, min_rows: int
) -> tuple[Bound, ...]:
    """What this delivery is held to; empty where nothing may be called an anomaly."""
    window = [each for each in baseline if each.get("rows", 0) >= min_rows]
    if profile.get("rows", 0) < min_rows or len(window) < min_window:
        return ()
    found = []
    for norm in RULES.get(kind, (VOLUME,)):
        seen = [each[norm.number] for each in window if norm.number in each]
        if norm.number in profile and len(seen) >= min_window:
            found.append(_bound(norm, profile, window=window, seen=seen))
    return tuple(found)


def _bound(norm: Norm, profile: Profile, *, window: Sequence[Profile], seen: Sequence[float]) -> Bound:
    rows = profile["rows"]
    chance = norm.rows / rows
    if norm.factor is not None:
        logs = [math.log(max(value, 1e-6)) for value in seen]
        room = max(math.log(norm.factor), norm.spread * _deviation(logs))
        high, low = math.exp(median(logs) + room), math.exp(median(logs) - room)
    else:
        deviation = _deviation(seen)
        if norm.unit is Unit.SCORE:
            # A mean of standardised evidence: its own standard error is 1 / √ratings, and the window's scales alike.
            usual = median(each["flip_rows"] for each in window if "flip_rows" in each)
            ratings = profile["flip_rows"]
            deviation = max(deviation * max(1.0, math.sqrt(usual / ratings)), CLUSTERED / math.sqrt(ratings))
        high, low = median(seen) + norm.spread * deviation, median(seen) - norm.spread * deviation
    high = max(high, norm.floor, chance)
    return Bound(norm, low if norm.both else None, high, min(seen), max(seen))


def _deviation(values: Sequence[float]) -> float:
    """Robust standard deviation: 1.4826 · median |x − median x|, the standard deviation of normal values."""
    middle = median(values)
    return 1.4826 * median([abs(value - middle) for value in values])


def _expectation(gx: Any, bound: Bound, *, saw: float, window: int) -> Any:
    norm = bound.norm
    limits = {"max_value": {"$PARAMETER": f"{bound.name}_max"}}
    if bound.low is not None:
        limits["min_value"] = {"$PARAMETER": f"{bound.name}_min"}
    return gx.expectations.ExpectColumnValuesToBeBetween(
        column=norm.number,
        severity=norm.severity.value,
        notes=_message(bound, saw=saw, window=window),
        **limits,
    )


def _message(bound: Bound, *, saw: float, window: int) -> str:
    norm = bound.norm
    stated = norm.says.format(saw=_said(saw, norm.unit))
    smallest, largest, low, high = (
        None if value is None else _said(value, norm.unit)
        for value in (bound.smallest, bound.largest, bound.low, bound.high)
    )
    if low is None:
        return f"{stated}; the last {window} deliveries had at most {largest}, and the bound is {high}"
    return f"{stated}; the last {window} deliveries had {smallest} to {largest}, and the bounds are {low} and {high}"


def _said(value: float, unit: Unit) -> str:
    if unit is Unit.SHARE:
        return f"{100 * value:.2g} %" if value < 0.995 else f"{100 * value:.0f} %"
    if unit is Unit.COUNT:
        return f"{value:,.0f}"
    if unit is Unit.HOURS:
        return f"{value:,.1f} h"
    return f"{value:.3g}"
