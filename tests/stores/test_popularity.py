import json
from pathlib import Path

import pytest

from relations.errors import DataRejected
from stores import popularity


def test_order_is_count_then_id(tmp_path: Path) -> None:
    path = tmp_path / "serving" / "popularity.json"
    popularity.publish(path, [("b", 2), ("ü", 5), ("a", 2), ("🛒", 0)])
    assert popularity.read(path) == ["ü", "a", "b", "🛒"]


def test_publishing_replaces_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "popularity.json"
    popularity.publish(path, [("old", 1)])
    popularity.publish(path, [("new", 1)])
    assert popularity.read(path) == ["new"]
    assert [file.name for file in tmp_path.iterdir()] == ["popularity.json"]


def test_nothing_published_is_an_empty_list(tmp_path: Path) -> None:
    assert popularity.read(tmp_path / "popularity.json") == []


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"\xff\xfe",
        b"[]",
        json.dumps({"format": 2, "items": []}).encode(),
        json.dumps({"format": 1, "items": [["a"]]}).encode(),
        json.dumps({"format": 1, "items": [[1, 2]]}).encode(),
        b'{"format": 1, "items": [["a", NaN]]}',
    ],
)
def test_anything_else_is_refused_with_the_file_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "popularity.json"
    path.write_bytes(content)
    with pytest.raises(DataRejected, match=r"popularity\.json"):
        popularity.read(path)
