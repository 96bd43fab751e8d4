from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from model.sequences import Histories
from relations.errors import DataRejected
from relations.schemas import ITEMS
from stores.home import Home
from stores.lake import Lake
from stores.learning_settings import ModalitySettings
from stores.settings import Settings
from tasks.embedding_items import describe_items

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
NONE = Histories.from_table(pa.table({"user": pa.array([], pa.string())}))


def _item(item: str, day: int, vector: list[float] | None, *, available: bool = True) -> dict[str, object]:
    return {
        "item_id": item,
        "valid_from": EPOCH + timedelta(days=day),
        "title": item,
        "categories": [],
        "available": available,
        "vectors": None if vector is None else [("clip", vector)],
        "received_time": EPOCH,
        "source": "test",
        "delivery_id": "one",
    }


def _append(home: Home, *rows: dict[str, object]) -> int:
    return Lake(home.lake).append("items", pa.Table.from_pylist(list(rows), schema=ITEMS), transaction=str(rows))


def test_the_newest_vectors_are_beside_the_ids(home: Home) -> None:
    first = _append(home, _item("ä", 2, [1.0, 2.0]), _item("ä", 1, [9.0, 9.0]), _item("b", 1, None))
    newest = _append(home, _item("c", 1, [3.0, 4.0], available=False), _item("b", 2, [5.0, 6.0]))
    stated = Settings(modalities={"clip": ModalitySettings(kind="vector")})
    found = describe_items(home, stated, items_version=newest, folder=home.root, train=NONE, parent=None)
    assert found.vectors["clip"].items == ("b", "c", "ä")
    np.testing.assert_array_equal(found.vectors["clip"].vector_IK, [[5, 6], [3, 4], [1, 2]])
    assert found.new_items == ("b", "ä")  # c is not to be had
    earlier = describe_items(home, stated, items_version=first, folder=home.root, train=NONE, parent=None)
    assert earlier.vectors["clip"].items == ("ä",)


def test_without_modalities_nothing_is_read(home: Home) -> None:
    found = describe_items(home, Settings(), items_version=-1, folder=home.root, train=NONE, parent=None)
    assert (found.vectors, found.new_items) == ({}, ())
    stated = Settings(modalities={"clip": ModalitySettings(kind="vector", new_items=False)})
    none = describe_items(home, stated, items_version=-1, folder=home.root, train=NONE, parent=None, modalities=())
    assert none.vectors == {}  # the parent's network knows no modality
    with pytest.raises(DataRejected, match="none are described"):
        describe_items(home, stated, items_version=-1, folder=home.root, train=NONE, parent=None)
