"""Who meets a challenger, and how: salted hashes, the same in every process, with no memory.

    bucket = int(first 8 hex digits of SHA-256("salt:layer:unit"), 16) mod 10,000

One salt a trial, so that trials are independent of each other; a layer of its own for each question, so that answers
are independent within a trial. A larger share only adds users, never takes one away. In order:

- **holdback** (layer `holdback`, one salt for good): bucket < 10,000 · [policy] holdback. These users meet no
  challenger of any trial and are in no trial: their exposures name none. As that layer is independent of a trial's
  own, those who are left still split as the trial's allocation says, and the sample-ratio test expects just that.
- **several challengers**: of K in the configuration's order, whoever may meet one meets number bucket mod K, so that
  each has as many buckets as another or one more, at every share, and a ramp takes nobody from one to another. Where a
  look has rejected one, its users meet the champion in no trial (reason `out`), and nobody else moves.
- **shadow**: everybody meets the champion, in no trial; what a challenger would have shown is logged apart. Which one
  is drawn anew for each request, by its id (layer `shadow`): all see the same kind of requests.
- **canary** with share c, of a comparison with share a (layer `ranker`): challenger ⇔ bucket < T_c = round(10,000 · c);
  its control group are the last round(T_c · (10,000 − T_a)/T_a) buckets. Both are of the trial, with the reason
  `canary`, which the comparison's sums leave out. All others are in no trial yet.
- **interleave** with share a: drafted lists ⇔ bucket of layer `interleave` < 10,000 · a; the others are in no trial.
  Another layer than the comparison's, so that whom the mixed lists have changed fall into all of its arms alike. A list
  is of the champion and one challenger: the bucket picks one of those that no look has rejected.
- **compare** with share a: challenger ⇔ bucket < T_a = round(10,000 · a). Who was in the canary, treated or control,
  keeps the arm and the reason `canary`: in the ratio (1 − a) : a both leave, so the split of those who count stays a.

Source of the scheme: Kohavi, Tang & Xu, Trustworthy Online Controlled Experiments, ch. 4 and 15 (layers, ramps).
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from stores.ledger_records import ChallengerRecord, TrialMode
from stores.serving_records import ServingTrial

BUCKETS = 10_000
LAYER = "ranker"
"""Experiments on other layers (pages, prices) hash independently of ours even under an equal salt."""
HOLDBACK_SALT = "ratchet"
CHAMPION = "champion"
INTERLEAVED = "interleaved"
CANARY = "canary"


@dataclass(frozen=True)
class Assignment:
    """A user's arm, fixed before anything is tried; what really served may differ, and the analysis stays with this."""

    variant: str
    """champion, a challenger's name, interleaved, or popularity while there is no champion."""
    reason: str
    """no champion, no trial, killed, holdback, shadow, outside (of the canary or interleaving), out (the challenger was
    rejected), canary, interleave, or trial: in the comparison."""
    trial: str | None
    allocation: float
    """The share of users who may meet any challenger."""
    rival: str | None = None
    """The challenger whose list is drafted with the champion's, of an interleaved one."""

    def said_reason(self, *, fallback: bool) -> str:
        """What an exposure says; a canary's fallback stays out of the comparison like its other answers."""
        return "fallback" if fallback and self.reason != CANARY else self.reason


NO_CHAMPION = Assignment(variant="popularity", reason="no champion", trial=None, allocation=0.0)
NO_TRIAL = Assignment(variant=CHAMPION, reason="no trial", trial=None, allocation=0.0)
KILLED = Assignment(variant=CHAMPION, reason="killed", trial=None, allocation=0.0)
HELD_BACK = Assignment(variant=CHAMPION, reason="holdback", trial=None, allocation=0.0)
SHADOWED = Assignment(variant=CHAMPION, reason="shadow", trial=None, allocation=0.0)
OUTSIDE = Assignment(variant=CHAMPION, reason="outside", trial=None, allocation=0.0)
OUT = Assignment(variant=CHAMPION, reason="out", trial=None, allocation=0.0)


def bucket(unit: str, *, salt: str, layer: str = LAYER) -> int:
    """0 … 9,999, uniform over units."""
    digest = hashlib.sha256(f"{salt}:{layer}:{unit}".encode("utf-8", "surrogatepass")).hexdigest()
    return int(digest[:8], 16) % BUCKETS


def held_back(unit: str, *, share: float) -> bool:
    return share > 0 and bucket(unit, salt=HOLDBACK_SALT, layer="holdback") < round(BUCKETS * share)


def assign(unit: str, trial: ServingTrial, *, holdback: float = 0.0) -> Assignment:
    """The arm of `unit` (a pseudonym) in `trial`. `holdback`: the share of users who meet no challenger."""
    if trial.killed:
        return KILLED
    if held_back(unit, share=holdback):
        return HELD_BACK
    if trial.mode is TrialMode.SHADOW:
        return SHADOWED
    layer = "interleave" if trial.mode is TrialMode.INTERLEAVE else LAYER
    return arm_at(bucket(unit, salt=trial.salt, layer=layer), trial)


def in_play(trial: ServingTrial) -> tuple[ChallengerRecord, ...]:
    """The challengers that no look has rejected, in order; none of a trial that was killed."""
    return () if trial.killed else tuple(each for each in trial.challengers if each.name not in trial.out)


def shadowed_by(request_id: str, trial: ServingTrial) -> ChallengerRecord | None:
    """The challenger that is asked beside the champion for this request; None where each was rejected."""
    left = in_play(trial)
    return left[bucket(request_id, salt=trial.salt, layer="shadow") % len(left)] if left else None


@lru_cache(maxsize=8)
def shares(trial: ServingTrial) -> Mapping[str, float]:
    """Variant → the share of users, those held back apart, who are of the trial and are assigned to it now.

    Counted bucket by bucket with what assigns users, some ms; once for each change of a trial.
    """
    if trial.mode in (TrialMode.SHADOW, TrialMode.KILLED):
        return MappingProxyType({})
    found = Counter(arm.variant for arm in (arm_at(place, trial) for place in range(BUCKETS)) if arm.trial is not None)
    return MappingProxyType({variant: buckets / BUCKETS for variant, buckets in found.items()})


def arm_at(place: int, trial: ServingTrial) -> Assignment:
    """The arm of a bucket, of the mode's layer, where the trial shows a challenger to anybody."""
    if trial.mode is TrialMode.INTERLEAVE:
        if place >= round(BUCKETS * trial.allocation):
            return OUTSIDE
        left = in_play(trial)
        if not left:
            return OUT
        return Assignment(INTERLEAVED, "interleave", trial.id, trial.allocation, left[place % len(left)].name)
    treated = round(BUCKETS * (trial.compared or trial.allocation))
    in_canary = trial.canary > 0 and _in_canary(place, share=trial.canary, treated=treated)
    if trial.mode is TrialMode.CANARY and not in_canary:
        return OUTSIDE
    variant = CHAMPION
    if place < treated:
        challengers = trial.challengers
        variant = challengers[place % len(challengers)].name
        if variant in trial.out:
            return OUT
    return Assignment(variant, CANARY if in_canary else "trial", trial.id, trial.allocation)


def _in_canary(place: int, *, share: float, treated: int) -> bool:
    """Whether the bucket is of the canary's treated, at the beginning, or of its control group, at the end."""
    first = round(BUCKETS * share)
    control = round(first * (BUCKETS - treated) / treated) if treated else 0
    return place < first or place >= BUCKETS - control
