"""After the promotion: is the new champion served, do its answers come, and does it earn what the trial promised?

Everybody meets the new champion now, so there is no control group any more. It is compared with the former champion's
users in the trial: by outcomes within as many hours of their first exposure, over as many hours of the comparison as
the bake has lasted. Time has moved between the two (weekdays, campaigns, the season), which no statistics can take out
again: hence the margin is wide ([trial] bake_margin, .2), and an alarm means "look", after the former champion is back.

| | alarm: roll back | holds |
|---|---|---|
| serving | – | a running server reports another digest, or none answers and no exposure shows it |
| failures | the share is proven larger than the former's by more than `failures` | no answers |
| p99 | beyond `latency` times the former's | too few requests |
| primary metric | proven below (1 − bake_margin) times the former's rate, at any time | too few matured users |

Alarms are looked for first and need no whole data; passing needs all of it. What is missing holds, and never passes.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from gate.estimator import ArmSums
from gate.guardrails import Guardrail, judge_guardrail
from gate.metrics import RETURN, Metric
from gate.served import Served, ServedLimits, slowness_unknown, too_many_failures, too_slow
from gate.trial import TrialConfig

MIN_BAKE_USERS = 100
"""Matured users of either champion that passing needs, or the trial's `min_users` where those are fewer."""


class Watch(StrEnum):
    """What a look at a promotion says."""

    BAKING = "BAKING"
    """Go on watching: the time is not over, or data are missing."""
    PASSED = "PASSED"
    ROLL_BACK = "ROLL_BACK"


@dataclass(frozen=True)
class BakeFacts:
    """`since`: when serving was seen to serve the new champion; `watermark`: event time up to which data are complete.

    `reported`: the champions' digests that running servers report; None or empty: no server could be asked.
    `new`, `former`: answers of the new champion since then, and of the former one's arm in the comparison.
    `new_sums`, `former_sums`: the primary metric of their users matured within `bake_window`.
    `problems`: why the data cannot be trusted.
    """

    digest: str
    since: datetime
    watermark: datetime
    reported: frozenset[str] | None
    new: Served
    former: Served
    new_sums: ArmSums
    former_sums: ArmSums
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Baked:
    """One look at a promotion. `metric`: None while it cannot be estimated."""

    outcome: Watch
    reasons: tuple[str, ...]
    metric: Guardrail | None
    facts: BakeFacts

    def as_json(self) -> dict[str, Any]:
        facts = self.facts
        return {
            "outcome": self.outcome.value,
            "reasons": list(self.reasons),
            "since": facts.since.isoformat(),
            "watermark": facts.watermark.isoformat(),
            "digest": facts.digest,
            "reported": None if facts.reported is None else sorted(facts.reported),
            "served": {"new": facts.new.as_json(), "former": facts.former.as_json()},
            "metric": None if self.metric is None else self.metric.as_json(),
            "users": [int(facts.former_sums.n), int(facts.new_sums.n)],
        }


def bake_window(config: TrialConfig) -> timedelta:
    """How long after a user's first exposure outcomes count here: W, or half of the bake where that is shorter.

    An alarm that waits for W = 7 days is none. Both champions are measured alike, so a shorter window is as fair; only
    a metric of returning users has no meaning before its own window is over.
    """
    own = config.window_hours if config.primary.window_hours is None else config.primary.window_hours
    if config.primary.outcome == RETURN:
        return timedelta(hours=own)
    return timedelta(hours=min(own, config.bake_hours / 2))


def judge_bake(config: TrialConfig, facts: BakeFacts, *, limits: ServedLimits) -> Baked:
    """Judge a promotion that bakes, by all that happened since it was served; valid however often one looks."""
    metric = _metric(config, facts)
    alarms = (
        too_many_failures(facts.new, facts.former, limits=limits),
        too_slow(facts.new, facts.former, limits=limits),
        _harm(config, facts, metric),
    )
    found = tuple(alarm for alarm in alarms if alarm)
    if found:
        return Baked(Watch.ROLL_BACK, found, metric, facts)
    waits = (*facts.problems, *_missing(config, facts, metric))
    if waits:
        return Baked(Watch.BAKING, waits, metric, facts)
    return Baked(Watch.PASSED, (_passed(config, facts, metric),), metric, facts)


def served_everywhere(digest: str, *, reported: frozenset[str] | None, logged: Served) -> str:
    """Why `digest` is not known to be served; empty where it is.

    Running servers are believed; where none could be asked, the exposures logged under the new epoch are.
    """
    if not reported:
        if digest in logged.digests:
            return ""
        return f"no running server could be asked, and no exposure shows {digest[:12]}… yet"
    others = sorted(reported - {digest})
    if others:
        told = ", ".join(f"{other[:12]}…" if other else "none" for other in others)
        return f"serving should serve {digest[:12]}…, and reports {told}"
    return ""


def _metric(config: TrialConfig, facts: BakeFacts) -> Guardrail | None:
    """The primary metric as a guardrail with the bake's margin: the comparison's harm rule, on other users."""
    arms = facts.former_sums, facts.new_sums
    if min(arm.n for arm in arms) < _least(config) or not all(arm.i for arm in arms):
        return None
    watched: Metric = replace(config.primary, margin=config.bake_margin)
    return judge_guardrail(
        watched,
        champion=facts.former_sums,
        challenger=facts.new_sums,
        boundary=None,
        harm_alpha=config.harm_alpha,
        n_max=config.n_max,
    )


def _least(config: TrialConfig) -> int:
    return min(MIN_BAKE_USERS, config.min_users)


def _harm(config: TrialConfig, facts: BakeFacts, metric: Guardrail | None) -> str:
    if metric is None or metric.harm_p > config.harm_alpha:
        return ""
    return (
        f"{metric.name}: {metric.challenger_rate:.5f} against the former champion's {metric.champion_rate:.5f} in the "
        f"trial, proven to be more than {config.bake_margin:.0%} below it over {int(facts.former_sums.n):,} and "
        f"{int(facts.new_sums.n):,} users (always-valid p = {metric.harm_p:.2g})"
    )


def _missing(config: TrialConfig, facts: BakeFacts, metric: Guardrail | None) -> tuple[str, ...]:
    """What passing still needs."""
    until = facts.since + timedelta(hours=config.bake_hours)
    unserved = served_everywhere(facts.digest, reported=facts.reported, logged=facts.new)
    waits = [unserved, slowness_unknown(facts.new, facts.former, names=("the new champion's", "the former champion's"))]
    if metric is None:
        waits.append(
            f"{int(facts.new_sums.n):,} users of the new champion and {int(facts.former_sums.n):,} of the former one "
            f"have matured, {_least(config):,} are needed of each"
        )
    if facts.watermark < until:
        waits.append(f"watched until {until:%Y-%m-%d %H:%M} UTC ({config.bake_hours:g} hours)")
    return tuple(wait for wait in waits if wait)


def _passed(config: TrialConfig, facts: BakeFacts, metric: Guardrail | None) -> str:
    rates = "" if metric is None else f", {metric.name} {metric.challenger_rate:.5f} (was {metric.champion_rate:.5f})"
    return (
        f"{config.bake_hours:g} hours without an alarm: {facts.new.failures:,} of {facts.new.requests:,} answers "
        f"failed, p99 {facts.new.p99_ms or 0:.1f} ms (was {facts.former.p99_ms or 0:.1f}){rates}"
    )
