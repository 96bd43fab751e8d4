"""Does ONNX Runtime answer as torch does? Measured, not judged: the caller turns a failure into a refusal.

Shapes: B rows, L positions, V items, A attributes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from model.graph import BEST_ROWS, EXCLUDED, MASK, SCORES, K, history_inputs
from model.inputs import Inputs
from model.network.ranker import Ranker
from model.runtime import onnxruntime

BATCHES = (1, 2, 7, 32)
LENGTHS = (1, 2, 7)
"""And the longest history: a dimension that the exporter fixed silently shows at one of these."""
TOP = 10


class Sequence(NamedTuple):
    """A user's events, oldest first."""

    rows: np.ndarray
    behaviours: np.ndarray
    seconds: np.ndarray  # since the epoch
    attributes: np.ndarray  # codes, [events, A]


@dataclass(frozen=True)
class ParityCase:
    batch: int
    length: int
    max_abs_diff: float
    top10_agreement: float


@dataclass(frozen=True)
class Parity:
    max_abs_diff: float
    """Largest difference of a score, over all cases."""
    top10_agreement: float
    """Mean share of torch's ten best that are among ONNX Runtime's, over all rows."""
    cases: tuple[ParityCase, ...]
    holds: bool


def measure_parity(
    ranker: Ranker,
    file: Path | bytes,
    *,
    sequences: list[Sequence],
    max_abs: float,
    top10: float,
    seed: int = 0,
) -> Parity:
    """Compare `ranker` with the graph in `file`, or of these bytes, on the CPU at every batch size and length.

    `sequences`: users' events, oldest first, from which stretches are drawn; none: random ones. Each
    batch of 7 and more holds an empty history too. A score that is not a number never holds.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(seed)
    mask_V1 = np.zeros(next(value for value in session.get_inputs() if value.name == MASK).shape, np.float32)
    mask_V1[0] = -np.inf
    top = min(TOP, len(mask_V1) - 1)
    cases = []
    for inputs in stretches(ranker, sequences, rng):
        with torch.inference_mode():
            ours_BV = ranker(*map(torch.from_numpy, inputs.arrays())).numpy()
        batch = len(inputs.row_BL)
        feed = dict(zip(history_inputs(ranker.config.attributes), inputs.arrays(), strict=True))
        feed |= {MASK: mask_V1, EXCLUDED: np.zeros((batch, 1), np.int64), K: np.array([top], np.int64)}
        theirs_BV, best_BK = session.run([SCORES, BEST_ROWS], feed)
        cases.append(_compare(ours_BV, theirs_BV[:, 1:], best_BK - 1, length=inputs.row_BL.shape[1]))
    rows = np.array([case.batch for case in cases])
    worst = max(case.max_abs_diff for case in cases)
    agreement = float(np.average([case.top10_agreement for case in cases], weights=rows))
    return Parity(worst, agreement, tuple(cases), holds=bool(worst <= max_abs and agreement >= top10))


def stretches(ranker: Ranker, sequences: list[Sequence], rng: np.random.Generator) -> Iterator[Inputs]:
    """What a ranker is asked with, at every batch size and length: parts of `sequences`; by chance, without any."""
    config = ranker.config
    for batch in BATCHES:
        for length in sorted({min(length, config.max_history) for length in (*LENGTHS, config.max_history)}):
            inputs = Inputs.nothing(batch, length, attributes=len(config.attributes))
            for index in range(batch - (batch >= 7)):
                if sequences:
                    found = sequences[rng.integers(len(sequences))]
                    end = int(rng.integers(1, len(found.rows) + 1))
                    rows, behaviours, seconds, codes = (part[max(0, end - length) : end] for part in found)
                    ages = seconds[-1] + int(rng.integers(0, 100_000)) - seconds
                else:
                    real = int(rng.integers(1, length + 1))
                    rows = rng.integers(1, config.items + 1, size=real)
                    behaviours = rng.integers(1, config.behaviours + 1, size=real)
                    ages = np.sort(10 ** rng.uniform(0, 9, size=real)).astype(np.int64)[::-1]
                    codes = rng.integers(0, [*config.attributes.values()], size=(real, len(config.attributes)))
                for array_BL, stretch in zip(inputs.all(), (rows, behaviours, ages, codes), strict=True):
                    array_BL[index, length - len(rows) :] = stretch
            yield inputs


def _compare(ours_BV: np.ndarray, theirs_BV: np.ndarray, best_BK: np.ndarray, *, length: int) -> ParityCase:
    """`best_BK`: the columns that the graph itself chose."""
    batch, top = best_BK.shape
    if ours_BV.shape != theirs_BV.shape:
        return ParityCase(batch, length, float("inf"), 0.0)
    difference = float(np.abs(ours_BV - theirs_BV).max())
    ours_BK = np.argsort(-ours_BV, axis=1, kind="stable")[:, :top]
    shared = [len(np.intersect1d(ours, theirs)) / top for ours, theirs in zip(ours_BK, best_BK, strict=True)]
    return ParityCase(batch, length, difference if np.isfinite(difference) else float("inf"), float(np.mean(shared)))
