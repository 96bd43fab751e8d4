"""The rows of a training, on both sides of its cutoff.

Shapes: N events, U users, I items; M events of the users that something is wanted of.
"""

from dataclasses import dataclass, replace

import numpy as np

from model.popularity import Popularity
from model.sequences import Histories, Holdout, hold_out, is_target, merge, split_by_time
from relations.errors import DataRejected
from stores.home import Home
from stores.lake import Lake
from stores.ledger import Ledger
from stores.sequences.arrays import Sequences
from stores.settings import Settings
from tasks.allowed import consented
from tasks.describing_users import with_user_attributes
from tasks.jobs import Mode, TrainingJob
from tasks.replaying import history_of, replayed, seen_by


@dataclass(frozen=True)
class Material:
    """The rows of a training, on both sides of its cutoff.

    `past`: what the parent was trained on, as far as it is context of a new event or may be replayed; `replayed_N` says
    which of its events may. `popularity` counts all events before the cutoff, and so do the holdout's items.
    """

    new: Histories
    past: Histories
    replayed_N: np.ndarray
    holdout: Holdout
    popularity: Popularity
    cutoff_us: int
    new_events: int

    @property
    def train(self) -> Histories:
        return merge(self.past, self.new)[0] if len(self.past) else self.new


def load_material(home: Home, settings: Settings, job: TrainingJob) -> Material:
    """The job's rows; a full retrain has no past, all rows are new.

    An increment's are those of the users with new events, and of the replay buffer: beside a look at the columns of all
    events, cost follows what is new. Users who have opted out by now are in none of it, with their old events neither.
    Raises DataRejected when nothing is left to learn from.
    """
    found = consented(home, settings)
    sequences, share = found.sequences, settings.evaluation.holdout_share
    known_N = found.allowed_N & (sequences.arrived_N <= job.events_version)
    lake = Lake.of(home, settings.lake)

    def described(histories: Histories) -> Histories:
        return with_user_attributes(lake, histories, names=settings.features.user)

    if job.mode is Mode.FULL or job.parent is None:
        split = split_by_time(described(sequences.histories(known_N)), holdout_share=share)
        train, nothing_N = split.train, np.zeros(len(split.train), dtype=bool)
        popularity = Popularity.of(train)
        past = train.keep(nothing_N)
        return Material(train, past, nothing_N[:0], split.holdout, popularity, split.cutoff_us, len(train))
    record = Ledger.of(home, settings).version(job.parent)
    seen_N = known_N & seen_by(record).among(sequences)
    new_N = known_N & ~seen_N
    new = described(sequences.histories(new_N))
    if not len(new):
        raise DataRejected(f"events version {job.events_version}: nothing that v{job.parent} has not seen")
    # Late rows may lie before the parent's cutoff; the test slice must not reach into what the parent trained on.
    cutoff_us = max(split_by_time(new, holdout_share=share).cutoff_us, record.cutoff_us)
    train_N = known_N & (sequences.time_N < cutoff_us)
    replayed_N = seen_N & replayed(home, settings, record, found)
    wanted_N = replayed_N | (new_N & train_N)
    length = history_of(home, record)
    past_N = seen_N & (replayed_N | leading_to(sequences, wanted_N, among_N=train_N, length=length))
    past = described(sequences.histories(past_N))
    met = sequences.met(known_N)
    held_U = sequences.count_U(known_N & ~train_N) > 0
    holdout = hold_out(described(sequences.histories(known_N & sequences.of_users(held_U), met=met)), cutoff_us)
    holdout = replace(holdout, trained_I=_counts(sequences, train_N, met))
    popularity = _popularity(
        met[0], holdout.trained_I, _counts(sequences, train_N & is_target(sequences.behaviour_N), met)
    )
    return Material(new.before(cutoff_us), past, replayed_N[past_N], holdout, popularity, cutoff_us, len(new))


def _counts(sequences: Sequences, which_N: np.ndarray, met: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Events where `which_N` of each item that was met, as `Sequences.met` tells."""
    items, place = met
    return np.bincount(place[sequences.item_N[which_N]], minlength=len(items))


def _popularity(items: np.ndarray, trained_I: np.ndarray, wanted_I: np.ndarray) -> Popularity:
    """As `Popularity.of` the events before the cutoff."""
    known_I = trained_I > 0
    return Popularity(tuple(map(str, items[known_I])), tuple(map(int, wanted_I[known_I])))


def leading_to(sequences: Sequences, wanted_N: np.ndarray, *, among_N: np.ndarray, length: int) -> np.ndarray:
    """True for the events of `among_N` that are wanted, or at most `length` before a wanted one of the same user.

    All that any window of `length` events that ends with a wanted target can show.
    """
    near_N = np.zeros(len(sequences), dtype=bool)
    at_M = np.flatnonzero(among_N & sequences.of_users(sequences.count_U(wanted_N) > 0))
    wanted_G = np.flatnonzero(wanted_N[at_M])
    if not len(wanted_G):
        return near_N
    user_M = np.searchsorted(sequences.offsets_U1, at_M, side="right")
    ahead_M = np.searchsorted(wanted_G, np.arange(len(at_M)))  # the next that is wanted
    next_M = wanted_G[np.minimum(ahead_M, len(wanted_G) - 1)]
    near_M = (ahead_M < len(wanted_G)) & (user_M[next_M] == user_M) & (next_M - np.arange(len(at_M)) <= length)
    near_N[at_M[near_M]] = True
    return near_N
