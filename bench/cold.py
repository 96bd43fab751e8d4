"""Users whom no training has met: the model against popularity, from their first answer on.

`ratchet bench cold --data FOLDER` (MovieLens-100k, MovieLens-1M or Amazon Reviews 2023). A quarter of the users is kept
out of every training. They are asked about

- their next event after k = 0, 1, 2, 3, 5 and 10 events, and
- always their eleventh, of which the model sees the k events before it: what the sequence itself adds, since the
  question stays the same,

all items ranked, seen ones left out. The rivals are popularity and the popularity of the newest tenth of the training's
events. First the model is trained on all other users, then on few events in all, with the shipped defaults and without
their care for small data (`[train] small_events = 0`). Differences are in NDCG@10, with 95 % bootstrap intervals over
users; for small data the mean over `--repetitions` draws of users. A bar says that the interval must not lie below 0.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.rows import Row
from bench.train_data import FILE, movielens
from relations.errors import UsageError

if TYPE_CHECKING:
    from model.evaluation import Evaluation, Recommender
    from model.popularity import Popularity
    from model.sequences import Histories, Holdout

DATA = Path("../shared/data/ml-100k")
NEW_SHARE = 0.25
ASKED = 1_500
"""New users who are asked at most."""
PLACES = (0, 1, 2, 3, 5, 10)
SMALL = (200, 1_000, 5_000)
SESSION = 20
"""Oldest events of a user that a small training has, so that few events are not of a handful of users."""
RECENT = 0.1
REPETITIONS = 2


def run(data: Path | None = None, repetitions: int = REPETITIONS) -> list[Row]:
    """Rows of figures and, where a rival must be met, bars. Raises UsageError for a folder of another data set."""
    from model.evaluation import RankerRecommender
    from model.fit import fit_full
    from model.options import Device, NetworkOptions, TrainOptions
    from model.small_data import fit_small_or_full

    histories = read(DATA if data is None else data)
    timed = bool(np.ptp(histories.time_N))
    network = NetworkOptions(relative_times=timed)
    training = TrainOptions(threads=1, device=Device.CPU)
    careless = replace(training, small_events=0)

    rows: list[Row] = []
    new_U, old_U = strangers(histories, seed=0)
    train = histories.keep(np.isin(histories.user_N(), old_U))
    began = time.process_time()
    model = RankerRecommender.of(fit_small_or_full(train, network=network, training=training))
    rows.append(_told(f"training on {len(train):,} events", time.process_time() - began, "CPU-seconds"))
    rivals = {"popularity": popularity(train)} | ({"recent popularity": popularity(train, RECENT)} if timed else {})
    rows += compared(
        model, rivals, [(f"next event after {k}", after(histories, new_U, k)) for k in PLACES], bars=("popularity",)
    )
    last = PLACES[-1]
    same = [
        (f"event {last + 1}, {k} of the {last} before it seen", told_only(histories, new_U, last, k)) for k in PLACES
    ]
    rows += compared(model, {"popularity": rivals["popularity"]}, same, bars=())

    for events in SMALL:
        fits: dict[str, Callable[[Any], Any]] = {
            "model": lambda few: RankerRecommender.of(fit_small_or_full(few, network=network, training=training)),
            "small_events = 0": lambda few: RankerRecommender.of(fit_full(few, network=network, training=careless)),
            "popularity": popularity,
        }
        rows += small(histories, events, fits, repetitions=repetitions)
    return rows


def small(
    histories: "Histories",
    events: int,
    fits: "Mapping[str, Callable[[Histories], Recommender]]",
    *,
    repetitions: int,
) -> list[Row]:
    """Of trainings on `events` events, each of another draw of users: all places' rows together, and the first."""
    found: dict[str, list[list[Evaluation]]] = {name: [] for name in fits}
    seconds = dict.fromkeys(fits, 0.0)
    for seed in range(repetitions):
        new_U, old_U = strangers(histories, seed=seed)
        train = few_events(histories, old_U, events, seed=seed)
        for name, fit in fits.items():
            began = time.process_time()
            recommender = fit(train)
            seconds[name] += (time.process_time() - began) / repetitions
            found[name].append([_asked(recommender, after(histories, new_U, k)) for k in PLACES])
    rows = [_told(f"{events:,} events: training of {name}", seconds[name], "CPU-seconds") for name in list(fits)[:-1]]
    for said, places in (("first event", slice(0, 1)), (f"next events after 1–{PLACES[-1]}", slice(1, None))):
        pooled = {name: _pooled([one for draw in draws for one in draw[places]]) for name, draws in found.items()}
        rows += _beside(f"{events:,} events: {said}", pooled, rival="popularity", bars=("model",))
    return rows


def compared(
    model: "Recommender",
    rivals: "Mapping[str, Recommender]",
    questions: "Sequence[tuple[str, Holdout]]",
    *,
    bars: Sequence[str],
) -> list[Row]:
    rows: list[Row] = []
    for said, asked in questions:
        ours = _pooled([_asked(model, asked)])
        for name, rival in rivals.items():
            pooled = {"model": ours, name: _pooled([_asked(rival, asked)])}
            rows += _beside(said, pooled, rival=name, bars=("model",) if name in bars else ())
    return rows


def read(folder: Path) -> "Histories":
    """All events as ratings, oldest first. MovieLens-1M has an order and no times."""
    if (folder / FILE).is_file():
        log = movielens(folder)
        return _histories(log.user_N, log.item_N, np.zeros(len(log.user_N), dtype=np.int64))
    if (folder / "u.data").is_file():
        user_N, item_N, _, second_N = np.loadtxt(folder / "u.data", dtype=np.int64).T
        return _histories(user_N, item_N, second_N)
    if (folder / "interactions.parquet").is_file():
        import pyarrow.parquet as pq

        table = pq.read_table(folder / "interactions.parquet", columns=["user_id", "item_id", "timestamp"])
        user_N, item_N = (np.array(table[name].to_pylist()) for name in ("user_id", "item_id"))
        return _histories(user_N, item_N, table["timestamp"].to_numpy() // 1_000)
    raise UsageError(f"{folder}: neither MovieLens-100k, MovieLens-1M nor Amazon Reviews 2023; name one with --data")


def strangers(histories: "Histories", *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Users who are asked, and those who are trained on; by chance."""
    drawn_U = np.random.default_rng(seed).permutation(len(histories.users))
    new = round(NEW_SHARE * len(drawn_U))
    return drawn_U[:new][:ASKED], drawn_U[new:]


def few_events(histories: "Histories", user_U: np.ndarray, events: int, *, seed: int) -> "Histories":
    """The oldest `SESSION` events of users by chance, until there are `events`."""
    kept_N, left = np.zeros(len(histories), dtype=bool), events
    for user in np.random.default_rng(seed).permutation(user_U):
        begin, end = histories.offsets_U1[user], histories.offsets_U1[user + 1]
        end = min(begin + SESSION, begin + left, end)
        kept_N[begin:end] = True
        left -= int(end - begin)
    return histories.keep(kept_N)


def popularity(train: "Histories", newest: float = 1.0) -> "Popularity":
    """By the number of events; or by that of the newest share of them, where equal by that of all."""
    from model.popularity import Popularity

    whole = Popularity.of(train)
    if newest == 1:
        return whole
    late = np.sort(train.time_N)[-max(1, round(newest * len(train)))]
    recent_V = np.bincount(train.item_N[train.time_N >= late], minlength=len(whole.items))
    place_V = np.empty(len(whole.items), dtype=np.int64)
    place_V[np.lexsort([np.array(whole.counts), recent_V])] = np.arange(len(whole.items))
    return Popularity(whole.items, tuple(place_V.tolist()))


def after(histories: "Histories", user_U: np.ndarray, place: int) -> "Holdout":
    """Each of the users asked about event `place` (from 0), with those before it visible."""
    from model.sequences import BEHAVIOUR_NAMES, Holdout

    user_R = user_U[np.diff(histories.offsets_U1)[user_U] > place]
    event_R = histories.offsets_U1[user_R] + place
    reached_RB = np.zeros((len(user_R), len(BEHAVIOUR_NAMES)), dtype=bool)
    none_I, none_U = (np.zeros(len(of), dtype=np.int64) for of in (histories.items, histories.users))
    return Holdout(histories, 0, user_R, event_R, event_R, reached_RB, none_I, none_U)


def told_only(histories: "Histories", user_U: np.ndarray, place: int, seen: int) -> "Holdout":
    """Each of the users asked about event `place`, with just the `seen` events before it visible.

    Users who had met that item before are left out of all of these, so that the rows are the same for each `seen`.
    """
    whole = after(histories, user_U, place)
    before_RP = histories.item_N[whole.event_R[:, None] - np.arange(1, place + 1)]
    user_R = whole.user_R[~(before_RP == histories.item_N[whole.event_R][:, None]).any(axis=1)]
    place_N = np.arange(len(histories)) - histories.offsets_U1[:-1][histories.user_N()]
    kept_N = np.isin(histories.user_N(), user_R) & (place_N >= place - seen) & (place_N <= place)
    shown = histories.keep(kept_N)
    return after(shown, np.arange(len(shown.users)), seen)


def _histories(user_N: np.ndarray, item_N: np.ndarray, second_N: np.ndarray) -> "Histories":
    from model.sequences import BEHAVIOUR_NAMES, Histories

    order_N = np.lexsort([second_N, user_N])  # stable: equal times keep the order of the file
    users, code_N = np.unique(user_N[order_N].astype(str), return_inverse=True)
    order_N = order_N[np.argsort(code_N, kind="stable")]
    items, item_code_N = np.unique(item_N[order_N].astype(str), return_inverse=True)
    return Histories(
        users=users.astype(object),
        items=items.astype(object),
        item_N=item_code_N.astype(np.int64),
        behaviour_N=np.full(len(order_N), BEHAVIOUR_NAMES.index("rating"), dtype=np.int64),
        time_N=second_N[order_N].astype(np.int64) * 1_000_000,
        offsets_U1=np.concatenate([[0], np.cumsum(np.bincount(code_N))]).astype(np.int64),
    )


def _asked(recommender: "Recommender", asked: "Holdout") -> "Evaluation":
    from model.evaluation import evaluate

    return evaluate(recommender, asked, draws=0)


Pooled = tuple[np.ndarray, np.ndarray, np.ndarray]
"""NDCG@10, whether among the ten best, and the user, for each row."""


def _pooled(evaluations: "Sequence[Evaluation]") -> Pooled:
    """Of one user several rows, where draws of users or places meet."""
    ndcg_R = np.concatenate([one.ndcg_R for one in evaluations])
    hit_R = np.concatenate([(one.rank_R > 0) & (one.rank_R <= one.k) for one in evaluations])
    return ndcg_R, hit_R, np.concatenate([one.user_R for one in evaluations])


def _beside(said: str, pooled: Mapping[str, Pooled], *, rival: str, bars: Sequence[str]) -> list[Row]:
    from model.metrics.intervals import difference_interval

    rows = []
    for name, (ndcg_R, hit_R, user_R) in pooled.items():
        figure = f"{said}: NDCG@10 of {name} ({len(ndcg_R):,} rows, HR@10 {hit_R.mean():.4f})"
        rows.append(_told(figure, float(ndcg_R.mean())))
        if name == rival:
            continue
        found = difference_interval(ndcg_R, pooled[rival][0], user_R=user_R)
        said_of = f"{said}: {name} − {rival}, interval from {found.low:+.4f} to {found.high:+.4f}"
        barred = name in bars
        rows.append(
            {
                "name": said_of,
                "measured": found.difference,
                "unit": "",
                "bar": "not below 0" if barred else None,
                "holds": found.high >= 0 if barred else None,
            }
        )
    return rows


def _told(name: str, measured: float, unit: str = "") -> Row:
    return {"name": name, "measured": measured, "unit": unit, "bar": None, "holds": None}
