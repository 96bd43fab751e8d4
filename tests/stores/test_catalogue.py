"""The catalogue's file: what goes in comes out, and damage is told."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relations.errors import DataRejected
from stores.catalogue import NEVER, Catalogue, holds, publish, read

SHOP = {
    "b": (True, 2.5, ["toys", "gifts"]),
    "ü🛒": (False, None, []),
    "a\nb": (True, 0.0, ["gifts"]),
}


def test_what_was_published_is_read(tmp_path: Path) -> None:
    path = tmp_path / "serving" / "catalogue.npz"
    publish(path, Catalogue.of(SHOP))
    found = read(path)
    # Bytes order: "a\nb" (61 …), "b" (62), "ü🛒" (c3 …).
    assert found.ids == "a\nbbü🛒"
    assert found.ends_C.tolist() == [3, 4, 6]
    assert found.available_C.tolist() == [True, True, False]
    assert found.price_C[:2].tolist() == [0.0, 2.5]
    assert np.isnan(found.price_C[2])
    assert (found.names, found.category_E.tolist()) == (("gifts", "toys"), [0, 1, 0])
    assert found.category_ends_C.tolist() == [1, 3, 3]
    assert found.places({"ü🛒": 0, "elsewhere": 1, "b": 2}).tolist() == [-1, 2, 0]
    assert [file.name for file in path.parent.iterdir()] == ["catalogue.npz"]


def test_equal_catalogues_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        publish(tmp_path / name, Catalogue.of(SHOP))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


@given(st.sets(st.text(min_size=1), max_size=30), st.data())
def test_every_item_is_found_at_its_place(items: set[str], data: st.DataObject) -> None:
    items = {item for item in items if item.isprintable()}
    catalogue = Catalogue.of({item: (True, None, []) for item in items})
    wanted = data.draw(st.permutations(sorted(items)))[: len(items) // 2]
    rows = {item: row for row, item in enumerate(wanted)}
    ordered = sorted(items, key=str.encode)
    assert catalogue.places(rows).tolist() == [rows.get(item, -1) for item in ordered]


def test_a_catalogue_larger_than_one_bite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stores.catalogue._LOOKED_UP_AT_ONCE", 3)
    names = [f"{'x' * (n % 4)}{n}" for n in range(10)]
    catalogue = Catalogue.of({name: (True, None, []) for name in names})
    rows = {name: row for row, name in enumerate(names)}
    assert catalogue.places(rows).tolist() == [rows[name] for name in sorted(names)]


def test_an_empty_catalogue(tmp_path: Path) -> None:
    publish(tmp_path / "c", Catalogue.of({}))
    assert (len(read(tmp_path / "c")), read(tmp_path / "c").places({"a": 0}).tolist()) == (0, [])


def test_whether_it_is_of_a_version_and_a_moment(tmp_path: Path) -> None:
    path = tmp_path / "c"
    assert not holds(path, version=3, now_us=0)
    publish(path, Catalogue(**{**vars(Catalogue.of(SHOP)), "version": 3, "until_us": 100}))
    assert holds(path, version=3, now_us=99)
    assert not holds(path, version=3, now_us=100)
    assert not holds(path, version=4, now_us=99)
    assert Catalogue.of(SHOP).until_us == NEVER


def test_damage_is_refused_with_the_file_named(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.npz"
    publish(path, Catalogue.of(SHOP))
    whole = path.read_bytes()
    middle = whole.index(b"gifts")
    damaged = [b"", b"{}", b"\x93NUMPY\x01\x00", whole[: len(whole) // 2]]
    damaged += [whole[:middle] + b"G" + whole[middle + 1 :]]  # only the archive's checksum tells
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(DataRejected, match=r"catalogue\.npz"):
            read(path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("available_C", np.array([True])),
        ("price_C", np.zeros(3, dtype=np.float32)),
        ("ends_C", np.array([3, 4, 7])),
        ("ends_C", np.array([4, 3, 6])),
        ("category_ends_C", np.array([1, 3, 2])),
        ("category_E", np.array([0, 2, 0], dtype=np.int32)),
        ("names", ("gifts", 7)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, name: str, value: object) -> None:
    publish(tmp_path / "c", Catalogue(**{**vars(Catalogue.of(SHOP)), name: value}))  # type: ignore[arg-type]
    with pytest.raises(DataRejected, match="not a catalogue"):
        read(tmp_path / "c")
