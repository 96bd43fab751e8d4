"""The catalogue, from the items table to the file that serving follows."""

import logging
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from relations.newest import next_state, states_now
from stores import catalogue
from stores.catalogue import NEVER, Catalogue
from stores.home import Home
from stores.lake import Lake
from stores.settings import Settings

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOG = logging.getLogger(__name__)


def publish_catalogue(home: Home, settings: Settings, *, now: datetime) -> bool:
    """Publish each item's state at `now`, unless that is what is published already. False where nothing was done.

    A state that begins later is published by the first call after its beginning.
    """
    lake = Lake.of(home, settings.lake)
    version, now_us = lake.version("items"), _microseconds(now)
    if version < 0 or catalogue.holds(home.catalogue, version=version, now_us=now_us):
        return False
    items = lake.relation("items", version=version)
    states: pa.Table = states_now(items, as_of=now).to_pyarrow()
    following = next_state(items, after=now).to_pyarrow().as_py()
    until_us = NEVER if following is None else _microseconds(following)
    catalogue.publish(home.catalogue, from_states(states, version=version, until_us=until_us))
    _LOG.info("published the catalogue: %d items of version %d", states.num_rows, version)
    return True


def from_states(states: pa.Table, *, version: int, until_us: int) -> Catalogue:
    """Columns item_id, in the order of its bytes, available, price, categories."""
    ids = states.column("item_id").cast(pa.large_string())
    lists = pc.fill_null(states.column("categories").cast(pa.list_(pa.string())).combine_chunks(), [])
    category = pc.fill_null(pc.list_flatten(lists), "").dictionary_encode()
    return Catalogue(
        ids="".join(ids.to_pylist()),
        ends_C=_cumulated(pc.utf8_length(ids)),
        available_C=np.asarray(states.column("available")).astype(bool),
        price_C=np.asarray(states.column("price").cast(pa.float64()).fill_null(float("nan")), dtype=np.float64),
        category_ends_C=_cumulated(pc.list_value_length(lists)),
        category_E=np.asarray(category.indices, dtype=np.int32),
        names=tuple(category.dictionary.to_pylist()),
        version=version,
        until_us=until_us,
    )


def _cumulated(lengths: pa.Array) -> np.ndarray:
    return np.cumsum(np.asarray(lengths), dtype=np.int64)


def _microseconds(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)
