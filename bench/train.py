"""What training costs: targets a CPU-second on MovieLens-1M, beside RecTools' SASRec and this machine's products.

`ratchet bench train --data FOLDER` trains for `seconds` CPU-seconds at a time, each time in a process of its own on one
core, after a warm-up that does not count:

- ours, full softmax and 512 shared negatives, bfloat16 and float32, in turn with the peer's at the same loss, width,
  blocks, heads, length, dropout and positions a batch; the ratio is told with its spread over the turns. The peer
  multiplies in float32, as it comes;
- model FLOPs a CPU-second as a share of the fastest float32 product that `torch.mm` reaches here (`train_machine`);
- two threads against one by the wall clock; the cost of a target by size of the catalogue, length, padding and data.

The load average stands beside the figures: a machine that does other work shares its caches and its memory.
"""

import os
import statistics
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from bench.rows import Row, at_least, at_most
from bench.train_curves import measure_amount, measure_catalogue, measure_length, measure_padding, measure_threads
from bench.train_data import movielens
from bench.train_machine import Gemm, measure_gemm, measure_gpu_gemm, model_flops
from bench.train_peer_home import peer_python
from bench.train_processes import NAMES, ours, theirs, told
from bench.train_work import Cost, Work
from relations.errors import DependencyFailed

DATA = Path("../shared/data/ml-1m")
TURNS = 3
PEER_USERS = 128
"""RecTools' default; the turns give it batches of as many positions as ours, in which it is faster here."""
OTHERS: dict[str, dict[str, Any]] = {
    "SASRec to the letter (feed-forward as wide as the state, absolute positions alone)": {
        "feed": 1,
        "relative_positions": False,
    },
    "HSTU blocks": {"block": "hstu"},
}
"""What else of ours is timed, once: the turns are of our softmax block, whose feed-forward layer is 4 × theirs."""
RATIO = {"full": 6.0, "sampled": 6.0}
"""Bars: our targets a CPU-second over the peer's."""
SHARE = {"bfloat16": 65.0, "float32": 45.0}
"""Bars: percent of the float32 product's rate."""
PEAK_MB = 1_500.0
_RATE = "targets/CPU-s"
Ours: TypeAlias = Callable[[Work], Cost]
Theirs: TypeAlias = Callable[[Work], float]


def run(data: Path | None = None, seconds: float = 10.0) -> list[Row]:
    """All rows, in some 50 times `seconds` plus as long again for processes to start.

    Raises UsageError without the data. A part that breaks is a row that fails; the peer's environment that cannot be
    made is a row that says so and holds nothing.
    """
    log = movielens(DATA if data is None else data)
    rows = [told("load average of the last minute, before", round(os.getloadavg()[0], 2))]
    gemm = measure_gemm()
    rows += gemm_rows(gemm)
    with tempfile.TemporaryDirectory(prefix="ratchet-bench-") as name:
        folder = Path(name)
        work = Work(data=str(log.write(folder / "log.npz")), seconds=seconds)
        parts: dict[str, Callable[[], list[Row]]] = {
            "in turn": lambda: _in_turn(work, gemm, turns=TURNS),
            "threads": lambda: measure_threads(work),
            "catalogue": lambda: measure_catalogue(replace(work, seconds=seconds / 2), folder),
            "length": lambda: measure_length(replace(work, seconds=seconds / 2)),
            "padding": lambda: measure_padding(replace(work, seconds=seconds / 2), folder),
            "amount": lambda: measure_amount(replace(work, seconds=seconds / 2), log, folder),
            "gpu": lambda: _gpu(work),
        }
        for part, measured in parts.items():
            try:
                rows += measured()
            except Exception:  # the other rows are minutes of work
                traceback.print_exc()
                rows.append(at_most(f"{part}: the measurement broke", 1, 0, unit="times"))
    rows.append(told("load average of the last minute, after", round(os.getloadavg()[0], 2)))
    return rows


def gemm_rows(gemm: Gemm) -> list[Row]:
    kinds = {
        "float32": gemm.plain,
        "float32 by oneDNN": gemm.onednn,
        "bfloat16": gemm.half,
    }
    return [
        told(f"product of matrices {shape}, {kind}, one thread", round(rate, 1), "GFLOP/s")
        for kind, rates in kinds.items()
        for shape, rate in rates.items()
    ]


@dataclass(frozen=True)
class Turns:
    """Costs of ours by precision and rates of the peer's (none: no environment), one of each a turn."""

    ours: dict[str, list[Cost]]
    theirs: list[float]


def _in_turn(work: Work, gemm: Gemm, *, turns: int) -> list[Row]:
    import torch

    rows: list[Row] = []
    peer: Theirs | None = None
    try:
        peer = partial(theirs, python=peer_python(torch.__version__.split("+")[0]))
    except DependencyFailed as why:
        rows.append(told(f"RecTools: skipped, {why}", None))
    for loss in ("full", "sampled"):
        stated = replace(work, loss=loss)
        found = take_turns(stated, turns=turns, ours=ours, theirs=peer)
        rows += turn_rows(stated, found, gemm)
        for name, other in OTHERS.items():
            rows.append(told(f"{NAMES[loss]}, bfloat16, {name}", round(ours(replace(stated, **other)).rate), _RATE))
    if peer is not None:
        usual = peer(replace(work, batch_tokens=PEER_USERS * work.length))
        rows.append(told(f"full softmax, RecTools' SASRec, its usual {PEER_USERS} users a batch", round(usual), _RATE))
    return rows


def take_turns(work: Work, *, turns: int, ours: Ours, theirs: Theirs | None) -> Turns:
    costs: dict[str, list[Cost]] = {precision: [] for precision in SHARE}
    rates: list[float] = []
    for _ in range(turns):
        for precision, taken in costs.items():
            taken.append(ours(replace(work, precision=precision)))
        if theirs is not None:
            rates.append(theirs(work))
    return Turns(costs, rates)


def turn_rows(work: Work, turns: Turns, gemm: Gemm) -> list[Row]:
    """The medians over the turns, and the ratio of each of our turns to the peer's in the same turn."""
    name, rows = NAMES[work.loss], []
    for precision, costs in turns.ours.items():
        rates = [cost.rate for cost in costs]
        flops = [model_flops(replace(work, precision=precision), cost) / cost.cpu_s / 1e9 for cost in costs]
        rows += [
            told(f"{name}, {precision}", round(statistics.median(rates)), _RATE, turns=rates),
            at_least(
                f"{name}, {precision}: model FLOPs over the float32 product's rate",
                round(100 * statistics.median(flops) / gemm.float32, 1),
                SHARE[precision],
            ),
            at_most(
                f"{name}, {precision}: peak memory",
                round(statistics.median(cost.peak_mb for cost in costs)),
                PEAK_MB,
                unit="MB",
            ),
        ]
        if precision == "bfloat16":
            best = max(gemm.half.values())
            rows.append(
                told(
                    f"{name}, {precision}: model FLOPs over the bfloat16 product's rate",
                    round(100 * statistics.median(flops) / best, 1),
                    "%",
                )
            )
    if turns.theirs:
        rows.append(told(f"{name}, RecTools' SASRec, float32", round(statistics.median(turns.theirs)), _RATE))
        for precision, costs in turns.ours.items():
            ratios = [cost.rate / rate for cost, rate in zip(costs, turns.theirs, strict=True)]
            spread = f"× ({min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} turns)"
            stated = f"{name}: ours in {precision} over RecTools'"
            rows.append({**at_least(stated, round(statistics.median(ratios), 2), RATIO[work.loss], unit=spread)})
    return rows


def _gpu(work: Work) -> list[Row]:
    """Tokens a second, and model FLOPs over the rate of a large bfloat16 product on the same device."""
    import torch

    if not torch.cuda.is_available():
        return [told("GPU: no GPU here: not measured", None)]
    best, rows = measure_gpu_gemm(), []
    for tokens in (3_200, 51_200):
        stated = replace(work, device="cuda", batch_tokens=tokens)
        cost = ours(stated)
        used = model_flops(stated, cost) / cost.wall_s
        name = f"GPU ({torch.cuda.get_device_name()}), full softmax, bfloat16, {tokens:,} positions a batch"
        rows += [
            told(name, round(cost.tokens / cost.wall_s), "tokens/s"),
            told(f"{name}: model FLOPs over the product's rate", round(100 * used / best, 1), "%"),
        ]
    return rows
