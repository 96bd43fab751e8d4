"""The rows of a training, on both sides of its cutoff."""

from dataclasses import dataclass

import numpy as np

from model.sequences import Histories, Holdout, merge, split_by_time
from relations.errors import DataRejected
from stores.home import Home
from stores.lake import Lake
from stores.ledger import Ledger
from stores.settings import Settings
from tasks.allowed import consented
from tasks.describing_users import with_user_attributes
from tasks.jobs import Mode, TrainingJob


@dataclass(frozen=True)
class Material:
    """The rows of a training, on both sides of its cutoff."""

    new: Histories
    past: Histories
    holdout: Holdout
    cutoff_us: int
    new_events: int

    @property
    def train(self) -> Histories:
        return merge(self.past, self.new)[0] if len(self.past) else self.new


def load_material(home: Home, settings: Settings, job: TrainingJob) -> Material:
    """The job's rows. `past` is what the parent was trained on; a full retrain has no past, all rows are new.

    Users who have opted out by now are in none of it, with their old events neither. Raises DataRejected when nothing
    is left to learn from.
    """
    found = consented(home, settings)
    sequences, share = found.sequences, settings.evaluation.holdout_share
    known_N = found.allowed_N & (sequences.arrived_N <= job.events_version)
    lake = Lake.of(home, settings.lake)

    def described(histories: Histories) -> Histories:
        return with_user_attributes(lake, histories, names=settings.features.user)

    if job.mode is Mode.FULL or job.parent is None:
        split = split_by_time(described(sequences.histories(known_N)), holdout_share=share)
        nothing = split.train.keep(np.zeros(len(split.train), dtype=bool))
        return Material(split.train, nothing, split.holdout, split.cutoff_us, len(split.train))
    record = Ledger.of(home, settings).version(job.parent)
    seen_N = (sequences.arrived_N <= record.events_version) & (sequences.time_N < record.cutoff_us)
    new, past = (described(sequences.histories(which_N)) for which_N in (known_N & ~seen_N, known_N & seen_N))
    if not len(new):
        raise DataRejected(f"events version {job.events_version}: nothing that v{job.parent} has not seen")
    # Late rows may lie before the parent's cutoff; the test slice must not reach into what the parent trained on.
    cutoff_us = max(split_by_time(new, holdout_share=share).cutoff_us, record.cutoff_us)
    whole = merge(past, new)[0]
    return Material(new.before(cutoff_us), past, split_by_time(whole, cutoff_us=cutoff_us).holdout, cutoff_us, len(new))
