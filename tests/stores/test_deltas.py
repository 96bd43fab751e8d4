"""Deltas: what changed, written, read, and put into a base; held to NumPy on a base that is written by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from relations.errors import DataRejected, UsageError
from stores.bundle import Bundle, write_bundle
from stores.deltas import Change, Weights, delta_facts, find_change, patch, read_delta, write_delta
from stores.initializers import find_initializers

TABLE = np.array([[0, 0], [3, 4], [0, 1], [1, 0], [2, 2]], np.float32)
BIAS = np.array([0, 1, -1, 2, -2], np.float32)
BODY = np.arange(6, dtype=np.float32).reshape(2, 3)
RECIPE = "r" * 64
Make = Callable[..., Bundle]


def graph_of(**weights: np.ndarray) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    initializers += [numpy_helper.from_array(np.array([5], np.int64), "items"), helper.make_tensor("f", 1, [1], [0.5])]
    output = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [4])
    node = helper.make_node("Identity", ["b"], ["scores"])
    graph = helper.make_graph([node], "by hand", [], [output], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A base bundle, with its weights in the graph or beside it."""

    def make(*, beside: bool = False, kind: str = "full", **weights: np.ndarray) -> Bundle:
        graph = graph_of(**({"t": TABLE, "b": BIAS, "w": np.ascontiguousarray(BODY.T)} | weights))
        files = tmp_path / f"files-{len(list(tmp_path.iterdir()))}"
        files.mkdir()
        onnx.save_model(
            graph, files / "model.onnx", save_as_external_data=beside, location="model.onnx.data", size_threshold=16
        )
        return write_bundle(files, describe={"kind": kind}, releases=tmp_path / "releases", attestation={})

    return make


def weights(table: np.ndarray = TABLE, bias: np.ndarray = BIAS, body: np.ndarray = BODY) -> Weights:
    return Weights({"item_table": table, "item_bias": bias}, {"linear.weight": body})


def changed(array: np.ndarray, at: Any, to: Any) -> np.ndarray:
    copy = array.copy()
    copy[at] = to
    return copy


def publish(base: Bundle, change: Change, sequence: int = 1) -> Bundle:
    return write_delta(
        change, base, releases=base.folder.parent, sequence=sequence, recipe=RECIPE, attestation={"seconds": 1.5}
    )


@pytest.mark.parametrize("beside", [False, True])
def test_weights_are_found_where_onnx_finds_them(make: Make, beside: bool) -> None:
    base = make(beside=beside)
    files = {name: base.read(name) for name in base.manifest["files"]}
    theirs = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in onnx.load(base.folder / "model.onnx").graph.initializer
        if tensor.name in ("t", "b", "w")
    }
    found = find_initializers(files["model.onnx"])
    assert found.keys() == theirs.keys(), "integers are no weights, nor is what is not kept as raw bytes"
    for name, place in found.items():
        assert place.beside == beside
        mine = place.read(files["model.onnx.data" if beside else "model.onnx"])
        assert mine.tolist() == theirs[name].tolist()


@given(cut=st.integers(0, 400), flipped=st.integers(0, 255))
def test_other_bytes_are_refused_or_have_weights_within_them(cut: int, flipped: int) -> None:
    content = bytearray(graph_of(t=TABLE, b=BIAS).SerializeToString())
    content[cut % len(content)] ^= flipped
    damaged = bytes(content[: max(cut, len(content) // 2)])
    try:
        found = find_initializers(damaged)
    except DataRejected:
        return
    assert all(place.beside or place.offset + place.size <= len(damaged) for place in found.values())


@pytest.mark.parametrize("beside", [False, True])
def test_a_change_written_read_and_put_in_place(make: Make, beside: bool) -> None:
    base = make(beside=beside)
    after = weights(changed(TABLE, (1, 0), 6), changed(BIAS, 3, 5), BODY + 1)
    change = find_change(base, before=weights(), after=after)
    assert change.rows_R.tolist() == [1, 3]  # a row of the table, and one of the bias
    assert {name: rows.tolist() for name, rows in change.tables.items()} == {"t": [[6, 4], [1, 0]], "b": [1, 5]}
    assert change.tensors["w"].tolist() == (BODY + 1).T.tolist(), "the graph has it transposed"
    bundle = publish(base, change)
    assert publish(base, change).digest == bundle.digest
    delta = read_delta(bundle)
    assert (delta.base_digest, delta.sequence, delta.recipe) == (base.digest, 1, RECIPE)
    patched = patch(base, delta.change)
    files = {name: base.read(name) for name in base.manifest["files"]}
    for name, expected in (("t", after.rows["item_table"]), ("b", after.rows["item_bias"]), ("w", (BODY + 1).T)):
        place = find_initializers(patched.graph)[name]
        held = patched.beside[name] if beside else place.read(patched.graph)
        assert held.tolist() == expected.tolist()
    assert base.read("model.onnx") == files["model.onnx"]
    facts = delta_facts(bundle)
    assert (facts.digest, facts.rows, facts.base_digest) == (bundle.digest, 2, base.digest)
    # rows.bin 2·8, t 2·2·4, b 2·4, w 6·4, and delta.json
    assert facts.bytes == 16 + 16 + 8 + 24 + len(bundle.read("delta.json"))
    assert facts.relative_change == patched.relative_change


def test_the_relative_change_by_hand(make: Make) -> None:
    base = make()
    # Norms of the table's rows: 0, 5, 1, 1, √8; their root mean square is √((25 + 1 + 1 + 8) / 5) = √7.
    long = Change(np.array([1]), {"t": np.array([[3, 2]], np.float32)}, {})
    assert patch(base, long).relative_change == pytest.approx(2 / 5)
    short = Change(np.array([2, 3]), {"t": np.array([[0, 1], [1, 2]], np.float32)}, {})
    assert patch(base, short).relative_change == pytest.approx(2 / 7**0.5)
    # The body is one number: ‖w‖² = 0 + 1 + 4 + 9 + 16 + 25 = 55, moved by 1 in each of six places.
    body = Change(np.array([], np.int64), {}, {"w": BODY.T + 1})
    assert patch(base, body).relative_change == pytest.approx((6 / 55) ** 0.5)


rows_strategy = st.sets(st.integers(0, 4), min_size=1).map(sorted)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=rows_strategy, value=st.floats(-10, 10, width=32))
def test_what_was_not_changed_keeps_its_bits(make: Make, rows: list[int], value: float) -> None:
    base = make()
    after = changed(TABLE, rows, value)
    change = find_change(base, before=weights(), after=weights(after))
    assume(change.tables)
    patched = patch(base, change)
    held = find_initializers(patched.graph)["t"].read(patched.graph)
    assert held.tobytes() == after.tobytes()
    assert set(change.rows_R.tolist()) <= set(rows)


def test_nothing_changed_is_no_delta(make: Make) -> None:
    base = make()
    change = find_change(base, before=weights(), after=weights())
    assert (len(change.rows_R), change.tables, change.tensors) == (0, {}, {})
    with pytest.raises(DataRejected, match="changes nothing"):
        publish(base, change)


def row(number: int, *values: float) -> Change:
    return Change(np.array([number]), {"t": np.array([values], np.float32)}, {})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (row(5, 1, 1), "new items wait"),
        (row(-1, 1, 1), "ascending"),
        (row(1, 1, 1, 1), r"t is \[1, 3\]"),
        (row(1, np.nan, 1), "not finite"),
        (row(1, np.inf, 1), "not finite"),
        (Change(np.array([2, 2]), {"b": np.ones(2, np.float32)}, {}), "without repetition"),
        (Change(np.array([2, 1]), {"b": np.ones(2, np.float32)}, {}), "ascending"),
        (Change(np.array([1]), {"x": np.ones(1, np.float32)}, {}), "no float32 initializer 'x'"),
        (Change(np.array([1]), {"items": np.ones(1, np.float32)}, {}), "no float32 initializer 'items'"),
        (Change(np.array([1]), {}, {"w": np.ones((2, 3), np.float32)}), r"w is \[2, 3\]"),
    ],
)
def test_a_change_that_does_not_fit_is_refused(make: Make, change: Change, told: str) -> None:
    with pytest.raises(DataRejected, match=told):
        publish(make(), change)


def test_only_a_full_bundle_is_a_base(make: Make) -> None:
    with pytest.raises(DataRejected, match="against a full one"):
        publish(make(kind="delta"), row(1, 1, 1))
    with pytest.raises(UsageError, match="count from 1"):
        publish(make(), row(1, 1, 1), sequence=0)
    with pytest.raises(DataRejected, match="all zero"):
        publish(make(t=np.zeros_like(TABLE)), row(1, 1, 1))


def test_what_has_no_place_in_the_graph_is_named(make: Make) -> None:
    base = make(other=np.full(3, 7, np.float32))
    with pytest.raises(DataRejected, match="item_table: 5 items, and the base has 4"):
        find_change(base, before=weights(), after=weights(np.vstack([TABLE, TABLE[:1]]), np.append(BIAS, 0)))
    with pytest.raises(DataRejected, match="gate changed, and the base's graph has no initializer"):
        find_change(base, before=Weights({"item_table": TABLE}, {"gate": BODY * 9}), after=weights_with(gate=BODY))
    equal = {"one": np.full(3, 7, np.float32), "two": np.full(3, 7, np.float32)}
    apart = {"one": np.ones(3, np.float32), "two": np.zeros(3, np.float32)}
    with pytest.raises(DataRejected, match=r"two and one were equal"):
        find_change(base, before=weights_with(**equal), after=weights_with(**apart))
    together = find_change(base, before=weights_with(**equal), after=weights_with(one=apart["one"], two=apart["one"]))
    assert together.tensors["other"].tolist() == [1, 1, 1]


def weights_with(**body: np.ndarray) -> Weights:
    return Weights({"item_table": TABLE}, body)


def _edit(bundle: Bundle, **files: bytes) -> Bundle:
    """A bundle of the same manifest, as far as it is of files, with others in place."""
    folder = bundle.folder.parent.parent / "edited"
    folder.mkdir()
    for name in bundle.manifest["files"]:
        (folder / name).write_bytes(files.get(name, bundle.read(name)))
    describe = {key: value for key, value in bundle.manifest.items() if key not in ("files", "format", "digest")}
    return write_bundle(folder, describe=describe, releases=bundle.folder.parent, attestation={})


@pytest.mark.parametrize(
    "files",
    [
        {"rows.bin": b"\0" * 16},
        {"rows.bin": b"\0" * 7},
        {"table-0.bin": b"\0" * 4},
        {"delta.json": b"{}"},
        {"delta.json": b"\x80\x04K\x01."},
        {
            "delta.json": json.dumps(
                {"rows": 1, "tables": [{"initializer": "t", "file": "../x", "shape": [1]}]}
            ).encode()
        },
    ],
)
def test_a_layout_of_another_kind_is_refused(make: Make, files: dict[str, bytes]) -> None:
    bundle = publish(make(), row(1, 1, 1))
    with pytest.raises(DataRejected):
        read_delta(_edit(bundle, **files))


def test_damage_is_found_before_anything_is_read(make: Make) -> None:
    base = make()
    bundle = publish(base, row(1, 1, 1))
    (bundle.folder / "table-0.bin").write_bytes(b"\0" * 8)
    with pytest.raises(DataRejected, match="changed since it was verified"):
        read_delta(bundle)
    with pytest.raises(DataRejected, match="not a delta"):
        read_delta(base)
