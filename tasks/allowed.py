"""Which events may be learnt from."""

import hashlib
from dataclasses import dataclass

import numpy as np

from relations.consent import opted_out
from stores.home import Home
from stores.lake import Lake
from stores.sequences.arrays import Sequences
from stores.sequences.store import SequenceStore
from stores.settings import Settings


@dataclass(frozen=True)
class Consented:
    """All sequences, and which of their events may be learnt from. `left_out`: a digest of the users who may not."""

    sequences: Sequences
    allowed_N: np.ndarray
    left_out: str


def consented(home: Home, settings: Settings) -> Consented:
    lake = Lake.of(home, settings.lake)
    sequences = SequenceStore(home.sequences).read(lake)
    out_U = sequences.among(opted_out(lake.relation("users")).to_pyarrow().column("user").to_pylist())
    left_out = hashlib.sha256(b"".join(sequences.user_U[out_U].tolist())).hexdigest()
    return Consented(sequences, ~out_U[sequences.user_N()], left_out)
