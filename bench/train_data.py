"""The logs that `bench.train` trains on, as a file that both sides read: who (`user_N`) took what (`item_N`), in order.

Users stand one after another, each with the oldest event first.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from relations.errors import DataRejected, UsageError

if TYPE_CHECKING:
    from model.sequences import Histories

FILE = "ratings_ordered.parquet"
MIN_RATINGS = 5
"""Items with fewer are dropped, as in the published preprocessing of SASRec."""


@dataclass(frozen=True)
class Log:
    user_N: np.ndarray
    item_N: np.ndarray

    def write(self, path: Path) -> Path:
        np.savez(path, user_N=self.user_N, item_N=self.item_N)
        return path


def movielens(folder: Path) -> Log:
    """All users in the published order. Raises UsageError without the file, DataRejected when nothing is left."""
    import pyarrow.parquet as pq

    path = folder / FILE
    if not path.is_file():
        raise UsageError(f"{path} is missing; name the folder of MovieLens-1M with --data")
    table = pq.read_table(path, columns=["user_id", "item_id", "pos"])
    user_N, item_N, place_N = (table[name].to_numpy() for name in ("user_id", "item_id", "pos"))
    kept_N = np.bincount(item_N)[item_N] >= MIN_RATINGS
    if not kept_N.any():
        raise DataRejected(f"{path}: no item has {MIN_RATINGS} ratings; name the folder of MovieLens-1M with --data")
    order_M = np.lexsort([place_N[kept_N], user_N[kept_N]])
    return Log(user_N[kept_N][order_M], item_N[kept_N][order_M])


def drawn(*, items: int, lengths: np.ndarray, seed: int = 0) -> Log:
    """Users of these `lengths` with events drawn from `items` by Zipf's law; every item occurs.

    There is nothing to learn in it: it is for what a step costs. The lengths must have room for all items.
    """
    rng = np.random.default_rng(seed)
    events = int(lengths.sum())
    if events < items:
        raise UsageError(f"{events} events have no room for {items} items; draw longer or more users")
    weight_I = 1 / np.arange(1, items + 1)
    up_to_I = np.cumsum(weight_I / weight_I.sum())
    free_N = np.searchsorted(up_to_I, rng.random(events - items), side="right").clip(max=items - 1)
    item_N = rng.permutation(np.concatenate([np.arange(items), free_N]))
    return Log(np.repeat(np.arange(len(lengths)), lengths), item_N)


def read_log(path: Path) -> Log:
    with np.load(path) as file:
        return Log(file["user_N"], file["item_N"])


def read_histories(path: Path) -> "Histories":
    """A written log as the trainer takes it: ratings without a time of their own, a second apart."""
    from model.sequences import BEHAVIOUR_NAMES, Histories

    log = read_log(path)
    user_N, item_N = log.user_N, log.item_N
    users, first_U = np.unique(user_N, return_index=True)
    items, code_N = np.unique(item_N, return_inverse=True)
    return Histories(
        users=users.astype(str).astype(object),
        items=items.astype(str).astype(object),
        item_N=code_N.astype(np.int64),
        behaviour_N=np.full(len(user_N), BEHAVIOUR_NAMES.index("rating"), dtype=np.int64),
        time_N=np.arange(len(user_N), dtype=np.int64) * 1_000_000,
        offsets_U1=np.append(first_U, len(user_N)).astype(np.int64),
    )
