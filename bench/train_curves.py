"""How the cost of a target grows with threads, catalogue, length, padding and data; where it should not grow: bars."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.rows import Row, at_most
from bench.train_data import Log, drawn
from bench.train_processes import NAMES, ours, told
from bench.train_work import Cost, Work

FLAT = 1.1
"""Bar: how much more a target may cost where it should cost the same."""


def measure_threads(work: Work) -> list[Row]:
    """Wall clock, unpinned: what a second core brings."""
    if (os.cpu_count() or 1) < 2:
        return [told("two threads: skipped, this machine has one core", None)]
    one, two = (ours(replace(work, threads=threads)) for threads in (1, 2))
    gain = (two.targets / two.wall_s) / (one.targets / one.wall_s)
    return [told("full softmax, bfloat16: two threads over one, by the wall clock", round(gain, 2), "×")]


def measure_catalogue(work: Work, folder: Path) -> list[Row]:
    """Full softmax where a step is still seconds; at a million items its products alone are 0.8 GFLOP a target."""
    rows = []
    for items, losses in {3_000: ("full", "sampled"), 100_000: ("full", "sampled"), 1_000_000: ("sampled",)}.items():
        path = drawn(items=items, lengths=np.full(max(2_000, items // 80), 101)).write(folder / f"items-{items}.npz")
        for loss in losses:
            cost = ours(replace(work, data=str(path), loss=loss))
            rows.append(_microseconds(f"{items:,} items, {NAMES[loss]}", cost))
            rows.append(told(f"{items:,} items, {NAMES[loss]}: peak memory", round(cost.peak_mb), "MB"))
        path.unlink()
    return rows


def measure_length(work: Work) -> list[Row]:
    """The same events, cut into windows of another length: as many positions, another share of attention."""
    return [
        _microseconds(f"windows of at most {length}, full softmax", ours(replace(work, length=length)))
        for length in (50, 100, 200)
    ]


def measure_padding(work: Work, folder: Path) -> list[Row]:
    """Users of one length, against users of two: padded to the longest, these would be mostly padding."""
    rates = {}
    for name, lengths in {
        "all of 61": np.full(4_000, 61),
        "half of 21, half of 101": np.tile([21, 101], 2_000),
        "nine tenths of 21, a tenth of 181": np.tile([21] * 9 + [181], 660),
    }.items():
        padded = 1 - lengths.mean() / lengths.max()
        path = drawn(items=3_000, lengths=lengths).write(folder / "lengths.npz")
        rates[f"users {name} ({100 * padded:.0f} % padding if padded)"] = ours(replace(work, data=str(path)))
    first = next(iter(rates.values()))
    rows = [_microseconds(name, cost) for name, cost in rates.items()]
    growth = max(first.rate / cost.rate for cost in rates.values())
    return [*rows, at_most("cost of a target, mixed lengths over one length", round(growth, 3), FLAT, unit="×")]


def measure_amount(work: Work, log: Log, folder: Path) -> list[Row]:
    """A quarter of the users against all of them: a target costs the same."""
    few_N = log.user_N % 4 == 0
    path = Log(log.user_N[few_N], log.item_N[few_N]).write(folder / "quarter.npz")
    few, all_of_them = ours(replace(work, data=str(path))), ours(work)
    growth = few.rate / all_of_them.rate
    return [at_most("cost of a target, all users over a quarter of them", round(growth, 3), FLAT, unit="×")]


def _microseconds(name: str, cost: Cost) -> Row:
    return told(f"{name}: CPU time of a target", round(1e6 * cost.cpu_s / cost.targets, 1), "µs")
