# ruff: noqa: N802 -- shape suffixes are part of the names
"""Which positions are trained, and how they are cut into windows and batches.

Shapes: N events, W windows, U users, F first events, B rows of a batch, L positions.

The target of a position is the user's next distinct item: of events on one item directly after one another (view,
click, cart) only the last position of the run has a target, because predicting the repeat would be trivial. A dislike
is context, never a target. A user's first event is a target too: of the padding position, whose output thereby
becomes the answer for users without history.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from model.sequences import Histories, is_target


@dataclass(frozen=True)
class Corpus:
    """Histories in the rows of one vocabulary, with the target row of each position (0: none)."""

    row_N: np.ndarray
    behaviour_N: np.ndarray
    next_N: np.ndarray
    first_U: np.ndarray  # target row of each user's first event
    offsets_U1: np.ndarray

    @staticmethod
    def of(histories: Histories, row_I: np.ndarray) -> "Corpus":
        """`row_I` maps `histories.items` to vocabulary rows, all of them known."""
        row_N, offsets_U1 = row_I[histories.item_N], histories.offsets_U1
        target_N = np.where(is_target(histories.behaviour_N), row_N, 0)
        next_N = np.zeros_like(row_N)
        next_N[:-1] = np.where(row_N[1:] != row_N[:-1], target_N[1:], 0)
        next_N[offsets_U1[1:] - 1] = 0  # nothing follows a user's last event; the next entry is another user's
        return Corpus(row_N, histories.behaviour_N, next_N, target_N[offsets_U1[:-1]], offsets_U1)


@dataclass(frozen=True)
class Windows:
    """Window w shows the network events [start, end) and trains the targets of positions [train, end)."""

    start_W: np.ndarray
    train_W: np.ndarray
    end_W: np.ndarray

    def __len__(self) -> int:
        return len(self.end_W)

    @property
    def length_W(self) -> np.ndarray:
        return np.asarray(self.end_W - self.start_W)

    def keep(self, choice: np.ndarray) -> "Windows":
        return Windows(self.start_W[choice], self.train_W[choice], self.end_W[choice])

    def __add__(self, other: "Windows") -> "Windows":
        return Windows(
            np.concatenate([self.start_W, other.start_W]),
            np.concatenate([self.train_W, other.train_W]),
            np.concatenate([self.end_W, other.end_W]),
        )

    def targets_W(self, next_N: np.ndarray) -> np.ndarray:
        """How many targets each window trains."""
        total_N1 = np.concatenate([[0], np.cumsum(next_N > 0)])
        return np.asarray(total_N1[self.end_W] - total_N1[self.train_W])


def tile(corpus: Corpus, *, length: int, rng: np.random.Generator, stop_U: np.ndarray | None = None) -> Windows:
    """Every position once, in windows of at most `length` that begin at a random phase for each user.

    Another phase each epoch gives a target another depth of context, for no extra positions. `stop_U` ends a user's
    positions earlier than the last that has a successor. Windows without a target are left out.
    """
    begin_U = corpus.offsets_U1[:-1]
    stop_U = corpus.offsets_U1[1:] - 1 if stop_U is None else np.maximum(stop_U, begin_U)
    phase_U = rng.integers(0, length, size=len(begin_U))
    phase_U[stop_U - begin_U <= length] = 0  # a short history is never cut
    count_U = -(-(stop_U - begin_U + phase_U) // length)
    step_W = np.arange(count_U.sum()) - np.repeat(np.cumsum(count_U) - count_U, count_U)
    left_W = np.repeat(begin_U - phase_U, count_U) + step_W * length
    start_W = np.maximum(left_W, np.repeat(begin_U, count_U))
    windows = Windows(start_W, start_W, np.minimum(left_W + length, np.repeat(stop_U, count_U)))
    return windows.keep(windows.targets_W(corpus.next_N) > 0)


def cover(corpus: Corpus, wanted_N: np.ndarray, *, length: int) -> Windows:
    """Every target that is a wanted event once, with as much of the user's past before it as fits.

    For increments: the targets are the new events, and their context reaches into the past. A user whose new events
    exceed `length` gets windows that overlap by half.
    """
    trained = np.flatnonzero((corpus.next_N[:-1] > 0) & wanted_N[1:])
    user = np.searchsorted(corpus.offsets_U1, trained, side="right") - 1
    spans: list[tuple[int, int, int]] = []
    bounds = np.flatnonzero(np.diff(user, prepend=-1, append=-1))
    for a, b in pairwise(bounds):
        begin, left, end = int(corpus.offsets_U1[user[a]]), int(trained[a]), int(trained[b - 1]) + 1
        while end > left:
            start = max(begin, end - length)
            train = left if left >= start else start + length // 2
            spans.append((start, train, end))
            end = train
    return Windows(*np.array(spans, dtype=np.int64).reshape(-1, 3).T)


@dataclass(frozen=True)
class Batch:
    """One step's input: right-padded, because causal attention never looks right."""

    row_BL: np.ndarray
    behaviour_BL: np.ndarray
    target_BL: np.ndarray  # 0: not trained
    first_F: np.ndarray  # targets of the padding position

    @property
    def targets(self) -> int:
        return int((self.target_BL > 0).sum()) + len(self.first_F)


def plan_batches(windows: Windows, *, batch_tokens: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Which windows go together: similar lengths, at most `batch_tokens` padded positions, at least one window.

    The batches come in random order, and so do windows of equal length.
    """
    length_W = windows.length_W
    order_W = np.lexsort([rng.random(len(length_W)), length_W])
    plan, begin, width_W = [], 0, length_W[order_W]
    while begin < len(order_W):
        ahead = width_W[begin : begin + batch_tokens]
        cost = np.arange(1, len(ahead) + 1) * ahead  # lengths ascend, so the last window sets the width
        take = max(1, int(np.searchsorted(cost, batch_tokens, side="right")))
        plan.append(order_W[begin : begin + take])
        begin += take
    return [plan[index] for index in rng.permutation(len(plan))]


@dataclass(frozen=True)
class Epoch:
    """The steps of one pass, each of which can be had without the ones before it."""

    corpus: Corpus
    windows: Windows
    plan: tuple[np.ndarray, ...]  # window numbers, a step each
    firsts: tuple[np.ndarray, ...]  # targets of the padding position, a step each

    @staticmethod
    def of(
        corpus: Corpus, windows: Windows, *, first_F: np.ndarray, batch_tokens: int, rng: np.random.Generator
    ) -> "Epoch":
        """`first_F` is spread evenly over the steps. No step when there is nothing to train."""
        plan = plan_batches(windows, batch_tokens=batch_tokens, rng=rng)
        first_F = rng.permutation(first_F[first_F > 0])
        if not plan and len(first_F):
            plan = [np.zeros(0, dtype=np.int64)]
        return Epoch(corpus, windows, tuple(plan), tuple(np.array_split(first_F, max(1, len(plan)))))

    def __len__(self) -> int:
        return len(self.plan)

    def batch(self, step: int) -> Batch:
        return _gather(self.corpus, self.windows.keep(self.plan[step]), self.firsts[step])


def _gather(corpus: Corpus, windows: Windows, first_F: np.ndarray) -> Batch:
    at_BL = windows.start_W[:, None] + np.arange(int(windows.length_W.max(initial=1)))
    real_BL = at_BL < windows.end_W[:, None]
    at_BL = np.where(real_BL, at_BL, 0)
    trained_BL = real_BL & (at_BL >= windows.train_W[:, None])
    return Batch(
        np.where(real_BL, corpus.row_N[at_BL], 0),
        np.where(real_BL, corpus.behaviour_N[at_BL], 0),
        np.where(trained_BL, corpus.next_N[at_BL], 0),
        first_F,
    )
