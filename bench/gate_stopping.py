"""Row 16: what a finished trial says of its effect, plain and corrected for having stopped, against the truth.

Whole trials through `decide`, which end at the boundary or at n_max; the few that proven harm ends say nothing here.

Shapes: _R one entry per trial.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.gate_decisions import config_of, judged, simulated
from bench.gate_trials import FIXED, declared_effect
from bench.rows import Row, at_least, at_most, figure, shortfall, slack
from gate.estimator import estimate
from gate.schedule import arms
from gate.stopping import corrected
from gate.trial import CHALLENGER
from gate.verdict import Verdict

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
FEWER = 3  # times fewer trials without effect, and with twice the declared one


@dataclass(frozen=True)
class _Ended:
    """Lifts of finished trials, plain and corrected, and whether their intervals hold the true one."""

    plain_R: Array
    corrected_R: Array
    fixed_covers_R: Flags
    covers_R: Flags
    promoted_R: Flags


def rows(rng: np.random.Generator, repetitions: int, *, scale: float) -> list[Row]:
    """`scale`: the final standard error relative to the champion's rate."""
    effect, fewer = declared_effect(scale), repetitions // FEWER
    found: list[Row] = []
    for name, lift, trials in (
        ("no effect", 0.0, fewer),
        ("the declared effect", effect, repetitions),
        ("twice that effect", 2 * effect, fewer),
    ):
        ended = _ended(rng, lift, trials)
        about = f"16. {name} ({trials:,} trials)"
        off = round(abs(_percent(ended.corrected_R < lift) - 50), 2)
        found += [
            at_most(
                f"{about}: median-unbiased estimates below the truth, off 50 % by",
                off,
                round(slack(0.5, trials) - 50, 2),
                unit="points",
            ),
            figure(f"{about}: plain estimates below the truth", _percent(ended.plain_R < lift)),
            at_least(
                f"{about}: 95 % interval by stage-wise order covers", _percent(ended.covers_R), shortfall(0.95, trials)
            ),
            figure(f"{about}: interval as of a fixed sample covers", _percent(ended.fixed_covers_R)),
        ]
        if lift == effect:
            found += _ratios(about, ended, lift)
    return found


def _ratios(about: str, ended: _Ended, lift: float) -> list[Row]:
    every_R = np.ones(len(ended.plain_R), dtype=np.bool_)
    return [
        figure(
            f"{about}: {kind} estimate over the truth, {how} of {whose}", round(float(of(lift_R[who_R])) / lift, 2), "×"
        )
        for whose, who_R in (("all", every_R), ("the promoted", ended.promoted_R))
        for kind, lift_R in (("plain", ended.plain_R), ("median-unbiased", ended.corrected_R))
        for how, of in (("mean", np.mean), ("median", np.median))
    ]


def _ended(rng: np.random.Generator, lift: float, trials: int) -> _Ended:
    config, found = config_of(), []
    for trial in simulated(rng, trials, factors=(1.0, 1 + lift)):
        looks = list(judged(config, trial))
        told, last = corrected(config, [each.sums for each in looks], CHALLENGER), looks[-1]
        if told is None or told.lift is None or told.lift_interval is None:
            continue
        plain = estimate(*(arm.array() for arm in arms(config, last.sums, CHALLENGER)))
        low, high = plain.lift_interval(FIXED)
        covers = told.lift_interval.lower <= lift <= told.lift_interval.upper
        found.append((plain.lift, told.lift, low <= lift <= high, covers, last.verdict is Verdict.PROMOTE))
    plain_R, corrected_R, fixed_R, covers_R, promoted_R = np.array(found, dtype=np.float64).T
    return _Ended(plain_R, corrected_R, fixed_R > 0, covers_R > 0, promoted_R > 0)


def _percent(hits_R: Flags) -> float:
    return round(100 * float(hits_R.mean()), 2)
