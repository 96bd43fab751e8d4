"""Which items may be recommended: the newest state of each, as of a version of the table."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from relations.schemas import DELIVERIES, ITEMS
from stores.lake import Lake
from tasks.allowed import withdrawn_items

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def deliver(lake: Lake, name: str, *stated: tuple[str, int, bool]) -> int:
    """(item, day from which it holds, available); returns the items' version."""
    stamps = {"received_time": NOON, "source": "test", "delivery_id": name}
    rows = [
        {"item_id": item, "valid_from": NOON + timedelta(days=day), "title": item, "categories": [], **stamps}
        | {"available": available}
        for item, day, available in stated
    ]
    version = lake.append("items", pa.Table.from_pylist(rows, schema=ITEMS), transaction=name)
    counts = dict.fromkeys(("delivered", "accepted", "quarantined", "duplicate", "late"), 0)
    receipt = {**counts, **stamps, "digest": name, "kind": "items", "uri": name, "state": "committed"}
    receipt["table_versions"] = sorted(lake.versions().items())
    lake.append("deliveries", pa.Table.from_pylist([receipt], schema=DELIVERIES), transaction=name)
    return version


def test_the_newest_state_of_an_item_withdraws_it_and_brings_it_back(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    assert withdrawn_items(lake, version=-1) == frozenset()
    first = deliver(lake, "one", ("ä", 1, True), ("b", 2, False), ("c", 1, True), ("c", 0, False))
    second = deliver(lake, "two", ("ä", 3, False), ("b", 1, True))  # what is said of b late is older
    third = deliver(lake, "three", ("b", 3, True))
    found = [withdrawn_items(lake, version=version) for version in (first, second, third)]
    assert found == [{"b"}, {"ä", "b"}, {"ä"}]
    lake.close()
