"""The promises once more, through `decide`: whole trials, look by look, as the pipeline has them judged.

Fewer trials than in the rows made of the gate's parts, since each look draws its boundaries anew: one look a day, over
as many users in all. Users mature a day after they came, and sums are handed over by the day, as from the lake.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from bench.gate_worlds import arms
from bench.rows import Row, at_least, at_most, caught, shortfall, slack
from gate.decision import Judgement, decide
from gate.estimator import ArmSums
from gate.looks import DaySums, LookSums, MetricSums
from gate.metrics import MOST_SLICES, Metric, Slice
from gate.trial import Challenger, TrialConfig
from gate.verdict import Verdict

Array = NDArray[np.float64]
Trial = tuple[Array, ...]  # cumulative sums of each arm, _KM: one row a look

START = datetime(2026, 3, 1, tzinfo=UTC)
LOOKS, DAILY = 10, 140  # days, and users an arm and day
ALPHA, HARM_ALPHA = 0.025, 0.01
LEAST_USERS, LEAST_DAYS = 700, 4.0
MARGIN = 0.1
PARTS = tuple(Slice(f"part-{number}", "attribute.part", f"{number}", margin=0.0) for number in range(MOST_SLICES))
PRIMARY, RAIL = Metric("clicks", "click"), Metric("purchases", "purchase", margin=MARGIN)


def rows(rng: np.random.Generator, repetitions: int, *, scale: float) -> list[Row]:
    """`scale`: the final standard error relative to the champion's rate."""
    trials, some = max(10, repetitions // 10), max(10, repetitions // 100)
    told = f"through decide ({trials} trials)"
    equal = list(simulated(rng, trials))
    several = simulated(rng, trials, factors=(1.0,) * 4)
    # Nobody could miss an effect so large: only the least users and the least days stand in its way.
    obvious = list(simulated(rng, some, factors=(1.0, 2.5)))
    won, at_margin = simulated(rng, trials, factors=(1.0, 1.5)), simulated(rng, trials, factors=(1.0, 1 - MARGIN))
    seen = f"through decide ({some} trials)"
    return [
        at_most(
            f"1. A/A {told}: false promotions",
            _share(_ever(config_of(), trial, Verdict.PROMOTE) for trial in equal),
            slack(ALPHA, trials),
        ),
        at_most(
            f"12. no harm {told}: aborted",
            _share(_ever(config_of(ends=False), trial, Verdict.REJECT) for trial in equal),
            slack(HARM_ALPHA, trials),
        ),
        at_most(
            f"12. no harm in {len(PARTS)} slices with margin 0 {told}: aborted",
            _share(
                _ever(config_of(slices=PARTS, ends=False), whole, Verdict.REJECT, slices=parts)
                for whole, parts in _sliced(rng, trials)
            ),
            slack(2 * HARM_ALPHA, trials),  # α for the whole, and α over all slices by Holm
        ),
        *(
            at_least(
                f"12. harm of {errors} final standard errors {told}: aborted",
                _share(
                    _ever(config_of(ends=False), trial, Verdict.REJECT)
                    for trial in simulated(rng, trials, factors=(1.0, 1 - errors * scale))
                ),
                shortfall(rate, trials),
            )
            for errors, rate in ((4, 0.70), (6, 0.99))
        ),
        at_most(
            f"11. a guardrail exactly at its margin {told}: promoted",
            _share(
                _ever(config_of(rails=(RAIL,)), trial, Verdict.PROMOTE, rail=rail)
                for trial, rail in zip(won, at_margin, strict=True)
            ),
            slack(ALPHA, trials),
        ),
        at_most(
            f"13. three null challengers {told}: any promoted",
            _share(_ever(config_of(challengers=3), trial, Verdict.PROMOTE) for trial in several),
            slack(ALPHA, trials),
        ),
        at_most(
            f"1. an obvious winner {seen}: decided below {LEAST_USERS} users or {LEAST_DAYS:g} days",
            _share(
                [_too_soon(config_of(), trial) for trial in obvious]
                + [_too_soon(config_of(least_users=4, days=LEAST_DAYS), trial) for trial in obvious]
            ),
            0.0,
        ),
        caught(
            f"6. broken on purpose: an obvious winner {seen}, no least users or days",
            _share(_too_soon(config_of(least_users=4), trial) for trial in obvious),
            0.0,
        ),
    ]


def config_of(
    *,
    challengers: int = 1,
    rails: tuple[Metric, ...] = (),
    slices: tuple[Slice, ...] = (),
    least_users: int = LEAST_USERS,
    days: float = 0.0,
    ends: bool = True,
) -> TrialConfig:
    """A trial whose last look is its end, or, without `ends`, one that has a day to go then."""
    users = 2 * LOOKS * DAILY
    return TrialConfig(
        trial_id="simulated",
        challenger_version=2,
        challenger_digest="b" * 64,
        champion_version=1,
        champion_digest="a" * 64,
        champion_epoch=1,
        salt="simulated",
        start=START,
        deadline=START + timedelta(days=3 * LOOKS),
        n_max=users if ends else users + 2,
        primary=PRIMARY,
        guardrails=rails,
        slices=slices,
        others=tuple(
            Challenger(f"challenger-{number}", number + 1, f"{number}" * 64) for number in range(2, challengers + 1)
        ),
        allocation=challengers / (challengers + 1),
        min_users=least_users,
        minimum_days=days,
        looks=LOOKS,
        alpha=ALPHA,
        harm_alpha=HARM_ALPHA,
    )


def simulated(
    rng: np.random.Generator, trials: int, *, factors: tuple[float, ...] = (1.0, 1.0), daily: int = DAILY
) -> Iterator[Trial]:
    for batch in arms(rng, repetitions=trials, looks=LOOKS, daily=daily, factors=factors):
        yield from zip(*batch, strict=True)


def _sliced(rng: np.random.Generator, trials: int) -> Iterator[tuple[Trial, tuple[Trial, ...]]]:
    """Equal arms whose users fall into `PARTS` groups of a few each day: all of them, and each group's."""
    groups = simulated(rng, trials * len(PARTS), daily=DAILY // len(PARTS))
    while parts := tuple(islice(groups, len(PARTS))):
        champion, challenger = (np.sum(arm, axis=0) for arm in zip(*parts, strict=True))
        yield (champion, challenger), parts


def judged(
    config: TrialConfig, trial: Trial, *, rail: Trial | None = None, slices: Sequence[Trial] = ()
) -> Iterator[Judgement]:
    """Each look's judgement, until one ends the trial; a challenger that is out stays out.

    `rail`: sums of the guardrail. `slices`: of each of the config's slices.
    """
    days = {PRIMARY.name: _days(config, trial)} | ({RAIL.name: _days(config, rail)} if rail else {})
    looks: list[LookSums] = []
    out: tuple[str, ...] = ()
    for day in range(LOOKS):
        looks.append(
            LookSums(
                watermark=START + timedelta(days=day + 2),
                since=START,
                exposed=dict.fromkeys(config.arms, (day + 2) * DAILY),
                metrics={name: MetricSums(parts[: day + 1]) for name, parts in days.items()},
                slices={
                    part.name: {
                        name: ArmSums.from_array(arm_KM[day]) for name, arm_KM in zip(config.arms, sums, strict=True)
                    }
                    for part, sums in zip(config.slices, slices, strict=True)
                },
                out=out,
            )
        )
        found = decide(config, looks)
        out = found.out
        yield found
        if found.verdict in (Verdict.PROMOTE, Verdict.REJECT, Verdict.INCONCLUSIVE):
            return


def _days(config: TrialConfig, trial: Trial) -> tuple[DaySums, ...]:
    arms_KM = {name: np.diff(arm_KM, axis=0, prepend=0.0) for name, arm_KM in zip(config.arms, trial, strict=True)}
    return tuple(
        DaySums(
            (START + timedelta(days=day)).date(),
            {name: ArmSums.from_array(sums_KM[day]) for name, sums_KM in arms_KM.items()},
        )
        for day in range(LOOKS)
    )


def _ever(
    config: TrialConfig, trial: Trial, verdict: Verdict, *, rail: Trial | None = None, slices: Sequence[Trial] = ()
) -> bool:
    return any(found.verdict is verdict for found in judged(config, trial, rail=rail, slices=slices))


def _too_soon(config: TrialConfig, trial: Trial) -> bool:
    """Whether anything was decided on fewer users than `LEAST_USERS` or in fewer days than `LEAST_DAYS`.

    Which of the two is asked follows from the config: the least days where it has any.
    """
    for look, found in enumerate(judged(config, trial), start=1):
        decided = found.verdict not in (Verdict.CONTINUE, Verdict.HOLD)
        soon = look + 1 < LEAST_DAYS if config.minimum_days else 2 * DAILY * look < LEAST_USERS
        if decided and soon:
            return True
    return False


def _share(hits: Sequence[bool] | Iterator[bool]) -> float:
    return round(100 * float(np.mean(list(hits))), 2)
