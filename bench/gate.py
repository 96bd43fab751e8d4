"""Does the gate hold its promises? Simulated trials with known truth, judged by the gate's own functions.

`python -m bench.gate --repetitions 3000` prints one row per promise; `holds` is computed from `measured` and `bar`.
Bars on error rates are the promise plus three standard errors of the simulation. A row that breaks the method on
purpose holds when the simulation notices: a proof that these simulations can fail.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.gate_worlds import DelayedStreams, Streams, delayed_streams, one_arm, streams
from gate.boundaries import Spending, boundaries
from gate.confidence import one_sided_width, tuned_rho, two_sided_width
from gate.estimator import SUMS, ArmSums, estimate
from gate.guardrails import non_inferiority
from gate.mismatch import log_bayes_factor
from gate.trial import Better

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Row = dict[str, Any]

ALPHA = 0.025
LOOKS, DAILY = 28, 50  # days, and matured users an arm and day
USERS_K: Array = 2.0 * DAILY * np.arange(1, LOOKS + 1, dtype=np.float64)
MIN_USERS = 400
SEED = 20_260_301
HALF = (0.5, 0.5)
# Share of a user's conversions that have come in by the end of day 0, 1, 2, 3: as many in the end, sooner in B.
ARRIVED = (np.array([0.25, 0.5, 0.75, 1.0]), np.array([0.8, 0.95, 1.0, 1.0]))


def run(repetitions: int = 3_000) -> list[Row]:
    """All rows, in some 10 ms a repetition. Seeds are fixed: the same number of repetitions gives the same rows."""
    rows, scale = _null(_rng(1), repetitions)
    rows += _effects(_rng(2), repetitions, scale=scale)
    rows += _delays(_rng(3), repetitions)
    rows += _mismatch(_rng(4), repetitions)
    rows += _bootstrap(_rng(5))
    rows += _guardrail(_rng(6), repetitions)
    rows += _harm(_rng(7), repetitions, scale=scale)
    rows += _growing(_rng(8), repetitions)
    return rows


def _rng(part: int) -> np.random.Generator:
    """A stream of its own for each part, so that a change in one moves no other row."""
    return np.random.default_rng([SEED, part])


def bounds(looks: int = LOOKS) -> Array:
    times = tuple((look + 1) / looks for look in range(looks))
    return np.array([each.z for each in boundaries(times, spending=Spending.OBF, alpha=ALPHA, final=True)])


def at_most(name: str, measured: float, bar: float, unit: str = "%") -> Row:
    return {"name": name, "measured": measured, "unit": unit, "bar": f"≤ {bar:g}", "holds": bool(measured <= bar)}


def at_least(name: str, measured: float, bar: float, unit: str = "%") -> Row:
    return {"name": name, "measured": measured, "unit": unit, "bar": f"≥ {bar:g}", "holds": bool(measured >= bar)}


def caught(name: str, measured: float, bar: float) -> Row:
    """A broken method must miss the bar that the real one keeps."""
    row = {"name": f"broken on purpose: {name}", "measured": measured, "unit": "%", "bar": f"> {bar:g}"}
    return {**row, "holds": bool(measured > bar)}


def slack(rate: float, repetitions: int) -> float:
    """The rate plus three standard errors of a simulation of it, in percent."""
    return round(100 * (rate + 3 * math.sqrt(rate * (1 - rate) / repetitions)), 2)


def _ever(mask_RK: Flags) -> Flags:
    """Whether a trial was hit at any look."""
    return np.asarray(mask_RK.any(axis=1), dtype=np.bool_)


def _share(hits: Iterable[Flags]) -> float:
    return round(100 * float(np.concatenate(list(hits)).mean()), 3)


def _null(rng: np.random.Generator, repetitions: int) -> tuple[list[Row], float]:
    """Both arms alike: false promotions, coverage, and two broken variants. Also the final SE, relative to the rate."""
    z, plain, naive, impressions, covered, errors = [], [], [], [], [], []
    rho = tuned_rho(alpha=2 * ALPHA, users=USERS_K[-1])
    watched = USERS_K >= MIN_USERS
    width_K = two_sided_width(USERS_K, rho=rho, alpha=2 * ALPHA)
    for batch in streams(rng, repetitions=repetitions, looks=LOOKS, daily=DAILY):
        found = estimate(batch.champion, batch.challenger)
        raw = estimate(batch.champion, batch.challenger, adjust=False)
        z.append(_ever(found.z >= bounds()))
        plain.append(_ever(raw.z >= bounds()))
        naive.append(_ever(raw.z >= 1.959964))
        impressions.append(_ever(_impression_z(batch) >= bounds()))
        covered.append(~_ever((np.abs(found.z) > width_K)[:, watched]))
        errors.append(found.standard_error[:, -1] / found.champion_rate[:, -1])
    bar = slack(ALPHA, repetitions)
    return [
        at_most("A/A, 28 looks: false promotions", _share(plain), bar),
        at_most("A/A, 28 looks, with CUPED: false promotions", _share(z), bar),
        at_least("95 % confidence sequence: covers at every look", _share(covered), 95.0),
        caught("a fixed-horizon test at every look", _share(naive), bar),
        caught("impressions taken for independent", _share(impressions), bar),
    ], float(np.concatenate(errors).mean())


def _impression_z(batch: Streams) -> Array:
    """z as if every impression were a coin toss of its own."""
    s, i = SUMS.index("s"), SUMS.index("i")
    rates, variances = [], []
    for sums_RKM in (batch.champion, batch.challenger):
        rate = sums_RKM[..., s] / sums_RKM[..., i]
        rates.append(rate)
        variances.append(rate * (1 - rate) / sums_RKM[..., i])
    return np.asarray((rates[1] - rates[0]) / np.sqrt(variances[0] + variances[1]), dtype=np.float64)


def _effects(rng: np.random.Generator, repetitions: int, *, scale: float) -> list[Row]:
    """Power and users needed, at the effect that a fixed-horizon test finds 80 % of the time, and at its double."""
    rho = tuned_rho(alpha=2 * ALPHA, users=5_000)  # the default of always-valid libraries, whatever the trial's size
    always_K = two_sided_width(USERS_K, rho=rho, alpha=2 * ALPHA)
    rows = []
    for name, effect in (("80 % power", 1.0), ("twice that effect", 2.0)):
        factor = 1 + effect * (1.959964 + 0.841621) * scale
        sequential, fixed, always, stopped = [], [], [], []
        for batch in streams(rng, repetitions=repetitions, looks=LOOKS, daily=DAILY, factor=factor):
            z = estimate(batch.champion, batch.challenger).z
            crossed = z >= bounds()
            sequential.append(_ever(crossed))
            fixed.append(z[:, -1] >= 1.959964)
            always.append(_ever(z >= always_K))
            stopped.append(np.where(sequential[-1], crossed.argmax(axis=1), LOOKS - 1) + 1)
        users = round(float(np.concatenate(stopped).mean()) / LOOKS, 3)
        if effect == 1.0:
            lost = round(_share(fixed) - _share(sequential), 3)
            rows.append(at_most("power lost to one fixed-horizon look", lost, 4.0, unit="points"))
            gain = round(_share(sequential) / _share(always), 2)
            rows.append(at_least("power over the always-valid default", gain, 1.5, unit="×"))
        rows.append(at_most(f"mean users at {name}, share of fixed n", users, 0.85 if effect == 1.0 else 0.5, unit=""))
    return rows


def _delays(rng: np.random.Generator, repetitions: int) -> list[Row]:
    def promoted(pick: Callable[[DelayedStreams], Streams]) -> float:
        return _share([_ever(_z(pick(batch)) >= bounds()) for batch in found])

    found = list(delayed_streams(rng, repetitions=repetitions, looks=LOOKS, daily=DAILY, arrived=ARRIVED))
    bar = slack(ALPHA, repetitions)
    return [
        at_most("same conversions, sooner in B: false promotions", promoted(lambda batch: batch.matured), bar),
        caught("immature outcomes counted", promoted(lambda batch: batch.immature), bar),
    ]


def _z(batch: Streams) -> Array:
    return estimate(batch.champion, batch.challenger).z


def _mismatch(rng: np.random.Generator, repetitions: int) -> list[Row]:
    threshold = -math.log(0.001)

    def odds(share: float, *, looks: int, step: int) -> Array:
        champion = rng.binomial(step, share, (repetitions, looks)).cumsum(axis=1)
        users = step * np.arange(1, looks + 1)
        return log_bayes_factor(np.stack([champion, users - champion], axis=-1).astype(np.float64), expected_A=HALF)

    false = _share([_ever(odds(0.5, looks=400, step=500) > threshold)])
    flagged = odds(0.505, looks=1_000, step=500) > threshold
    reached = np.where(_ever(flagged), flagged.argmax(axis=1) + 1, 1_000) * 500
    return [
        at_most("no mismatch, 400 looks: flagged", false, 0.3),
        at_most("50.5/49.5: median users until flagged", float(np.median(reached)), 175_000, unit="users"),
    ]


def _bootstrap(rng: np.random.Generator, *, data_sets: int = 20, users: int = 500, draws: int = 2_000) -> list[Row]:
    ratios = []
    for _ in range(data_sets):
        spread, errors = np.zeros(draws), []
        for sign in (-1, 1):
            outcome, impressions = one_arm(rng, users)
            weights = rng.multinomial(users, np.full(users, 1 / users), size=draws)
            spread += sign * (weights @ outcome) / (weights @ impressions)
            errors.append(ArmSums.from_users(outcome, impressions, np.zeros(users), np.zeros(users)).array())
        ratios.append(float(estimate(*errors, adjust=False).standard_error) / float(spread.std()))
    off = np.abs(np.array(ratios) - 1)
    mean = round(100 * abs(float(np.mean(ratios)) - 1), 2)
    return [
        at_most(f"delta-method SE against {draws:,} bootstraps: mean difference", mean, 1.0),
        at_most(f"delta-method SE against {draws:,} bootstraps: largest", round(100 * float(off.max()), 2), 5.0),
    ]


def _guardrail(rng: np.random.Generator, repetitions: int, *, margin: float = 0.1) -> list[Row]:
    """The primary metric is taken for won at every look: the guardrail alone prevents a mistake."""
    passed = []
    for batch in streams(rng, repetitions=repetitions, looks=LOOKS, daily=DAILY, factor=1 - margin):
        found = estimate(batch.champion, batch.challenger, adjust=False)
        left, error = non_inferiority(found, margin=margin, better=Better.HIGHER)
        passed.append(_ever(left / error >= bounds()))
    return [at_most("a guardrail exactly at its margin: promoted", _share(passed), slack(ALPHA, repetitions))]


def _harm(rng: np.random.Generator, repetitions: int, *, scale: float) -> list[Row]:
    rho = tuned_rho(alpha=0.02, users=USERS_K[-1])
    bound_K = -one_sided_width(USERS_K, rho=rho, alpha=0.01)
    watched = USERS_K >= MIN_USERS
    rows = []
    for errors, judge, bar in ((0, at_most, 1.0), (4, at_least, 70.0), (6, at_least, 99.0)):
        factor = 1 - errors * scale
        hit = [
            _ever((_z(batch) < bound_K)[:, watched])
            for batch in streams(rng, repetitions=repetitions, looks=LOOKS, daily=DAILY, factor=factor)
        ]
        rows.append(judge(f"harm of {errors} final standard errors: aborted", _share(hit), bar))
    return rows


def _growing(rng: np.random.Generator, repetitions: int, *, growth: float = 9.0) -> list[Row]:
    """Later users are more active, so that early looks know less than their share of the users."""
    found = list(streams(rng, repetitions=repetitions, looks=LOOKS, daily=DAILY, growth=growth))
    i = SUMS.index("i")
    known = [
        (estimate(batch.champion, batch.challenger).standard_error * (batch.champion + batch.challenger)[..., i]) ** 2
        for batch in found
    ]
    information_K = np.concatenate(known).mean(axis=0)
    times = tuple(USERS_K / USERS_K[-1])
    judged = boundaries(times, information=tuple(information_K), spending=Spending.OBF, alpha=ALPHA, final=True)
    promoted = _share([_ever(_z(batch) >= np.array([each.z for each in judged])) for batch in found])
    return [at_most(f"A/A, later users {growth:g}× as active: false promotions", promoted, slack(ALPHA, repetitions))]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gate", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3_000, help="simulated trials a row (default: 3000)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    chosen = parser.parse_args(arguments)
    if chosen.repetitions < 1:
        parser.error(f"--repetitions {chosen.repetitions}: at least 1")
    began = time.monotonic()
    rows = run(chosen.repetitions)
    if chosen.json:
        print(json.dumps({"rows": rows, "repetitions": chosen.repetitions}, ensure_ascii=False))
    else:
        for row in rows:
            verdict = "holds" if row["holds"] else "FAILS"
            print(f"{row['name']:<62} {row['measured']:>10,} {row['unit']:<6} {row['bar']:>9}  {verdict}")
        print(f"{chosen.repetitions:,} repetitions in {time.monotonic() - began:.0f} s")
    return 0 if all(row["holds"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
