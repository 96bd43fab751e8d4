"""What the items table says of the items, as vectors beside their ids: read, encode once, keep.

The cache lies in the home's `vectors` folder; fine-tuned adapters lie with the training that made them and go on to the
trainings that descend from it, since an increment's new items must mean what the network learnt.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.machine import choose_device
from model.modalities.cache import cached_vectors
from model.modalities.columns import joined, needed, ready_vectors
from model.modalities.encoders import Content, Encoder, load_encoder
from model.modalities.material import NamedVectors
from model.modalities.options import Adapter, Kind, ModalityOptions
from model.options import Device
from model.sequences import Histories
from relations.errors import DataRejected, DependencyFailed, UsageError
from stores.home import Home
from stores.lake import Lake
from stores.learning_settings import ModalitySettings
from stores.remote import opened
from stores.settings import Settings

FILES_AT_ONCE = 512
"""Pictures or sounds in memory at a time."""
ADAPTERS = "adapters"


@dataclass(frozen=True)
class Described:
    """Vectors by modality, and the items that may be recommended though nobody has met them."""

    vectors: dict[str, NamedVectors]
    new_items: tuple[str, ...]


def describe_items(
    home: Home,
    settings: Settings,
    *,
    items_version: int,
    folder: Path,
    train: Histories,
    parent: Path | None,
    modalities: Sequence[str] | None = None,
) -> Described:
    """Vectors of the items as that version of the table has them. `folder`: the training's own.

    A full retrain (`parent` None) fine-tunes what `adapter` asks for on `train`; an increment takes its parent's. Of
    the settings' modalities only those in `modalities` (the parent network's; None: all) are made. Raises UsageError
    for an encoder or column that is not there, DataRejected when a modality describes no item.
    """
    chosen = {name: stated for name, stated in settings.modalities.items() if modalities is None or name in modalities}
    if not chosen:
        return Described({}, ())
    rows = _newest(Lake.of(home, settings.lake), items_version, chosen)
    vectors = {}
    for name, stated in chosen.items():
        options = ModalityOptions(**stated.model_dump(exclude={"new_items"}))
        if options.kind is Kind.VECTOR:
            (column,) = options.columns_of(name)
            vectors[name] = ready_vectors(rows, column, dims=options.dims, id_dropout=options.id_dropout)
        else:
            vectors[name] = _encoded(home, settings, name, options, rows, folder, train, parent)
    admitted = {item for name, named in vectors.items() if chosen[name].new_items for item in named.items}
    available = rows.filter(rows["available"])["item_id"].to_pylist()
    return Described(vectors, tuple(item for item in available if item in admitted))


def _newest(lake: Lake, version: int, chosen: dict[str, ModalitySettings]) -> pa.Table:
    """One row an item, its newest state, in the order of the ids."""
    columns = {"item_id", "valid_from", "available"}
    for name, stated in chosen.items():
        options = ModalityOptions(**stated.model_dump(exclude={"new_items"}))
        columns |= {"vectors"} if options.kind is Kind.VECTOR else set(needed(options.columns_of(name)))
    rows = lake.read("items", version=None if version < 0 else version, columns=sorted(columns))
    rows = rows.sort_by([("item_id", "ascending"), ("valid_from", "ascending")])
    if not len(rows):
        raise DataRejected(
            "items: none are described yet, but [modalities] want it; `ratchet ingest --kind items FILE`"
        )
    ids = rows["item_id"].combine_chunks()
    last = pc.not_equal(ids[:-1], ids[1:]).to_pylist()
    return rows.filter(pa.array([*last, True]))


def _encoded(
    home: Home,
    settings: Settings,
    name: str,
    options: ModalityOptions,
    rows: pa.Table,
    folder: Path,
    train: Histories,
    parent: Path | None,
) -> NamedVectors:
    device = choose_device(Device(settings.train.device))
    encoder = load_encoder(options.encoder, kind=options.kind, max_tokens=options.max_tokens, device=device)
    stated = joined(rows, options.columns_of(name))
    ids = [str(item) for item in rows["item_id"].to_pylist()]
    if options.adapter is not Adapter.NONE:
        encoder = _adapted(encoder, name, options, ids, stated, folder, train, parent, seed=settings.train.seed)
    found: list[str] = []
    parts: list[np.ndarray] = []
    for begin, contents in _contents(options.kind, stated):
        there = [(ids[begin + at], content) for at, content in enumerate(contents) if encoder.readable(content)]
        if there:
            found += [item for item, _ in there]
            parts.append(cached_vectors(home.root / "vectors", encoder, [content for _, content in there]))
    if not found:
        raise DataRejected(
            f"items: [modalities.{name}] columns {list(options.columns_of(name))} describe none of {len(ids)} items; "
            "name columns that hold something, or deliver items that have them"
        )
    return NamedVectors(
        tuple(found), np.concatenate(parts), source=encoder.digest, dims=options.dims, id_dropout=options.id_dropout
    )


def _contents(kind: Kind, stated: Sequence[str]) -> Iterator[tuple[int, list[Content]]]:
    """Where a stretch begins, and its contents; an item without a file, or with one that is gone, has an empty one."""
    if kind is Kind.TEXT:
        yield 0, list(stated)
        return
    for begin in range(0, len(stated), FILES_AT_ONCE):
        yield begin, [_file(uri) for uri in stated[begin : begin + FILES_AT_ONCE]]


def _file(uri: str) -> bytes:
    if not uri:
        return b""
    try:
        with opened(uri, {}) as stream:
            return stream.read()
    except (UsageError, DependencyFailed):
        return b""  # one lost picture is a missing modality, not a training that fails


def _adapted(
    encoder: Encoder,
    name: str,
    options: ModalityOptions,
    ids: Sequence[str],
    stated: Sequence[str],
    folder: Path,
    train: Histories,
    parent: Path | None,
    *,
    seed: int,
) -> Encoder:
    from model.modalities.adapters import load_adapter, save_adapter, successive_pairs, tune  # peft takes a second

    file = folder / ADAPTERS / f"{name}.safetensors"
    if not file.exists() and parent is not None:
        inherited = parent / ADAPTERS / file.name
        if not inherited.exists():
            raise DataRejected(f"{inherited}: the parent's adapter is gone; run a full retrain")
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(inherited, file)
    if file.exists():
        return load_adapter(encoder, file).encoder
    contents = [content for _, stretch in _contents(options.kind, stated) for content in stretch]
    at = {item: index for index, item in enumerate(ids) if encoder.readable(contents[index])}
    at_I = np.array([at.get(str(item), -1) for item in train.items], dtype=np.int64)
    item_N = at_I[train.item_N]
    known_N = item_N >= 0
    pairs = successive_pairs(item_N[known_N], train.user_N()[known_N])
    tuned = tune(encoder, contents, pairs, options=options.tuning(seed))
    save_adapter(tuned, file)
    return tuned.encoder
