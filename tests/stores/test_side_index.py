from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from relations.errors import DataRejected, DependencyFailed
from stores.side_index import (
    InForce,
    NewItem,
    SideIndex,
    prune,
    publish,
    read_in_force,
    read_side_index,
    write_side_index,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BASE = "b" * 64


def index(*, value: float = 0.5, base: str = BASE) -> SideIndex:
    items = (NewItem("a", 1, True), NewItem("é", 2, False))
    return SideIndex(base, items, np.full((2, 3), value, np.float32), np.array([0.1, -2.0], np.float32))


def test_what_was_written_is_read(tmp_path: Path) -> None:
    written = write_side_index(index(), tmp_path, items_version=4, now=NOW)
    found = read_side_index(tmp_path, written.digest)
    assert (found.base_digest, found.items, found.ids, found.digest) == (
        BASE,
        index().items,
        ("a", "é"),
        written.digest,
    )
    np.testing.assert_array_equal(found.vector_RD, index().vector_RD)
    np.testing.assert_array_equal(found.bias_R, index().bias_R)
    assert '"items_version": 4' in (tmp_path / written.digest / "attestation.json").read_text()


def test_the_digest_is_of_the_rows_and_their_release_alone(tmp_path: Path) -> None:
    first = write_side_index(index(), tmp_path, items_version=4, now=NOW)
    assert write_side_index(index(), tmp_path, items_version=5, now=NOW.replace(year=2027)).digest == first.digest
    assert write_side_index(index(value=0.6), tmp_path, items_version=4, now=NOW).digest != first.digest
    assert write_side_index(index(base="c" * 64), tmp_path, items_version=4, now=NOW).digest != first.digest


@pytest.mark.parametrize("name", ["items.json", "vectors.bin", "biases.bin", "manifest.json"])
def test_a_flipped_bit_is_found(tmp_path: Path, name: str) -> None:
    digest = write_side_index(index(), tmp_path, items_version=4, now=NOW).digest
    file = tmp_path / digest / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataRejected, match="damaged"):
        read_side_index(tmp_path, digest)


def test_other_bundles_and_absent_ones_are_refused(tmp_path: Path) -> None:
    from stores.bundle import write_bundle

    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "x").write_text("x")
    other = write_bundle(tmp_path / "files", describe={"kind": "full"}, releases=tmp_path / "side", attestation={})
    with pytest.raises(DataRejected, match="it is a full bundle"):
        read_side_index(tmp_path / "side", other.digest)
    with pytest.raises(DependencyFailed):
        read_side_index(tmp_path / "side", "0" * 64)


@pytest.mark.parametrize(
    ("ids", "vectors", "biases"),
    [
        (["a"], np.zeros((2, 3)), np.zeros(2)),
        (["b", "a"], np.zeros((2, 3)), np.zeros(2)),
        (["a", "a"], np.zeros((2, 3)), np.zeros(2)),
        (["a"], np.full((1, 3), np.nan), np.zeros(1)),
        (["a"], np.zeros((1, 3)), np.array([np.inf])),
        ([], np.zeros((0, 3)), np.zeros(0)),
    ],
)
def test_rows_that_do_not_fit_are_refused(ids: list[str], vectors: np.ndarray, biases: np.ndarray) -> None:
    with pytest.raises(DataRejected):
        SideIndex(BASE, tuple(NewItem(item, 0, True) for item in ids), vectors.astype("f4"), biases.astype("f4"))


def test_in_force_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "serving" / "side.json"
    assert read_in_force(file) is None
    for version in (1, 2):
        said = InForce(version, 7, "recipe", {BASE: "d" * 64, "c" * 64: ""})
        publish(file, said)
        assert read_in_force(file) == said
    assert [each.name for each in file.parent.iterdir()] == ["side.json"]
    for broken in (
        "{",
        "[]",
        '{"format": 2}',
        '{"format": 1, "items_version": 1, "until_us": 1, "recipe": "", "indexes": []}',
    ):
        file.write_text(broken)
        with pytest.raises(DataRejected, match="delete it"):
            read_in_force(file)


def test_pruning_leaves_what_is_kept(tmp_path: Path) -> None:
    first, second = (write_side_index(index(value=v), tmp_path, items_version=1, now=NOW).digest for v in (1, 2))
    prune(tmp_path, kept={second})
    assert [each.name for each in tmp_path.iterdir()] == [second]
    prune(tmp_path / "absent", kept=())
    assert first != second
