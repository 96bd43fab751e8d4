"""Does the gate hold its promises? Seventeen simulations with known truth, each against its bar.

A name begins with the number of the simulation; further figures of one have the same number. Rows are made of the
gate's own functions; those that say "through decide" of whole trials, look by look.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from bench import gate_decisions, gate_lists, gate_logs, gate_stopping, gate_tails, gate_trials
from bench.rows import Row
from relations.errors import UsageError

SEED = 20_260_301
LEAST = 100


def run(repetitions: int = 3_000, data: Path | None = None) -> list[Row]:
    """All rows. `data`: the folder of the Open Bandit sample, for the fifteenth.

    Seeds are fixed: the same number of repetitions gives the same rows. Raises UsageError for fewer than `LEAST`.
    """
    if repetitions < LEAST:
        raise UsageError(f"--repetitions {repetitions} is too few to tell a rate from another; {LEAST} at least")
    rows, scale = gate_trials.null(_rng(1), repetitions)
    parts: tuple[Callable[[np.random.Generator], list[Row]], ...] = (
        partial(gate_trials.effects, repetitions=repetitions, scale=scale),
        partial(gate_trials.delays, repetitions=repetitions),
        partial(gate_trials.mismatch, repetitions=repetitions),
        gate_trials.bootstrap,
        partial(gate_trials.guardrail, repetitions=repetitions),
        partial(gate_trials.harm, repetitions=repetitions, scale=scale),
        partial(gate_trials.growing, repetitions=repetitions),
        partial(gate_trials.several, repetitions=repetitions),
        partial(gate_lists.rows, repetitions=repetitions),
        partial(gate_decisions.rows, repetitions=repetitions, scale=scale),
        partial(gate_stopping.rows, repetitions=repetitions, scale=scale),
    )
    for number, part in enumerate(parts, start=2):
        rows += part(_rng(number))
    rows += gate_tails.rows(_rng(gate_tails.STREAM), repetitions)
    return sorted([*rows, *gate_logs.rows(data)], key=_number)


def _rng(part: int) -> np.random.Generator:
    """A stream of its own for each part, so that a change in one moves no other row."""
    return np.random.default_rng([SEED, part])


def _number(row: Row) -> int:
    return int(row["name"].split(".")[0])
