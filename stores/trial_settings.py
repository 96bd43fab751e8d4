"""Settings of trials: what they are judged on, how they go, and when they end."""

from typing import Annotated, Literal

from pydantic import Field

from stores.sections import Count, NotNegative, Positive, Section, Share

Fraction = Annotated[float, Field(gt=0, lt=1)]
Error = Annotated[float, Field(gt=0, lt=0.5)]
Stage = Literal["shadow", "canary", "interleave", "compare"]


class MetricSettings(Section):
    outcome: str = "click"
    """Behaviour whose events with an exposure count; or latency, failure, distinct, tail (told by the exposures),
    return (the user was seen again), or weighted (a trade-off, see `weights`)."""
    weights: dict[str, float] = {}
    """Of `weighted`: behaviour → what an exposure with it is worth; below 0 where it costs."""
    per: str = "impression"
    """What outcomes are divided by: impression, user, or another behaviour (purchases per click)."""
    value: Literal["count", "sum"] = "count"
    """`count`: at most one a shown item; `sum`: the events' values (revenue, seconds of dwell)."""
    better: Literal["higher", "lower"] = "higher"
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Non-inferiority margin as a guardrail, relative to the champion."""
    absolute: NotNegative = 0.0
    """Added to the margin, in the metric's own unit; for rates near 0, such as failures."""
    window_hours: Positive | None = None
    """Outcomes later than this after a user's first exposure do not count; default and most: [trial] window_hours."""
    after_hours: NotNegative = 24.0
    """Of `return`: being seen again counts from so long after the first exposure."""
    cap: Positive | None = None
    """A user's total within the window counts as this much at most, in the unit of what is counted (winsorised); the
    same of the pre-period. For values with heavy tails, such as revenue; `ratchet trial plan` suggests one."""


class SliceSettings(Section):
    by: str
    """new, surface, context.KEY (of the user's first exposure in the trial) or attribute.KEY (of the user then)."""
    equals: str
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Proven to lose more than this, relative, rejects the challenger."""
    protected: bool = False
    """Nothing is promoted without proof that this group does not lose more than the margin."""


class ShadowSettings(Section):
    hours: NotNegative = 6.0
    """The shadow lasts at least so long, in event time."""
    requests: Count = 1_000
    """And until so many requests were asked of the challenger."""


class CanarySettings(Section):
    shares: tuple[Fraction, ...] = (0.01, 0.05)
    """Of users, step by step; who is in the canary stays out of the comparison."""
    hours: NotNegative = 6.0
    """Each step lasts at least so long, in event time."""
    users: Count = 50
    """And until so many users were shown the challenger."""


class InterleaveSettings(Section):
    share: Fraction = 0.2
    """Of users, who get lists drafted from both rankings."""
    hours: NotNegative = 0.0
    users: Count = 2_000
    """Ends after so many users with a preference, pruned or not."""
    alpha: Error = 0.01
    """One-sided probability of pruning a challenger that is no worse."""


class TrialSettings(Section):
    metric: str = "clicks"
    """The one primary metric, a name in [trial.metrics]."""
    guardrails: tuple[str, ...] = ()
    """Metrics that must not become worse than their margins."""
    stages: tuple[Stage, ...] = ("shadow", "canary", "compare")
    """What a challenger goes through, in this order; the last is always `compare`."""
    shadow: ShadowSettings = ShadowSettings()
    canary: CanarySettings = CanarySettings()
    interleave: InterleaveSettings = InterleaveSettings()
    allocation: Fraction = 0.5
    """Share of users who meet a challenger during the comparison, any of them."""
    alpha: Error = 0.025
    """One-sided probability of a promotion when no challenger is better."""
    spending: Literal["obf", "hsd"] = "obf"
    window_hours: Positive = 24.0
    """Attribution window W: a user's outcome is frozen this long after the first exposure."""
    before_days: NotNegative = 14.0
    """Length of the pre-period that the estimate is adjusted for."""
    minimum_effect: Positive = 0.02
    """Minimum detectable effect, relative to the champion's rate; `ratchet trial plan` tells what it costs."""
    n_max: Count = 20_000
    """Matured users in both arms at which all alpha is spent."""
    min_users: Count = 400
    """Matured users before the first look decides."""
    minimum_days: NotNegative = 14.0
    """Days of comparison before anything is promoted: two weekly cycles, for what is liked because it is new."""
    deadline_days: Positive = 28.0
    """Days of comparison after which the trial ends, answered or not."""
    looks: Count = 10
    """Planned looks; the boundary is computed at the information that each look really has."""
    srm_alpha: Error = 0.001
    harm_alpha: Error = 0.01
    failures: Share = 0.01
    """In the shadow, the canary and while baking: a share of failed requests this much above the champion's is too
    many."""
    latency: Positive = 2.0
    """And a p99 latency this many times the champion's is too slow."""
    bake_hours: NotNegative = 24.0
    """How long a promotion is watched before it is believed; 0: not at all."""
    bake_margin: Fraction = 0.2
    """While it is watched: a primary metric proven this much below the former champion's brings that one back."""
    metrics: dict[str, MetricSettings] = {"clicks": MetricSettings()}
    slices: dict[str, SliceSettings] = {}
