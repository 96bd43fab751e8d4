"""What the items table says of the items, as vectors beside their ids: read, encode once, keep.

The cache lies in the home's `vectors` folder; fine-tuned adapters lie with the training that made them and go on to the
trainings that descend from it, since an increment's new items must mean what the network learnt.
"""

import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
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
from tasks.item_states import newest_items

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
    only: Collection[str] | None = None,
    as_of: datetime | None = None,
) -> Described:
    """Vectors of the items as that version of the table has them. `folder`: the training's own.

    A full retrain (`parent` None) fine-tunes what `adapter` asks for on `train`; an increment takes its parent's. Of
    the settings' modalities only those in `modalities` (the parent network's; None: all) are made, and of the items
    those in `only` (None: all); what describes none of these is left out. `as_of`: by their states at that moment, not
    by the newest. Raises UsageError for an encoder or column
    that is not there, DataRejected when a modality describes no item of all.
    """
    chosen = {name: stated for name, stated in settings.modalities.items() if modalities is None or name in modalities}
    if not chosen:
        return Described({}, ())
    rows = newest_items(Lake.of(home, settings.lake), items_version, _columns(chosen), as_of=as_of)
    if only is not None:
        rows = rows.filter(pc.is_in(rows["item_id"], value_set=pa.array(sorted(only), pa.string())))
    vectors = {}
    for name, stated in chosen.items():
        options = ModalityOptions(**stated.model_dump(exclude={"new_items"}))
        said = rows if only is None else rows.filter(pa.array(_says(rows, name, options), pa.bool_()))
        if only is not None and not len(said):
            continue
        if options.kind is Kind.VECTOR:
            (column,) = options.columns_of(name)
            vectors[name] = ready_vectors(said, column, dims=options.dims, id_dropout=options.id_dropout)
        else:
            vectors[name] = _encoded(home, settings, name, options, said, folder, train, parent)
    admitted = {item for name, named in vectors.items() if chosen[name].new_items for item in named.items}
    available = rows.filter(rows["available"])["item_id"].to_pylist()
    return Described(vectors, tuple(item for item in available if item in admitted))


def _columns(chosen: dict[str, ModalitySettings]) -> set[str]:
    columns = {"available"}
    for name, stated in chosen.items():
        options = ModalityOptions(**stated.model_dump(exclude={"new_items"}))
        columns |= {"vectors"} if options.kind is Kind.VECTOR else set(needed(options.columns_of(name)))
    return columns


def _says(rows: pa.Table, name: str, options: ModalityOptions) -> list[bool]:
    """Of each row, whether the modality's columns hold anything; a file that is named may still be gone."""
    if options.kind is Kind.VECTOR:
        (column,) = options.columns_of(name)
        return [bool(dict(entries or ()).get(column)) for entries in rows["vectors"].to_pylist()]
    return [bool(text.strip()) for text in joined(rows, options.columns_of(name))]


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
