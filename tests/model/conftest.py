"""Small histories from readable rows, and one tiny fitted model that tests may read but not change."""

from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa
import pytest

from model.fit import fit_full
from model.fitted import Fitted
from model.options import Device, NetworkOptions, Precision, TrainOptions
from model.sequences import Histories

Row = tuple[str, str, str, int]  # user, item, behaviour, second


def _table(rows: Iterable[Row]) -> pa.Table:
    users, items, behaviours, seconds = zip(*rows, strict=True)
    times = pa.array([second * 1_000_000 for second in seconds], pa.timestamp("us", tz="UTC"))
    return pa.table({"user": users, "item_id": items, "behaviour": behaviours, "event_time": times})


@pytest.fixture(scope="session")
def histories_of() -> Callable[[Iterable[Row]], Histories]:
    """From rows (user, item, behaviour, second); rows of equal time keep their order."""
    return lambda rows: Histories.from_table(_table(rows))


@pytest.fixture(scope="session")
def cycle() -> Histories:
    """40 users who walk the items i00 … i11 in order, each from another start, for 5 to 24 views."""
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user:02d}", f"i{(user + step) % 12:02d}", "view", step * 100 + user)
        for user in range(40)
        for step in range(int(rng.integers(5, 25)))
    ]
    return Histories.from_table(_table(rows))


TINY = NetworkOptions(width=16, blocks=2, heads=2, max_history=8, dropout=0.1)
BRIEF = TrainOptions(
    epochs=12, batch_tokens=128, learning_rate=1e-2, device=Device.CPU, threads=1, precision=Precision.FLOAT32
)


@pytest.fixture(scope="session")
def tiny() -> NetworkOptions:
    return TINY


@pytest.fixture(scope="session")
def brief() -> TrainOptions:
    return BRIEF


@pytest.fixture(scope="session")
def fitted(cycle: Histories) -> Fitted:
    return fit_full(cycle, network=TINY, training=BRIEF)
