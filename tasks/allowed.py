"""Which events may be learnt from, and which items may be recommended."""

import hashlib
from dataclasses import dataclass

import ibis
import numpy as np

from model.continual.cohorts import in_panel
from relations.arrivals import visible
from relations.consent import opted_out, returned
from relations.newest import withdrawn
from stores.home import Home
from stores.lake import Lake
from stores.sequences.arrays import Sequences
from stores.sequences.store import SequenceStore
from stores.settings import Settings


@dataclass(frozen=True)
class Consented:
    """All sequences, and which of their events may be learnt from. `left_out`: a digest of the users who may not;
    `returned_U`: who may again, having asked once not to be learnt from; `panel_N`: events of the panel on which
    forgetting is measured (`model.continual.cohorts`), which are not learnt from either."""

    sequences: Sequences
    allowed_N: np.ndarray
    returned_U: np.ndarray
    panel_N: np.ndarray
    left_out: str


def consented(home: Home, settings: Settings) -> Consented:
    lake = Lake.of(home, settings.lake)
    sequences, users = SequenceStore(home.sequences).read(lake), lake.relation("users")
    out_U, returned_U = (sequences.among(_names(which(users))) for which in (opted_out, returned))
    left_out = hashlib.sha256(b"".join(sequences.user_U[out_U].tolist())).hexdigest()
    stated = settings.forgetting
    panel_U = in_panel(sequences.user_U.tolist(), share=stated.users_share, least=stated.min_users)
    allowed_N, panel_N = (sequences.of_users(which_U) for which_U in (~out_U & ~panel_U, ~out_U & panel_U))
    return Consented(sequences, allowed_N, returned_U, panel_N, left_out)


def withdrawn_items(lake: Lake, *, version: int) -> frozenset[str]:
    """Items that must not be recommended: that version's newest state of them is that they are not available.

    None before the first version (−1).
    """
    if version < 0:
        return frozenset()
    rows = visible(lake.relation("items"), lake.relation("deliveries"), version=version, table="items")
    found = withdrawn(rows).to_pyarrow()
    return frozenset(found["item_id"].to_pylist())


def _names(users: ibis.Table) -> list[str]:
    found: list[str] = users.to_pyarrow().column("user").to_pylist()
    return found
