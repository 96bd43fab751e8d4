"""Deliveries as the door leaves them in the lake, and what a store of sequences says of them."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from model.sequences import BEHAVIOUR_NAMES
from relations.schemas import DELIVERIES, EVENTS
from stores.lake import Lake
from stores.sequences.arrays import Sequences
from stores.sequences.store import SequenceStore

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
Event = tuple[str, str, str | None, str, int, float | None]  # event id, user, item, behaviour, second, value


def _deliver(lake: Lake, rows: Sequence[Event], *, name: str, receipt: bool = True) -> None:
    """Append `rows` as the door does, and file their receipt."""
    events = [
        {
            "event_id": event,
            "user": user,
            "item_id": item,
            "behaviour": behaviour,
            "value": value,
            "event_time": NOON + timedelta(seconds=second),
            "received_time": NOON,
            "source": "file",
            "delivery_id": name,
        }
        for event, user, item, behaviour, second, value in rows
    ]
    lake.append("events", pa.Table.from_pylist(events, schema=EVENTS), transaction=name)
    if receipt:
        _file_receipt(lake, name)


def _file_receipt(lake: Lake, name: str) -> None:
    counts = dict.fromkeys(("delivered", "accepted", "quarantined", "duplicate", "late"), 0)
    said = {
        **counts,
        "delivery_id": name,
        "digest": name,
        "kind": "events",
        "source": "file",
        "uri": name,
        "received_time": NOON,
        "table_versions": sorted(lake.versions().items()),
        "state": "committed",
    }
    lake.append("deliveries", pa.Table.from_pylist([said], schema=DELIVERIES), transaction=name)


def _told(found: Sequences) -> list[tuple[Any, ...]]:
    """One row an event, in order, with names in place of codes: the same whatever order items were met in."""
    items = found.items.to_pylist()
    return [
        (user.decode(), items[item], BEHAVIOUR_NAMES[behaviour], int(time), repr(float(value)), int(arrived))
        for user, item, behaviour, time, value, arrived in zip(
            found.user_U[found.user_N()].tolist(),
            found.item_N,
            found.behaviour_N,
            found.time_N,
            found.value_N,
            found.arrived_N,
            strict=True,
        )
    ]


@pytest.fixture(scope="session")
def deliver() -> Callable[..., None]:
    """`deliver(lake, rows, name=…)` appends rows (event id, user, item, behaviour, second, value), with a receipt."""
    return _deliver


@pytest.fixture(scope="session")
def file_receipt() -> Callable[..., None]:
    return _file_receipt


@pytest.fixture(scope="session")
def told() -> Callable[[Sequences], list[tuple[Any, ...]]]:
    return _told


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.fixture
def store(tmp_path: Path) -> SequenceStore:
    return SequenceStore(tmp_path / "sequences")


@pytest.fixture
def unmerged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deltas stay, however small the base is beside them."""
    monkeypatch.setattr("stores.sequences.store.MERGE_SHARE", 9.0)
