"""The effect that a finished comparison found, corrected for the rule that stopped it. Pure, and decides nothing.

A comparison that stops where the estimate is high overstates the effect. Beside the plain figures stand those by
stage-wise order (`gate.stagewise`), from the information, the standard errors and the boundaries of the looks that were
made, each challenger's own at α/K.

Only the boundary of promotion stops here. Rejections by harm, and futility, never bind: a path that they would have
ended is taken to go on. A look that crosses and may not promote (a guardrail is not proven yet, say) has not stopped
the trial and is left out of the order (Whitehead, Controlled Clinical Trials 1992: deletion), which keeps p at or below
the α spent.

Lifts: an effect that lies w standard errors below the estimate is a lift at Fieller's end of width w, as in the
intervals of `gate.estimator`; so a corrected lift's interval excludes 0 exactly when that of the effect does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gate.comparison import compare
from gate.estimator import Estimate, estimate
from gate.looks import LookSums
from gate.schedule import Schedule, arms, ending
from gate.stagewise import stagewise
from gate.trial import TrialConfig, finite
from gate.verdict import Interval, Verdict

_ENDS = (Verdict.PROMOTE, Verdict.REJECT, Verdict.INCONCLUSIVE)


@dataclass(frozen=True)
class Corrected:
    """`look`: the one of the comparison that stopped it, from 1. `estimate` and `interval` are Δ as in a `Comparison`.

    `estimate` and `lift` are median-unbiased over all ways in which the comparison can end, not among those that
    promote. `interval` and `lift_interval` have confidence 1 − 2α, with the comparison's α. `p_value` is one-sided, of
    the whole test: compare it with α. None: too little of the champion's rate is known for a lift.
    """

    look: int
    p_value: float
    estimate: float
    interval: Interval
    lift: float | None
    lift_interval: Interval | None

    def as_json(self) -> dict[str, Any]:
        pairs = {name: getattr(self, name) for name in ("interval", "lift_interval")}
        ends = {name: None if each is None else [each.lower, each.upper] for name, each in pairs.items()}
        return {**vars(self), **ends}


def corrected(config: TrialConfig, looks: Sequence[LookSums], challenger: str) -> Corrected | None:
    """None while the comparison goes on, where proven harm ended it before its end, and for an A/A trial.

    `looks`: all of the comparison, oldest first. Looks after the one that stopped change nothing, unless they withdraw
    what it said: then None.
    """
    if config.is_aa or not looks:
        return None
    end = ending(config, looks, challenger)
    schedule = Schedule.of(config, looks, challenger, end=end)
    found_K = [_estimate(config, looks[place], challenger) for place in schedule.places]
    kept: list[int] = []
    for number, place in enumerate(schedule.places):
        if challenger in looks[place].out:
            return None
        crosses = float(found_K[number].z) >= schedule.boundaries_K[number].z
        if not crosses and place != end:
            kept.append(number)
            continue
        verdict = compare(config, looks[: place + 1], challenger).verdict
        if verdict is Verdict.PROMOTE or (place == end and verdict in _ENDS):
            again = compare(config, looks, challenger).verdict
            return _of(config, schedule, found_K, [*kept, number]) if again is verdict else None
    return None


def _of(config: TrialConfig, schedule: Schedule, found_K: Sequence[Estimate], order: Sequence[int]) -> Corrected:
    """`order`: the looks that count, by their numbers in `schedule`, the one that stopped last."""
    stop, found = order[-1], found_K[order[-1]]
    told = stagewise(
        tuple(schedule.information_K[each] for each in order),
        tuple(float(found_K[each].standard_error) for each in order),
        tuple(schedule.boundaries_K[each].z for each in order[:-1]),
        z=float(found.z),
        alpha=config.alpha_each,
    )
    lift, low, high = (_lift(found, effect) for effect in (told.median, told.lower, told.upper))
    error = float(found.standard_error)
    return Corrected(
        look=schedule.places[stop] + 1,
        p_value=told.p_value,
        estimate=told.median * error,
        interval=Interval(told.lower * error, told.upper * error),
        lift=lift,
        lift_interval=None if low is None or high is None else Interval(low, high),
    )


def _estimate(config: TrialConfig, look: LookSums, challenger: str) -> Estimate:
    return estimate(*(arm.array() for arm in arms(config, look, challenger)))


def _lift(found: Estimate, effect: float) -> float | None:
    """Of an effect in standard errors."""
    width = float(found.z) - effect
    lower, upper = found.lift_interval(abs(width))
    return finite(float(lower if width >= 0 else upper))
