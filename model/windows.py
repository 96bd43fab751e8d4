# ruff: noqa: N802 -- shape suffixes are part of the names
"""Which positions are trained, and how they are cut into windows and batches.

Shapes: N events, W windows, U users, F first events, B rows of a batch, L positions, A attributes.

The target of a position is the user's next distinct item: of events on one item directly after one another (view,
click, cart) only the last position of the run has a target, because predicting the repeat would be trivial. A dislike
is context, never a target. A user's first event is a target too: of the padding position, whose output thereby
becomes the answer for users without history.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from model.features import PLAIN, FeatureSpec
from model.network.sight import Group
from model.sequences import Histories, is_target

PADDED = 1.1
"""Windows go into one product of attention while that is at most this many times as large as they are."""
ROUND = 8
_SECOND = 1_000_000


@dataclass(frozen=True)
class Corpus:
    """Histories in the rows of one vocabulary, with the target row of each position (0: none)."""

    row_N: np.ndarray
    behaviour_N: np.ndarray
    time_N: np.ndarray  # microseconds
    value_N: np.ndarray  # float32, NaN: none
    weight_N: np.ndarray  # float32, of the event as a target
    next_N: np.ndarray
    first_U: np.ndarray  # target row of each user's first event
    offsets_U1: np.ndarray
    attribute_NA: np.ndarray = None  # type: ignore[assignment]  # int32, codes of the feature spec
    lasting_A: np.ndarray = None  # type: ignore[assignment]  # bool, whether an attribute is of the user

    def __post_init__(self) -> None:
        if getattr(self, "attribute_NA", None) is None:
            object.__setattr__(self, "attribute_NA", np.zeros((len(self.row_N), 0), dtype=np.int32))
            object.__setattr__(self, "lasting_A", np.zeros(0, dtype=bool))

    @staticmethod
    def of(histories: Histories, row_I: np.ndarray, features: FeatureSpec = PLAIN) -> "Corpus":
        """`row_I` maps `histories.items` to vocabulary rows, all of them known."""
        row_N, offsets_U1 = row_I[histories.item_N], histories.offsets_U1
        target_N = np.where(is_target(histories.behaviour_N), row_N, 0)
        next_N = np.zeros_like(row_N)
        next_N[:-1] = np.where(row_N[1:] != row_N[:-1], target_N[1:], 0)
        next_N[offsets_U1[1:] - 1] = 0  # nothing follows a user's last event; the next entry is another user's
        first_U = target_N[offsets_U1[:-1]]
        return Corpus(
            row_N,
            histories.behaviour_N,
            histories.time_N,
            histories.value_N,
            histories.weight_N,
            next_N,
            first_U,
            offsets_U1,
            features.codes(histories),
            features.lasting_A,
        )

    def only(self, told_N: np.ndarray) -> "Corpus":
        """With the events where `told_N` as targets, and the others as context."""
        next_N = np.zeros_like(self.next_N)
        next_N[:-1] = np.where(told_N[1:], self.next_N[:-1], 0)
        return replace(self, next_N=next_N)


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


def tile(corpus: Corpus, *, length: int, rng: np.random.Generator | None) -> Windows:
    """Every position once, in windows of at most `length` that begin at a random phase for each user.

    Another phase each epoch gives a target another depth of context, for no extra positions. Without `rng` all begin
    at 0, so that a user's windows follow from that user's events alone. Windows without a target are left out.
    """
    begin_U, stop_U = corpus.offsets_U1[:-1], corpus.offsets_U1[1:] - 1
    phase_U = np.zeros(len(begin_U), dtype=np.int64) if rng is None else rng.integers(0, length, size=len(begin_U))
    phase_U[stop_U - begin_U <= length] = 0  # a short history is never cut
    count_U = -(-(stop_U - begin_U + phase_U) // length)
    step_W = np.arange(count_U.sum()) - np.repeat(np.cumsum(count_U) - count_U, count_U)
    left_W = np.repeat(begin_U - phase_U, count_U) + step_W * length
    start_W = np.maximum(left_W, np.repeat(begin_U, count_U))
    windows = Windows(start_W, start_W, np.minimum(left_W + length, np.repeat(stop_U, count_U)))
    return windows.keep(windows.targets_W(corpus.next_N) > 0)


def cover(corpus: Corpus, wanted_N: np.ndarray, *, length: int) -> Windows:
    """Every target that is a wanted event once, with as much of the user's past before it as fits.

    For increments: the targets are the new events, and their context reaches into the past. Where a user's wanted
    events span more than `length`, windows overlap by half; where half a window or more lies between two of them, none
    covers both. Targets of other events in between are in the windows too: leave them out of `corpus`.
    """
    trained_G = np.flatnonzero((corpus.next_N[:-1] > 0) & wanted_N[1:])
    if not len(trained_G):
        return Windows(trained_G, trained_G, trained_G)
    user_G = np.searchsorted(corpus.offsets_U1, trained_G, side="right") - 1
    apart_G = (np.diff(user_G) > 0) | (np.diff(trained_G) > length // 2)
    left_S = trained_G[np.concatenate([[True], apart_G])]
    end_S = trained_G[np.concatenate([apart_G, [True]])] + 1
    begin_S = corpus.offsets_U1[user_G[np.concatenate([[True], apart_G])]]
    stride = length - length // 2
    count_S = 1 + np.maximum(0, -(-(end_S - left_S - length) // stride))
    step_W = np.arange(count_S.sum()) - np.repeat(np.cumsum(count_S) - count_S, count_S)
    end_W = np.repeat(end_S, count_S) - step_W * stride  # from a span's end backwards
    start_W = np.maximum(np.repeat(begin_S, count_S), end_W - length)
    train_W = np.maximum(np.repeat(left_S, count_S), end_W - stride)
    last_W = step_W == np.repeat(count_S, count_S) - 1
    return Windows(start_W, np.where(last_W, np.repeat(left_S, count_S), train_W), end_W)


@dataclass(frozen=True)
class Batch:
    """One step's input: windows one after another, without padding.

    N positions, B windows, T targets. Where there are first events to train, the last window is of one position,
    row 0: what the network sees of a user without history. Users of whom different things are known there get one such
    window for each.
    """

    row_N: Tensor
    behaviour_N: Tensor
    age_N: Tensor  # seconds before the event that follows the window
    place_N: Tensor  # in its window, from 0
    offsets_B1: Tensor  # window b is [offsets_B1[b], offsets_B1[b + 1])
    user_B: Tensor  # −1: of no user
    at_T: Tensor  # position that a target is to be told from
    target_T: Tensor  # row, from 1
    behaviour_T: Tensor  # of the target's event
    value_T: Tensor  # float32 of the target's event, NaN: none
    weight_T: Tensor  # float32
    groups: tuple[Group, ...]
    attribute_NA: Tensor = None  # type: ignore[assignment]  # codes of the feature spec

    def __post_init__(self) -> None:
        if getattr(self, "attribute_NA", None) is None:
            object.__setattr__(self, "attribute_NA", self.row_N.new_zeros((len(self.row_N), 0)))

    @property
    def targets(self) -> int:
        return len(self.target_T)

    @property
    def weight(self) -> float:
        """Of all targets together: their number, unless some count for more or less."""
        return float(self.weight_T.sum())

    @property
    def tokens(self) -> int:
        return len(self.row_N)

    def to(self, device: torch.device) -> "Batch":
        """This on `device`; itself on the CPU."""
        if device.type == "cpu":
            return self
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "groups"}
        groups = (replace(g, place_M=None if g.place_M is None else g.place_M.to(device)) for g in self.groups)
        return Batch(**moved, groups=tuple(groups))


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
    firsts: tuple[np.ndarray, ...]  # users whose first event is a target, a step each

    @staticmethod
    def of(
        corpus: Corpus, windows: Windows, *, opens_U: np.ndarray | None, batch_tokens: int, rng: np.random.Generator
    ) -> "Epoch":
        """First events of the users where `opens_U` (None: of all) are spread evenly over the steps.

        No step when there is nothing to train.
        """
        plan = plan_batches(windows, batch_tokens=batch_tokens, rng=rng)
        begins_U = corpus.first_U > 0
        first_F = rng.permutation(np.flatnonzero(begins_U if opens_U is None else begins_U & opens_U))
        if not plan and len(first_F):
            plan = [np.zeros(0, dtype=np.int64)]
        return Epoch(corpus, windows, tuple(plan), tuple(np.array_split(first_F, max(1, len(plan)))))

    def __len__(self) -> int:
        return len(self.plan)

    def batch(self, step: int) -> Batch:
        return gather(self.corpus, self.windows.keep(self.plan[step]), self.firsts[step])

    def pieces(self, step: int, count: int, *, rank: int = 0, ranks: int = 1) -> Iterator[Batch]:
        """The step's batch, or what process `rank` of `ranks` has of it, in `count` parts; none without targets."""
        plan, first_F = self.plan[step][rank::ranks], self.firsts[step][rank::ranks]
        plans, firsts = np.array_split(plan, count), np.array_split(first_F, count)
        for plan, first_F in zip(plans, firsts, strict=True):
            if len(plan) or len(first_F):
                yield gather(self.corpus, self.windows.keep(plan), first_F)


def gather(corpus: Corpus, windows: Windows, first_F: np.ndarray) -> Batch:
    """The windows, the shortest first, and the first events of the users `first_F`."""
    windows = windows.keep(np.argsort(windows.length_W, kind="stable"))
    length_B = windows.length_W
    offsets_B1 = np.concatenate([[0], np.cumsum(length_B)])
    window_N = np.repeat(np.arange(len(windows)), length_B)
    place_N = np.arange(offsets_B1[-1]) - offsets_B1[window_N]
    at_N = windows.start_W[window_N] + place_N
    user_B = np.searchsorted(corpus.offsets_U1, windows.start_W, side="right") - 1
    after_B = np.minimum(windows.end_W, corpus.offsets_U1[user_B + 1] - 1)  # the event that follows, or the last one
    age_N = (corpus.time_N[after_B][window_N] - corpus.time_N[at_N]) // _SECOND
    row_N, behaviour_N = corpus.row_N[at_N], corpus.behaviour_N[at_N]
    at_T = np.flatnonzero((corpus.next_N[at_N] > 0) & (at_N >= windows.train_W[window_N]))
    event_T = at_N[at_T] + 1
    attribute_NA = corpus.attribute_NA[at_N]
    groups = _groups(length_B, place_N)
    if len(first_F):
        first_event_F = corpus.offsets_U1[first_F]
        known_GA, window_F = _distinct(corpus.attribute_NA[first_event_F] * corpus.lasting_A)
        end, count = len(row_N), len(known_GA)
        at_T = np.concatenate([at_T, end + window_F])
        event_T = np.concatenate([event_T, first_event_F])
        groups.append(Group(end, end + count, count, 1, None))
        offsets_B1 = np.concatenate([offsets_B1, end + 1 + np.arange(count)])
        user_B = np.concatenate([user_B, np.full(count, -1)])
        nothing_G = np.zeros(count, dtype=np.int64)
        row_N, behaviour_N, age_N, place_N = (
            np.concatenate([of_N, nothing_G]) for of_N in (row_N, behaviour_N, age_N, place_N)
        )
        attribute_NA = np.concatenate([attribute_NA, known_GA])
    return Batch(
        row_N=_whole(row_N),
        behaviour_N=_whole(behaviour_N),
        age_N=_whole(age_N),
        place_N=_whole(place_N),
        offsets_B1=_whole(offsets_B1),
        user_B=_whole(user_B),
        at_T=_whole(at_T),
        target_T=_whole(corpus.row_N[event_T]),
        behaviour_T=_whole(corpus.behaviour_N[event_T]),
        value_T=torch.from_numpy(corpus.value_N[event_T]),
        weight_T=torch.from_numpy(corpus.weight_N[event_T]),
        groups=tuple(groups),
        attribute_NA=_whole(attribute_NA),
    )


def _whole(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64))


def _distinct(code_FA: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows, and which of them each row is."""
    if not code_FA.shape[1]:
        return code_FA[:1], np.zeros(len(code_FA), dtype=np.int64)
    known_GA, which_F = np.unique(code_FA, axis=0, return_inverse=True)
    return known_GA, which_F.ravel()


def _groups(length_B: np.ndarray, place_N: np.ndarray) -> list[Group]:
    """Runs of windows, in ascending length, that are little padded by being laid out as one rectangle."""
    groups: list[Group] = []
    begin, token = 0, 0
    while begin < len(length_B):
        width = length_B[begin:]
        fits = np.arange(1, len(width) + 1) * width <= PADDED * np.cumsum(width)
        take = len(fits) if fits.all() else max(1, int(np.argmin(fits)))
        held, length = int(width[:take].sum()), int(width[take - 1])
        window_M = np.repeat(np.arange(take), width[:take])
        if held < take * length:
            length += -length % ROUND  # products of new shapes are slow the first time, so there are few
        place_M = None if held == take * length else window_M * length + place_N[token : token + held]
        groups.append(Group(token, token + held, take, length, None if place_M is None else torch.from_numpy(place_M)))
        begin, token = begin + take, token + held
    return groups
