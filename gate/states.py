"""Where a trial may stand, and which way leads where. Standard library alone: the ledger and serving read it too."""

from enum import StrEnum


class TrialMode(StrEnum):
    """How an open trial's challenger meets users. A trial goes through them in this order, may leave some out, never
    goes back, and KILLED is the last."""

    SHADOW = "shadow"
    """Asked beside the champion; nobody sees what it says."""
    CANARY = "canary"
    """Seen by few, who stay out of the comparison."""
    INTERLEAVE = "interleave"
    """Its list and the champion's drafted into one."""
    COMPARE = "compare"
    """Seen by the frozen share of users. What a trial without a recorded stage does."""
    KILLED = "killed"
    """Seen by nobody ever again; the trial can only be ended."""


STAGES = (TrialMode.SHADOW, TrialMode.CANARY, TrialMode.INTERLEAVE, TrialMode.COMPARE)
"""What may be planned, in order."""


class TrialState(StrEnum):
    REGISTERED = "REGISTERED"
    OFFLINE_OK = "OFFLINE_OK"
    SHADOW = "SHADOW"
    CANARY = "CANARY"
    INTERLEAVE = "INTERLEAVE"
    COMPARE = "COMPARE"
    AWAIT_APPROVAL = "AWAIT_APPROVAL"
    PROMOTING = "PROMOTING"
    """Approved and champion in the ledger; whether serving serves it is being looked at."""
    BAKING = "BAKING"
    """Serves everybody, and is watched; an alarm brings the former champion back."""
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
    _S.OFFLINE_OK: frozenset({_S.SHADOW, _S.CANARY, _S.INTERLEAVE, _S.COMPARE}) | _STOPPED,
    _S.SHADOW: frozenset({_S.CANARY, _S.INTERLEAVE, _S.COMPARE, _S.INCONCLUSIVE}) | _STOPPED,
    _S.CANARY: frozenset({_S.INTERLEAVE, _S.COMPARE, _S.INCONCLUSIVE}) | _STOPPED,
    _S.INTERLEAVE: frozenset({_S.COMPARE, _S.INCONCLUSIVE}) | _STOPPED,
    _S.COMPARE: frozenset({_S.AWAIT_APPROVAL, _S.INCONCLUSIVE}) | _STOPPED,
    # A later look can withdraw what an earlier one proposed.
    _S.AWAIT_APPROVAL: frozenset({_S.PROMOTING, _S.PROMOTED, _S.INCONCLUSIVE}) | _STOPPED,
    _S.PROMOTING: frozenset({_S.BAKING, _S.ROLLED_BACK}),
    _S.BAKING: frozenset({_S.PROMOTED, _S.ROLLED_BACK}),
    _S.PROMOTED: frozenset({_S.ROLLED_BACK}),
    _S.REJECTED: frozenset(),
    _S.ABORTED: frozenset(),
    _S.EXPIRED: frozenset(),
    _S.INCONCLUSIVE: frozenset(),
    _S.STALE: frozenset(),
    _S.ROLLED_BACK: frozenset(),
}

OPEN_STATES: tuple[TrialState, ...] = (_S.SHADOW, _S.CANARY, _S.INTERLEAVE, _S.COMPARE, _S.AWAIT_APPROVAL)
"""The trial is not over: its challenger may be asked, by all users, some, or nobody but the machine."""
WATCHED_STATES: tuple[TrialState, ...] = (_S.PROMOTING, _S.BAKING)
"""Decided, and not yet believed: the new champion is looked after, and no other trial begins."""
