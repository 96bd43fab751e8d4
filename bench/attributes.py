"""What user attributes bring: the same network with and without them, same events, same steps, same seed.

`python -m bench.attributes` on MovieLens-1M with `users.dat` (gender, age group, occupation, first digit of the zip
code). A quarter of the users is kept out of the training: they are asked about with nothing but their attributes, and
after a few ratings; the others about their last rating, all items ranked, seen ones left out. The difference in NDCG@10
comes with a 95 % bootstrap interval over users, the same users on both sides.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.quality import DATA
from bench.quality_data import leave_one_out
from bench.rows import Row
from bench.train_data import movielens
from relations.errors import UsageError

if TYPE_CHECKING:
    from model.sequences import Histories, Holdout

NAMES = ("gender", "age", "occupation", "region")
NEW_SHARE = 0.25
FEW = 5
"""Ratings that the asked user has given."""
EPOCHS = 4


def run(data: Path | None = None, epochs: int = EPOCHS, users: int = 3_000, seed: int = 0) -> list[Row]:
    """Rows of NDCG@10 without and with attributes, and their difference; no bars, since the answer is the finding."""
    from model.evaluation import RankerRecommender, compare, evaluate
    from model.features import FeatureOptions, Kind
    from model.fit import NO_FEATURES, fit_full
    from model.options import Device, NetworkOptions, TrainOptions

    folder = DATA if data is None else data
    whole = leave_one_out(movielens(folder))
    rng = np.random.default_rng(seed)
    chosen_U = rng.permutation(whole.users)[:users]
    new_U = np.isin(np.arange(whole.users), chosen_U[: round(len(chosen_U) * NEW_SHARE)])
    old_U = np.isin(np.arange(whole.users), chosen_U) & ~new_U
    told = attributes_of(folder / "users.dat")
    holdout = replace(whole.holdout, histories=described(whole.holdout.histories, told))
    train = described(whole.train, told)
    train = train.keep(np.isin(train.users, holdout.histories.users[old_U])[train.user_N()])
    questions = {
        "last rating of known users": holdout.keep(old_U[holdout.user_R]),
        "first rating of new users": asked_at(holdout, new_U, 0),
        f"rating {FEW + 1} of new users": asked_at(holdout, new_U, FEW),
    }
    declared = FeatureOptions(user=dict.fromkeys(NAMES, Kind.CATEGORY))
    network = NetworkOptions(width=64, blocks=2, heads=2, max_history=50, relative_times=False)
    training = TrainOptions(epochs=epochs, seed=seed, threads=1, device=Device.CPU)
    found, rows = {}, []
    for side, features in (("without", NO_FEATURES), ("with", declared)):
        began = time.process_time()
        fitted = fit_full(train, network=network, training=training, features=features)
        rows.append(_row(f"training {side} attributes", time.process_time() - began, "CPU-seconds"))
        recommender = RankerRecommender.of(fitted)
        found[side] = {name: evaluate(recommender, asked, draws=0) for name, asked in questions.items()}
    for name in questions:
        without, with_ = found["without"][name], found["with"][name]
        difference = compare(with_, without)
        rows += [
            _row(f"{name}: NDCG@10 without ({len(without):,} rows)", without.overall["ndcg@10"], ""),
            _row(f"{name}: NDCG@10 with", with_.overall["ndcg@10"], ""),
            _row(f"{name}: difference", difference.difference, f"[{difference.low:+.4f}, {difference.high:+.4f}]"),
        ]
    return rows


def attributes_of(file: Path) -> dict[str, dict[str, str]]:
    """By user id. Raises UsageError without the file."""
    if not file.is_file():
        raise UsageError(f"{file} is missing; name the folder of MovieLens-1M with --data")
    lines = (line.split("::") for line in file.read_text(encoding="latin-1").splitlines() if line.strip())
    return {user: dict(zip(NAMES, (gender, age, job, code[:1]), strict=True)) for user, gender, age, job, code in lines}


def described(histories: "Histories", told: dict[str, dict[str, str]]) -> "Histories":
    """With what MovieLens says of users; it has no dates, so that all of it holds from the beginning."""
    from model.attributes import as_of

    columns = {}
    for name in NAMES:
        statements = [(user, np.iinfo(np.int64).min, of[name]) for user, of in told.items()]
        columns[name] = as_of(
            users=histories.users, user_N=histories.user_N(), time_N=histories.time_N, told=statements
        )
    return replace(histories, attributes=columns)


def asked_at(holdout: "Holdout", user_U: np.ndarray, place: int) -> "Holdout":
    """Each of these users asked about their event `place` (from 0), with the ones before it visible."""
    offsets_U1 = holdout.histories.offsets_U1
    asked = np.flatnonzero(user_U & (np.diff(offsets_U1) > place))
    event_R = offsets_U1[asked] + place
    return replace(
        holdout,
        user_R=asked,
        visible_R=event_R,
        event_R=event_R,
        reached_RB=np.repeat(holdout.reached_RB[:1], len(asked), axis=0),
    )


def _row(name: str, measured: float, unit: str) -> Row:
    return {"name": name, "measured": measured, "unit": unit, "bar": None, "holds": None}


if __name__ == "__main__":
    for row in run():
        print(f"{row['name']}: {row['measured']:.4f} {row['unit']}")
