import numpy as np
import pyarrow as pa
import pytest

from model.modalities.columns import joined, needed, ready_vectors
from relations.errors import DataRejected, UsageError

ITEMS = pa.table(
    {
        "item_id": ["a", "ü"],
        "title": ["Red hat", ""],
        "description": [None, "warm"],
        "categories": [["hats", "red"], []],
        "price": [9.5, None],
        "attributes": pa.array([[("size", "L"), ("brand", "B")], None], pa.map_(pa.string(), pa.string())),
        "vectors": pa.array([[("clip", [1.0, 2.0])], None], pa.map_(pa.string(), pa.list_(pa.float32()))),
    }
)


def test_what_is_said_is_joined() -> None:
    columns = ("title", "description", "categories", "price", "attributes.brand")
    assert joined(ITEMS, columns) == ["Red hat. hats, red. 9.5. B", "warm"]
    assert joined(ITEMS, ("attributes",)) == ["brand: B, size: L", ""]
    assert needed(columns) == ["attributes", "categories", "description", "price", "title"]
    with pytest.raises(UsageError, match=r'"brand" holds no text; known: title'):
        joined(ITEMS, ("brand",))


def test_ready_vectors_are_those_of_the_name() -> None:
    found = ready_vectors(ITEMS, "clip", dims=0, id_dropout=0.2)
    assert found.items == ("a",)
    np.testing.assert_array_equal(found.vector_IK, [[1, 2]])
    with pytest.raises(DataRejected, match='no vector called "dino"'):
        ready_vectors(ITEMS, "dino", dims=0, id_dropout=0.2)
