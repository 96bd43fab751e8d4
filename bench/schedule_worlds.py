"""Streams cut into weeks, with known drift or none: sessions of a data set, drawn anew."""

from dataclasses import dataclass

import numpy as np

from bench.continual_data import WEEK_US, Stream
from model.sequences import BEHAVIOUR_NAMES, Histories, merge

ITEMS = 200
"""The most popular ones make the small world."""
BASE = 4
"""Periods that the first model of a drawn world learns from."""


@dataclass(frozen=True)
class Sessions:
    """Sessions as item codes, and what is drawn from them."""

    items_S: tuple[np.ndarray, ...]

    @staticmethod
    def of(histories: Histories, *, longest: int = 20) -> "Sessions":
        """Of the most popular items; longer histories are cut, single events left out."""
        count_I = np.bincount(histories.item_N, minlength=len(histories.items))
        kept_I = np.argsort(-count_I, kind="stable")[:ITEMS]
        place_I = np.full(len(histories.items), -1)
        place_I[kept_I] = np.arange(len(kept_I))
        found = []
        for begin, end in zip(histories.offsets_U1[:-1], histories.offsets_U1[1:], strict=True):
            codes = place_I[histories.item_N[begin:end]]
            codes = codes[codes >= 0]
            found += [codes[at : at + longest] for at in range(0, len(codes) - 1, longest)]
        return Sessions(tuple(codes for codes in found if len(codes) > 1))

    @staticmethod
    def synthetic(*, count: int = 4_000, items: int = 120, seed: int = 0) -> "Sessions":
        """Walks in which an item has three likely followers, popular items more often."""
        rng = np.random.default_rng(seed)
        share_I = 1 / np.arange(2.0, items + 2)
        follower_I3 = rng.choice(items, size=(items, 3), p=share_I / share_I.sum())
        walks = []
        for _ in range(count):
            walk = [int(rng.choice(items, p=share_I / share_I.sum()))]
            for _ in range(int(rng.integers(3, 10))):
                walk.append(int(follower_I3[walk[-1], rng.integers(3)]))
            walks.append(np.array(walk))
        return Sessions(tuple(walks))

    def period(self, number: int, *, sessions: int, rng: np.random.Generator, name_I: np.ndarray) -> Histories:
        """`sessions` of them, drawn with replacement, spread over week `number`."""
        drawn = [self.items_S[at] for at in rng.integers(len(self.items_S), size=sessions)]
        length_U = np.array([len(codes) for codes in drawn])
        begin_U = number * WEEK_US + rng.integers(0, WEEK_US - 3_600_000_000, size=sessions)
        within_N = np.arange(length_U.sum()) - np.repeat(np.cumsum(length_U) - length_U, length_U)
        users = np.array([f"{number:03d}-{user:06d}" for user in range(sessions)], dtype=object)
        names, item_N = np.unique(name_I[np.concatenate(drawn)], return_inverse=True)
        return Histories(
            users,
            names,
            item_N.astype(np.int64),
            np.full(len(item_N), BEHAVIOUR_NAMES.index("view"), dtype=np.int64),
            np.repeat(begin_U, length_U) + within_N * 10_000_000,
            np.concatenate([[0], np.cumsum(length_U)]).astype(np.int64),
        )


@dataclass(frozen=True)
class World:
    base: Histories
    periods: tuple[Histories, ...]
    start_us: int
    """Of the first period; each is a week."""


def drawn(sessions: Sessions, *, periods: int, size: int, seed: int, drift: str = "", at: int = 0) -> World:
    """Periods of `size` sessions after a base of four such; from period `at` on with `drift`.

    `popularity`: items exchange their names at random. `catalogue`: a half of the items has names that nobody knows.
    `relations`: items exchange their names within a tenth of the popularity, so that only what follows what changes.
    """
    rng = np.random.default_rng([seed, len(drift)])
    items = 1 + max(int(codes.max()) for codes in sessions.items_S)
    name_I = np.array([f"i{code:04d}" for code in range(items)], dtype=object)
    later_I = _renamed(name_I, drift, np.bincount(np.concatenate(sessions.items_S), minlength=items), rng)
    base = sessions.period(0, sessions=size, rng=rng, name_I=name_I)
    for number in range(1, BASE):
        base, _ = merge(base, sessions.period(number, sessions=size, rng=rng, name_I=name_I))
    return World(
        base,
        tuple(
            sessions.period(BASE + t, sessions=size, rng=rng, name_I=later_I if drift and t >= at else name_I)
            for t in range(periods)
        ),
        BASE * WEEK_US,
    )


def _renamed(name_I: np.ndarray, drift: str, count_I: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if drift == "catalogue":
        return np.where(rng.random(len(name_I)) < 0.5, "new-" + name_I, name_I)
    if drift == "relations":
        order_I, renamed_I = np.argsort(-count_I, kind="stable"), name_I.copy()
        share_I = np.cumsum(count_I[order_I]) - count_I[order_I]
        for tenth in range(10):
            within = order_I[(10 * share_I) // count_I.sum() == tenth]
            renamed_I[within] = name_I[rng.permutation(within)]
        return renamed_I
    return name_I[rng.permutation(len(name_I))]


def real(stream: Stream, *, sessions_share: float, seed: int = 0) -> World:
    """The stream in its own order: a share of its users, and of its items the most popular."""
    histories = stream.histories
    count_I = np.bincount(histories.item_N, minlength=len(histories.items))
    kept_I = np.isin(np.arange(len(count_I)), np.argsort(-count_I, kind="stable")[:ITEMS])
    drawn_U = np.random.default_rng(seed).random(len(histories.users)) < sessions_share
    small = histories.keep(kept_I[histories.item_N] & drawn_U[histories.user_N()])
    starts = stream.starts[stream.base :]
    ends = (*starts[1:], int(small.time_N.max()) + 1)
    periods = tuple(small.since(start).before(end) for start, end in zip(starts, ends, strict=True))
    return World(small.before(starts[0]), periods, starts[0])
