"""What `bench.quality` trains and tests on: users' items in time order, and each user's last one held out."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.train_data import Log, movielens
from relations.errors import DataRejected, UsageError

if TYPE_CHECKING:
    from model.sequences import Histories, Holdout


def read(path: Path) -> Log:
    """A folder of MovieLens-1M, or a text file of lines `user item item item …`, oldest first.

    The files of other papers, of lines `user item`, a line an event, are read as well: lines of one user are put
    together in their order. Raises UsageError for what is not there, DataRejected for a line without an item.
    """
    if path.is_dir():
        return movielens(path)
    if not path.is_file():
        raise UsageError(f"{path} is missing; name a folder of MovieLens-1M or a text file with --data")
    items_of: dict[str, list[str]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        user, *items = line.split()
        if not items:
            raise DataRejected(f"{path}, line {number}: {line!r} names no item; each line is `user item item …`")
        items_of.setdefault(user, []).extend(items)
    if not items_of:
        raise DataRejected(f"{path}: holds no line; each line is `user item item …`")
    _, item_N = np.unique([item for items in items_of.values() for item in items], return_inverse=True)
    return Log(np.repeat(np.arange(len(items_of)), [len(items) for items in items_of.values()]), item_N)


@dataclass(frozen=True)
class LeaveOneOut:
    """`train` without the held-out events; `holdout` asks for each user's held-out one, given all before it."""

    train: "Histories"
    holdout: "Holdout"
    users: int
    items: int


def leave_one_out(log: Log, *, back: int = 1) -> LeaveOneOut:
    """The last event of each user is tested on (`back` = 1), or the last but one, for choosing among recipes (2).

    What comes after the tested event is in neither side. Users with too few events are trained on and not tested.
    Times are unknown, so that all are equal.
    """
    from model.sequences import BEHAVIOUR_NAMES, Histories, Holdout

    users, first_U, count_U = np.unique(log.user_N, return_index=True, return_counts=True)
    place_N = np.arange(len(log.user_N)) - np.repeat(first_U, count_U)
    left_N = np.repeat(count_U, count_U) - place_N  # 1: the last
    tested_U = count_U > back
    shown_N = (left_N >= back) | ~np.repeat(tested_U, count_U)
    items, code_N = np.unique(log.item_N, return_inverse=True)
    code_N, user_N = code_N[shown_N], np.repeat(np.arange(len(users)), count_U)[shown_N]
    behaviour = BEHAVIOUR_NAMES.index("rating")
    whole = Histories(
        users=np.array([str(user) for user in users], dtype=object),
        items=np.array([str(item) for item in items], dtype=object),
        item_N=code_N.astype(np.int64),
        behaviour_N=np.full(len(code_N), behaviour, dtype=np.int64),
        time_N=np.zeros(len(code_N), dtype=np.int64),
        offsets_U1=np.concatenate([[0], np.cumsum(np.bincount(user_N, minlength=len(users)))]).astype(np.int64),
    )
    event_R = whole.offsets_U1[1:][tested_U] - 1
    if not len(event_R):
        raise DataRejected(f"no user has more than {back} events: there is nothing to test on")
    trained_N = np.ones(len(whole), dtype=bool)
    trained_N[event_R] = False
    train = whole.keep(trained_N)
    reached_RB = np.zeros((len(event_R), len(BEHAVIOUR_NAMES)), dtype=bool)
    reached_RB[:, behaviour] = True
    holdout = Holdout(
        histories=whole,
        cutoff_us=0,
        user_R=np.flatnonzero(tested_U),
        visible_R=event_R,
        event_R=event_R,
        reached_RB=reached_RB,
        trained_I=np.bincount(whole.item_N[trained_N], minlength=len(items)),
        trained_U=np.bincount(whole.user_N()[trained_N], minlength=len(users)),
    )
    return LeaveOneOut(train, holdout, users=len(users), items=len(items))
