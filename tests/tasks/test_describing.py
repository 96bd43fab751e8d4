from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from relations.schemas import ITEMS
from stores.lake import Lake
from tasks.describing import item_facts

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def _items(*stated: tuple[str, int, list[str]]) -> pa.Table:
    """(id, day from which it holds, categories)."""
    rows = [
        {
            "item_id": item,
            "valid_from": EPOCH + timedelta(days=day),
            "title": item,
            "categories": categories,
            "available": True,
            "received_time": EPOCH,
            "source": "test",
            "delivery_id": "one",
        }
        for item, day, categories in stated
    ]
    return pa.Table.from_pylist(rows, schema=ITEMS)


def test_the_newest_state_of_each_item_in_the_version_counts(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    assert item_facts(lake, version=-1) is None
    versions = [
        lake.append("items", _items(("ä", 2, ["sea"]), ("ä", 1, ["war"]), ("b", 1, [])), transaction="one"),
        lake.append("items", _items(("b", 3, ["love", "war"])), transaction="two"),
    ]
    first, second = (item_facts(lake, version=version) for version in versions)
    assert first is not None
    assert second is not None
    assert first.categories == {"ä": ("sea",)}
    assert second.categories == {"ä": ("sea",), "b": ("love", "war")}
    newest = lake.append("items", _items(("ä", 4, []), ("b", 4, [])), transaction="three")
    assert item_facts(lake, version=newest) is None
