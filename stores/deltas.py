"""Delta bundles: the weights that changed since a full bundle, as a release of their own.

A delta is cumulative. It holds every row and tensor that differs from its base, so that serving needs no chain and
going back is dropping it. `releases/<digest>/` holds `delta.json`, which names ONNX initializers, and raw arrays:

    rows.bin        int64 [R], rows of the item tables, ascending; row 0 is padding
    table-<n>.bin   float32 [R, …], their new values in one initializer
    tensor-<n>.bin  float32, the new values of one whole initializer of the body

all little-endian. The manifest adds `kind` = delta, `parent_digest`, `sequence`, `recipe`, `rows` and
`relative_change`. The number of items is part of a base's graph: new items wait for the next full bundle.
Plain NumPy: serving reads these.

Shapes: R changed rows, V items of the base.
"""

import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from relations.errors import DataRejected, UsageError
from stores.bundle import Bundle, write_bundle
from stores.initializers import EXTERNAL, Initializer, find_initializers
from stores.standing_records import DeltaFacts

KIND = "delta"
_GRAPH, _LAYOUT, _ROWS = "model.onnx", "delta.json", "rows.bin"
_NEAR = 1e-5  # a weight that the exporter computed (cosine's table) is found within this of ours

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Weights:
    """A network's weights by any names. `rows`: with one row an item, [V + 1, …], row 0 padding; `body`: the others."""

    rows: Mapping[str, Floats]
    body: Mapping[str, Floats]


@dataclass(frozen=True)
class Change:
    """New values by initializer of the base's graph: of `rows_R` in `tables` [R, …], whole in `tensors`."""

    rows_R: npt.NDArray[np.int64]
    tables: Mapping[str, Floats]
    tensors: Mapping[str, Floats]


@dataclass(frozen=True)
class Delta:
    """A delta that was read, on the base that it names."""

    digest: str
    base_digest: str
    sequence: int
    recipe: str
    change: Change


@dataclass(frozen=True)
class Patched:
    """A base with a change in it: its `graph` in place, and by name what lies in the file beside the graph.

    `relative_change`: the largest one, see `patch`.
    """

    graph: bytes
    beside: Mapping[str, Floats]
    relative_change: float


def find_change(base: Bundle, *, before: Weights, after: Weights) -> Change:
    """What must change in `base` that its weights are `after`; `before` are those that it was exported from.

    A weight's place in the graph is found by its values, as they are or transposed. Raises DataRejected where that
    is not possible for one that changed: the graph lacks it, or keeps one initializer for several that are equal in
    `before` and no longer so. Raises DataRejected for new items too, which a base's graph has no room for.
    """
    graph = base.read(_GRAPH)
    values = _values(base, graph, find_initializers(graph))
    changed = []
    for name, table in after.rows.items():
        if len(table) != len(before.rows[name]):
            raise DataRejected(
                f"{name}: {len(table) - 1} items, and the base has {len(before.rows[name]) - 1}; its graph has that "
                "number built in, so new items wait for the next increment or full retrain"
            )
        old, new = (_bits(each) for each in (before.rows[name], table))
        changed.append((old != new).any(axis=1))
    rows_R = np.flatnonzero(np.logical_or.reduce(changed)).astype(np.int64)
    tables = {
        place: np.asarray(after.rows[name], np.float32)[rows_R]
        for (name, table), moved in zip(before.rows.items(), changed, strict=True)
        if moved.any()
        for place, _ in (_place(name, table, values),)
    }
    tensors: dict[str, Floats] = {}
    wanted: dict[str, str] = {}
    for name, tensor in before.body.items():
        if np.array_equal(tensor, after.body[name]):
            continue
        place, turned = _place(name, tensor, values)
        value = np.ascontiguousarray(after.body[name].T if turned else after.body[name], np.float32)
        if place in tensors and not np.array_equal(tensors[place], value):
            raise DataRejected(
                f"{name} and {wanted[place]} were equal, so that the base keeps them as one ({place}), and they are no "
                "longer; leave them as they are, their changes wait for the next increment"
            )
        tensors[place], wanted[place] = value, name
    return Change(rows_R, tables, tensors)


def write_delta(
    change: Change, base: Bundle, *, releases: Path, sequence: int, recipe: str, attestation: Mapping[str, Any]
) -> Bundle:
    """The change as a bundle under `releases`, verified. The same content gives the same digest.

    `sequence` counts the deltas on this base, from 1; `recipe` is the SHA-256 of the settings that made it. Raises
    DataRejected for a base that is no full bundle and for a change that does not fit it or changes nothing.
    """
    if sequence < 1:
        raise UsageError(f"delta {sequence} of {base.digest[:12]}: deltas count from 1")
    if base.manifest.get("kind", "full") != "full":
        raise DataRejected(
            f"{base.folder}: is a {base.manifest['kind']} bundle; deltas are cumulative, against a full one"
        )
    relative = patch(base, change).relative_change
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        np.ascontiguousarray(change.rows_R, "<i8").tofile(folder / _ROWS)
        layout: dict[str, Any] = {"rows": len(change.rows_R), "tables": [], "tensors": []}
        for kind, arrays in (("tables", change.tables), ("tensors", change.tensors)):
            for number, (name, array) in enumerate(sorted(arrays.items())):
                file = f"{kind[:-1]}-{number}.bin"
                np.ascontiguousarray(array, "<f4").tofile(folder / file)
                layout[kind].append({"initializer": name, "file": file, "shape": list(array.shape)})
        (folder / _LAYOUT).write_text(json.dumps(layout, separators=(",", ":")), encoding="ascii")
        describe = {
            "kind": KIND,
            "parent_digest": base.digest,
            "sequence": sequence,
            "recipe": recipe,
            "rows": len(change.rows_R),
            "relative_change": relative,
        }
        return write_bundle(folder, describe=describe, releases=releases, attestation=attestation)


def delta_facts(bundle: Bundle) -> DeltaFacts:
    """What the ledger records of a delta bundle. Raises DataRejected for another kind of bundle."""
    stated = bundle.manifest
    if stated.get("kind") != KIND:
        raise DataRejected(f"{bundle.folder}: is a {stated.get('kind', 'full')} bundle, not a delta")
    try:
        return DeltaFacts(
            digest=bundle.digest,
            base_digest=str(stated["parent_digest"]),
            sequence=int(stated["sequence"]),
            recipe=str(stated["recipe"]),
            rows=int(stated["rows"]),
            bytes=sum(int(entry["bytes"]) for entry in stated["files"].values()),
            relative_change=float(stated["relative_change"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataRejected(f"{bundle.folder}: its manifest is not a delta's ({error!r}); publish it again") from error


def read_delta(bundle: Bundle) -> Delta:
    """The arrays of a verified delta bundle. Raises DataRejected for another layout; `patch` checks the base."""
    facts = delta_facts(bundle)
    try:
        layout = json.loads(bundle.read(_LAYOUT))
        rows_R = np.frombuffer(bundle.read(_ROWS), "<i8").astype(np.int64)
        tables, tensors = (
            {
                str(entry["initializer"]): np.frombuffer(bundle.read(entry["file"]), "<f4").reshape(entry["shape"])
                for entry in layout[kind]
            }
            for kind in ("tables", "tensors")
        )
        named = len(layout["tables"]) + len(layout["tensors"])
        if len(rows_R) != layout["rows"] or len(rows_R) != facts.rows or named != len(tables | tensors):
            raise ValueError("rows or initializers are not those that it states")
    except (KeyError, TypeError, ValueError) as error:
        raise DataRejected(f"{bundle.folder}: not a delta's arrays ({error!r}); publish it again") from error
    return Delta(bundle.digest, facts.base_digest, facts.sequence, facts.recipe, Change(rows_R, tables, tensors))


def patch(base: Bundle, change: Change) -> Patched:
    """`base` with the change in place of its values; the files of the base stay as they are.

    A row's relative change is ‖after − before‖ / max(‖before‖, root mean square of the table's row norms): against
    its own length, but a row near zero, an item hardly seen, may grow to that of its peers. The body's is one number,
    over all its changed tensors together. Raises DataRejected for rows that are out of range, repeated or not
    ascending, values that are not finite, shapes that do not fit, initializers that the graph lacks, no change at all.
    """
    rows_R = change.rows_R
    if rows_R.ndim != 1 or (len(rows_R) and rows_R[0] < 0) or (np.diff(rows_R) <= 0).any():
        raise DataRejected(f"delta on {base.digest[:12]}: rows must be ascending, without repetition, from 0 on")
    if not change.tables and not change.tensors:
        raise DataRejected(f"delta on {base.digest[:12]}: changes nothing; publish none")
    original = base.read(_GRAPH)
    places = find_initializers(original)
    values = _values(base, original, places)
    graph = bytearray(original)
    beside: dict[str, Floats] = {}
    largest, moved, size = 0.0, 0.0, 0.0
    for name, new in (*change.tables.items(), *change.tensors.items()):
        place = places.get(name)
        if place is None:
            raise DataRejected(f"delta on {base.digest[:12]}: the base has no float32 initializer {name!r}")
        whole = name in change.tensors
        expected = place.shape if whole else (len(rows_R), *place.shape[1:])
        if new.shape != expected or (not whole and len(rows_R) and rows_R[-1] >= place.shape[0]):
            raise DataRejected(
                f"delta on {base.digest[:12]}: {name} is {list(new.shape)} with rows up to "
                f"{rows_R[-1] if len(rows_R) else 0}, and the base's {list(place.shape)}; new items wait for the next "
                "increment or full retrain"
            )
        if not np.isfinite(new).all():
            raise DataRejected(f"delta on {base.digest[:12]}: values of {name} are not finite; start from the base")
        old = values[name]
        if whole:
            moved += float(np.sum(np.square(new - old, dtype=np.float64)))
            size += float(np.sum(np.square(old, dtype=np.float64)))
            changed = new
        else:
            largest = max(largest, _of_rows(old, new, rows_R))
            changed = old.copy()
            changed[rows_R] = new
        if place.beside:
            beside[name] = np.ascontiguousarray(changed)
        else:
            graph[place.offset : place.offset + place.size] = np.ascontiguousarray(changed, "<f4").tobytes()
    largest = max(largest, math.sqrt(moved / size) if size else math.inf if moved else 0.0)
    if not math.isfinite(largest):
        raise DataRejected(f"delta on {base.digest[:12]}: the base's weights there are all zero; train an increment")
    return Patched(bytes(graph), beside, largest)


def _bits(table: Floats) -> npt.NDArray[np.int32]:
    return np.ascontiguousarray(table, np.float32).view(np.int32).reshape(len(table), -1)


def _of_rows(old: Floats, new_R: Floats, rows_R: npt.NDArray[np.int64]) -> float:
    if not len(rows_R):
        return 0.0
    flat = old.reshape(len(old), -1)
    norm_V = np.sqrt(np.einsum("vd,vd->v", flat, flat, dtype=np.float64))
    floor = math.sqrt(float(np.mean(np.square(norm_V))))
    step_R = np.linalg.norm((new_R.reshape(len(rows_R), -1) - flat[rows_R]).astype(np.float64), axis=1)
    if floor == 0:
        return math.inf if step_R.any() else 0.0
    return float((step_R / np.maximum(norm_V[rows_R], floor)).max())


def _values(base: Bundle, graph: bytes, places: Mapping[str, Initializer]) -> dict[str, Floats]:
    """Views into the verified files."""
    other = base.read(EXTERNAL) if any(place.beside for place in places.values()) else b""
    return {name: place.read(other if place.beside else graph) for name, place in places.items()}


def _place(name: str, weight: Floats, values: Mapping[str, Floats]) -> tuple[str, bool]:
    """The initializer that holds `weight`, and whether transposed."""
    turns = [(weight, False), (weight.T, True)] if weight.ndim == 2 else [(weight, False)]
    for same in (np.array_equal, _nearly):
        for place, value in values.items():
            for turned, is_turned in turns:
                if value.shape == turned.shape and same(value, turned):
                    return place, is_turned
    raise DataRejected(
        f"{name} changed, and the base's graph has no initializer with its former values; was the base exported from "
        "these weights? What the exporter computed away waits for the next increment"
    )


def _nearly(one: Floats, other: Floats) -> bool:
    return bool(np.allclose(one, other, rtol=_NEAR, atol=_NEAR * float(np.abs(other).max(initial=0))))
