"""How far recent events are from a reference, in numbers that know how far chance alone would take them.

One user's events hang together, so pieces (one user's events in one period) are the unit: the null distribution of
every measure comes from permuting whole pieces between the two sides. A critical value for independent rows, as
Yurdakul ("Statistical properties of population stability index", 2018) gives for PSI, would be too low. What says
which items are popular is a half of the reference (by user) that is not compared afterwards: with the compared half,
chance alone would make its favourites look fallen.

Shapes: N events, P pieces, F features, D draws of a permutation, V vector width, I items.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from model.fitted import Fitted
from model.network.ranker import materialised
from model.sequences import BEHAVIOUR_NAMES, Histories

DECILES = 10
GRID = 64
"""Bins of what is continuous; KS is seen to 1/64."""
SESSION_US = 1_800_000_000
"""A session ends with 30 minutes of silence."""
FEWEST_PIECES = 30
"""On each side; fewer tell nothing."""

Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Sums of features on the sides of the reference and of what is recent, [..., F] each, to a value each [...]."""


@dataclass(frozen=True)
class Shift:
    """A measure of drift. `expected` and `critical`: its mean and its (1 − alpha) quantile were the two sides alike.
    `usual`: the median excess of the reference's own periods, each against the others; 0 for fewer than three."""

    measure: str
    value: float
    expected: float
    critical: float
    usual: float

    @property
    def excess(self) -> float:
        """Over what chance, and the way this stream always moves, explain."""
        return self.value - self.expected - self.usual

    def beyond(self, threshold: float) -> bool:
        """Large, and no accident: a threshold alone fires on small samples, a test alone on large ones."""
        return self.value > self.critical and self.excess >= threshold


def psi(reference_F: np.ndarray, recent_F: np.ndarray) -> np.ndarray:
    """Population stability index Σ (qᵢ − pᵢ) ln(qᵢ / pᵢ) of counts, in nats, half a count added to each bin.

    Symmetric, at least 0. Source: Siddiqi, "Credit risk scorecards", 2006, where .25 is a significant shift.
    """
    share = [(side + 0.5) / (side + 0.5).sum(axis=-1, keepdims=True) for side in (reference_F, recent_F)]
    return np.asarray(((share[1] - share[0]) * np.log(share[1] / share[0])).sum(axis=-1))


def ks(reference_F: np.ndarray, recent_F: np.ndarray) -> np.ndarray:
    """Kolmogorov–Smirnov distance max |F₁ − F₂| of two histograms over ordered bins; 0 where one of them is empty."""
    one, other = (
        np.cumsum(side, axis=-1) / np.maximum(side.sum(axis=-1, keepdims=True), 1) for side in (reference_F, recent_F)
    )
    empty = (reference_F.sum(axis=-1) == 0) | (recent_F.sum(axis=-1) == 0)
    return np.where(empty, 0.0, np.abs(one - other).max(axis=-1))


def turned(reference_F: np.ndarray, recent_F: np.ndarray) -> np.ndarray:
    """One minus the cosine of two sums of vectors, in [0, 2]; 0 where one of them is nothing."""
    length = np.linalg.norm(reference_F, axis=-1) * np.linalg.norm(recent_F, axis=-1)
    dot = (reference_F * recent_F).sum(axis=-1)
    return np.where(length > 0, 1 - dot / np.where(length > 0, length, 1), 0.0)


def more_of(reference_F: np.ndarray, recent_F: np.ndarray) -> np.ndarray:
    """Share of the last feature in what is recent, less its share in the reference; in [−1, 1]."""
    return np.asarray(
        recent_F[..., -1] / np.maximum(recent_F.sum(axis=-1), 1)
        - reference_F[..., -1] / np.maximum(reference_F.sum(axis=-1), 1)
    )


def measure_drift(
    reference: Histories,
    recent: Histories,
    *,
    span_us: int,
    vectors: Mapping[str, np.ndarray] | None = None,
    alpha: float = 0.01,
    draws: int = 400,
    most_pieces: int = 4_000,
    seed: int = 0,
) -> tuple[Shift, ...]:
    """Shifts of behaviour mix, item popularity, new items, gaps, session lengths and, where `vectors` are given (an
    array [V] for each item that has one), of the mean item vector.

    `span_us`: how long `recent` is; the reference is cut into periods as long, from its end backwards, or longer ones
    would hold longer gaps. Empty with fewer than 30 pieces on either side. Deterministic in `seed`. Memory: draws ×
    pieces + pieces × features.
    """
    rng = np.random.default_rng(seed)
    if not len(reference) or not len(recent):
        return ()
    known_U = rng.random(len(reference.users)) < 0.5
    judged_N = known_U[reference.user_N()]
    compared, judge = _Pieces.of(reference, ~judged_N, span_us, rng, most_pieces), reference.keep(judged_N)
    new = _Pieces.of(recent, np.ones(len(recent), dtype=bool), 0, rng, most_pieces)
    if min(len(compared.period_P), len(new.period_P)) < FEWEST_PIECES or not len(judge):
        return ()
    features = _features(judge, compared, new, vectors or {})
    before = len(compared.period_P)
    shifts = []
    for measure, (feature_PF, statistic) in features.items():
        value, null_D = _permuted(feature_PF, np.arange(len(feature_PF)) >= before, statistic, draws, rng)
        usual = _usual(feature_PF[:before], compared.period_P, statistic, rng)
        shifts.append(
            Shift(measure, value, float(null_D.mean()), float(np.quantile(null_D, 1 - alpha, method="higher")), usual)
        )
    return tuple(shifts)


def item_vectors(fitted: Fitted) -> dict[str, np.ndarray]:
    """Each item's row of the item table [V]."""
    row_IV = materialised(fitted.ranker).item_table.weight.detach().float().cpu().numpy()[1:]
    return dict(zip(fitted.vocabulary.items, row_IV, strict=True))


@dataclass(frozen=True)
class _Pieces:
    """Events with the piece that each belongs to, by (user, time); `period_P` counts periods backwards from the end."""

    items: np.ndarray
    item_N: np.ndarray
    behaviour_N: np.ndarray
    time_N: np.ndarray
    piece_N: np.ndarray
    period_P: np.ndarray

    @staticmethod
    def of(histories: Histories, keep_N: np.ndarray, span_us: int, rng: np.random.Generator, most: int) -> "_Pieces":
        """`span_us` 0: all is one period."""
        end = int(histories.time_N.max())
        period_N = (end - histories.time_N) // span_us if span_us else np.zeros(len(histories), dtype=np.int64)
        key_N = histories.user_N() * (int(period_N.max()) + 1) + period_N
        key_P = np.unique(key_N[keep_N])
        if len(key_P) > most:
            key_P = np.sort(rng.choice(key_P, size=most, replace=False))
        keep_N = keep_N & np.isin(key_N, key_P)
        return _Pieces(
            histories.items,
            histories.item_N[keep_N],
            histories.behaviour_N[keep_N],
            histories.time_N[keep_N],
            np.searchsorted(key_P, key_N[keep_N]),
            key_P % (int(period_N.max()) + 1),
        )


def _features(
    judge: Histories, compared: _Pieces, new: _Pieces, vectors: Mapping[str, np.ndarray]
) -> dict[str, tuple[np.ndarray, Statistic]]:
    """Of each measure its features, summed over each piece's events, pieces of the reference first."""
    pieces = len(compared.period_P) + len(new.period_P)
    piece_N = np.concatenate([compared.piece_N, new.piece_N + len(compared.period_P)])
    items_N = np.concatenate([compared.items[compared.item_N], new.items[new.item_N]])
    items, item_N = np.unique(items_N, return_inverse=True)
    behaviour_N = np.concatenate([compared.behaviour_N, new.behaviour_N])
    bin_of = _popularity_bins(judge)
    bin_N = np.array([bin_of.get(item, DECILES) for item in items], dtype=np.int64)[item_N]
    judged, sides = _rhythm(judge.user_N(), judge.time_N), [_rhythm(p.piece_N, p.time_N) for p in (compared, new)]
    popularity_PF = _counted(piece_N, bin_N, pieces, DECILES + 1)
    found: dict[str, tuple[np.ndarray, Statistic]] = {
        "behaviours": (_counted(piece_N, behaviour_N, pieces, len(BEHAVIOUR_NAMES)), psi),
        "popularity": (popularity_PF, psi),
        "new items": (popularity_PF, more_of),
    }
    for at, name in enumerate(("gaps", "session lengths")):
        seen = judged[at][1]
        edges = np.unique(np.quantile(seen, np.linspace(0, 1, GRID + 1)[1:-1])) if len(seen) else np.zeros(0)
        owner = np.concatenate([sides[0][at][0], sides[1][at][0] + len(compared.period_P)])
        place = np.searchsorted(edges, np.concatenate([side[at][1] for side in sides]), side="left")
        found[name] = (_counted(owner, place, pieces, len(edges) + 1), ks)
    if vectors:
        width = len(next(iter(vectors.values())))
        nothing = np.zeros(width)
        vector_IV = np.stack([np.asarray(vectors.get(item, nothing), dtype=np.float64) for item in items])
        sum_PV = np.zeros((pieces, width))
        np.add.at(sum_PV, piece_N, vector_IV[item_N])
        found["item vectors"] = (sum_PV, turned)
    return found


def _popularity_bins(judge: Histories) -> dict[str, int]:
    """Item → tenth of the events, from the most popular items down. Items of equal count go by their ids."""
    count_I = np.bincount(judge.item_N, minlength=len(judge.items))
    order_I = np.argsort(-count_I, kind="stable")
    before_I = np.cumsum(count_I[order_I]) - count_I[order_I]
    bin_I = (DECILES * before_I) // max(1, int(count_I.sum()))
    return dict(zip(judge.items[order_I].tolist(), bin_I.tolist(), strict=True))


def _rhythm(
    owner_N: np.ndarray, time_N: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """(owner, microseconds) of each gap within an owner's events, and (owner, events) of each session."""
    if not len(time_N):
        none = np.zeros(0, dtype=np.int64)
        return (none, none), (none, none)
    gap_N = np.diff(time_N)
    same_N = np.diff(owner_N) == 0
    begins_N = np.concatenate([[True], ~same_N | (gap_N > SESSION_US)])
    start = np.flatnonzero(begins_N)
    return (owner_N[1:][same_N], gap_N[same_N]), (owner_N[start], np.diff([*start, len(time_N)]))


def _counted(owner: np.ndarray, place: np.ndarray, owners: int, places: int) -> np.ndarray:
    """Counts [owners, places]."""
    return np.bincount(owner * places + place, minlength=owners * places).reshape(owners, places).astype(np.float64)


def _permuted(
    feature_PF: np.ndarray, recent_P: np.ndarray, statistic: Statistic, draws: int, rng: np.random.Generator
) -> tuple[float, np.ndarray]:
    """The statistic, and what it is when the same number of pieces is called recent at random [D]."""
    whole_F = feature_PF.sum(axis=0)
    recent_F = feature_PF[recent_P].sum(axis=0)
    chosen_DP = np.zeros((draws, len(feature_PF)))
    for draw in chosen_DP:
        draw[rng.permutation(len(feature_PF))[: int(recent_P.sum())]] = 1.0
    recent_DF = chosen_DP @ feature_PF
    return float(statistic(whole_F - recent_F, recent_F)), statistic(whole_F - recent_DF, recent_DF)


def _usual(feature_PF: np.ndarray, period_P: np.ndarray, statistic: Statistic, rng: np.random.Generator) -> float:
    """Median over the reference's periods of how much one differs from the others beyond chance, at least 0."""
    periods, pieces = np.unique(period_P, return_counts=True)
    periods = periods[pieces >= FEWEST_PIECES]
    if len(periods) < 3:
        return 0.0
    excess = []
    for period in periods:
        value, null_D = _permuted(feature_PF, period_P == period, statistic, 40, rng)
        excess.append(value - float(null_D.mean()))
    return max(0.0, float(np.median(excess)))
