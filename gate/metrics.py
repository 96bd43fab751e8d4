"""What a trial is judged on: metrics as ratios over a user's exposures, and groups of users to look at apart."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from relations.errors import UsageError
from relations.schemas import ITEM_BEHAVIOURS

SERVED: tuple[str, ...] = ("latency", "failure", "distinct", "tail")
"""Outcomes that the exposures tell by themselves: milliseconds, failed answers, different items, items off the head."""
RETURN = "return"
"""The user was seen again."""
WEIGHTED = "weighted"
"""A declared trade-off between behaviours."""
PER_IMPRESSION = "impression"
PER_USER = "user"
SLICES_BY: tuple[str, ...] = ("new", "surface", "context.KEY", "attribute.KEY")
MOST_SLICES = 10


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
    """ΣS/ΣN over matured users: outcomes S against N impressions, users (N = 1) or exposures with another behaviour.

    `outcome`: an item behaviour, one of SERVED, RETURN, or WEIGHTED: so much for each exposure with a behaviour, by
    `weights` (behaviour, worth; below 0 where it costs). `per`: impression, user, or an item behaviour.
    `margin`: how much worse, relative to the champion, a guardrail may be; `absolute`: and how much more than that, in
    the metric's own unit, which is what counts where rates are near 0. `window_hours`: outcomes later than this after
    the first exposure do not count; None: the trial's W. `after_hours`: for RETURN, how long after the first exposure
    being seen again begins. `cap`: S counts as min(S, cap), and the pre-period's as min(S₀, cap); None: as it is.

    Raises UsageError, naming the metric, for one that cannot be.
    """

    name: str
    outcome: str
    per: str = PER_IMPRESSION
    value: Value = Value.COUNT
    margin: float = 0.1
    absolute: float = 0.0
    better: Better = Better.HIGHER
    window_hours: float | None = None
    after_hours: float = 24.0
    weights: tuple[tuple[str, float], ...] = ()
    cap: float | None = None

    def __post_init__(self) -> None:
        what, known = f"metric {self.name}", (*ITEM_BEHAVIOURS, *SERVED, RETURN, WEIGHTED)
        if self.outcome not in known:
            raise UsageError(f"{what}: outcome {self.outcome!r} is none of {', '.join(known)}")
        if self.per not in (PER_IMPRESSION, PER_USER, *ITEM_BEHAVIOURS):
            raise UsageError(f"{what}: per {self.per!r} is none of impression, user, {', '.join(ITEM_BEHAVIOURS)}")
        if self.outcome == RETURN and self.per != PER_USER:
            raise UsageError(f"{what}: a user returns once; outcome {RETURN!r} needs per = 'user'")
        if self.outcome in SERVED and self.per != PER_IMPRESSION:
            raise UsageError(f"{what}: {self.outcome} is told of impressions; per must be 'impression'")
        if bool(self.weights) is not (self.outcome == WEIGHTED):
            raise UsageError(f"{what}: outcome {WEIGHTED!r} and weights belong together")
        unknown = [name for name, _ in self.weights if name not in ITEM_BEHAVIOURS]
        if unknown:
            raise UsageError(f"{what}: weights of {', '.join(unknown)}, known: {', '.join(ITEM_BEHAVIOURS)}")
        if not 0 <= self.margin < 1:
            raise UsageError(f"{what}: margin {self.margin} must lie in [0, 1)")
        if not self.absolute >= 0:
            raise UsageError(f"{what}: absolute margin {self.absolute} must be 0 or more")
        if self.window_hours is not None and not self.window_hours > 0:
            raise UsageError(f"{what}: window_hours {self.window_hours} must be above 0")
        if self.cap is not None and not 0 < self.cap < math.inf:
            raise UsageError(f"{what}: cap {self.cap} must be above 0 and finite")
        if self.cap is not None and self.outcome in (*SERVED, RETURN):
            raise UsageError(f"{what}: {self.outcome} has no tail of users' own doing; leave cap out")
        if self.outcome == RETURN and self.window_hours is not None and self.after_hours >= self.window_hours:
            raise UsageError(f"{what}: after_hours {self.after_hours} must be below window_hours {self.window_hours}")

    def as_json(self) -> dict[str, Any]:
        """Without `cap` where there is none, so that trials that were frozen before there were caps keep their hash."""
        plain = {
            "value": self.value.value,
            "better": self.better.value,
            "weights": [list(each) for each in self.weights],
        }
        stated = {**vars(self), **plain}
        if self.cap is None:
            del stated["cap"]
        return stated

    @staticmethod
    def from_json(stated: Mapping[str, Any]) -> "Metric":
        weights = tuple((str(name), float(worth)) for name, worth in stated["weights"])
        kinds = {"value": Value(stated["value"]), "better": Better(stated["better"])}
        return Metric(**{**stated, **kinds, "weights": weights})


@dataclass(frozen=True)
class Slice:
    """A group of users, told by what was so before or at their first exposure, that the primary metric is looked at in.

    `by`: `new` (no impression in the pre-period; equals true or false), `surface`, `context.KEY` of the first exposure,
    or `attribute.KEY` of the user then. A challenger proven to harm it beyond `margin` is rejected; a `protected` one
    must also be proven not to be harmed, or nothing is promoted.
    """

    name: str
    by: str
    equals: str
    margin: float = 0.1
    protected: bool = False

    def __post_init__(self) -> None:
        kind, _, key = self.by.partition(".")
        if self.by not in ("new", "surface") and not (kind in ("context", "attribute") and key):
            raise UsageError(f"slice {self.name}: by {self.by!r} is none of {', '.join(SLICES_BY)}")
        if self.by == "new" and self.equals not in ("true", "false"):
            raise UsageError(f"slice {self.name}: equals {self.equals!r}; a user is new ('true') or not ('false')")
        if not 0 <= self.margin < 1:
            raise UsageError(f"slice {self.name}: margin {self.margin} must lie in [0, 1)")

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))

    @staticmethod
    def from_json(stated: Mapping[str, Any]) -> "Slice":
        return Slice(**stated)
