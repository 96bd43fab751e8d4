"""Side indexes of items that came after the releases that may serve, kept up to the items table."""

import hashlib
import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock

from model.sequences import Histories
from model.vocabulary import Vocabulary
from relations.errors import DataRejected, DependencyFailed
from stores.bundle import open_bundle
from stores.home import Home
from stores.lake import Lake
from stores.ledger import Ledger
from stores.serving_records import ServingState
from stores.settings import Settings
from stores.side_index import (
    NEVER,
    InForce,
    NewItem,
    SideIndex,
    prune,
    publish,
    read_in_force,
    read_side_index,
    write_side_index,
)
from stores.signatures import sign
from tasks.item_states import begun, last_states

_Rows = tuple[tuple[NewItem, ...], npt.NDArray[np.float32], npt.NDArray[np.float32]]
"""Items, vectors [R, D] and biases [R]."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ITEM_COLUMNS = ("item_id", "valid_from", "available", "categories")


@dataclass(frozen=True)
class Indexed:
    """`items`: how many are in the index, by the release's digest; `encoded`: how many rows were made now."""

    items_version: int
    items: Mapping[str, int]
    encoded: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def index_new_items(home: Home, settings: Settings, *, now: datetime) -> Indexed | None:
    """Bring the side indexes up to the items table; None where they are.

    The champion has one, and while a trial is open its challenger too, by the same rule and of the same items: both
    change in one step, so that the trial compares rankings and not who knows of more items. An index holds the items
    that are available, unknown to its release's network and that say something of themselves, at most `[serving]
    new_items_most`, the newest. What is said from a later time on is waited for. A row is made once for each state of
    an item; rows made before are taken over.

    Without work it reads the items table's version, the ledger's state and `side.json`, and loads no network. What
    is in force stays so where anything raises: RatchetError for a checkpoint that is gone, an encoder other than the
    network's, a full disk.
    """
    if (found := _due(home, settings, now)) is None:
        return None
    with FileLock(home.run / "side.lock", timeout=300):
        if (found := _due(home, settings, now)) is None:  # another ingest was faster
            return None
        version, bases, former = found
        if former is None:
            shutil.rmtree(home.side_indexes, ignore_errors=True)  # what nothing names may be damaged
        rows, until_us = _states(home, settings, version, now) if bases else (pa.table({}), NEVER)
        indexed, digests = _build(home, settings, version, bases, former, rows, now)
        publish(home.side_in_force, InForce(version, until_us, _recipe(settings), digests))
        prune(home.side_indexes, kept={*digests.values(), *(former.indexes.values() if former else ())})
    return indexed


def _due(home: Home, settings: Settings, now: datetime) -> tuple[int, Mapping[str, int], InForce | None] | None:
    """The version of the items table, the releases that may serve (version by digest), and what is in force."""
    try:
        former = read_in_force(home.side_in_force)
    except DataRejected:
        former = None  # it is written anew
    version = Lake.of(home, settings.lake).version("items")
    if not settings.serving.new_items or version < 0:
        return (version, {}, former) if former is not None and former.indexes else None
    bases = _bases(Ledger.of(home, settings).serving_state())
    stands = (
        former is not None
        and (former.items_version, former.recipe) == (version, _recipe(settings))
        and bases.keys() <= former.indexes.keys()
        and _microseconds(now) < former.until_us
    )
    return None if stands or not bases else (version, bases, former)


def _states(home: Home, settings: Settings, version: int, now: datetime) -> tuple[pa.Table, int]:
    """One row an item, its state at `now`; and when the next state begins."""
    rows = Lake.of(home, settings.lake).read("items", version=version, columns=sorted(_ITEM_COLUMNS))
    here = begun(rows, as_of=now)
    later = pc.min(rows["valid_from"].filter(pc.invert(here))).as_py()
    return last_states(rows.filter(here)), NEVER if later is None else _microseconds(later)


def _bases(state: ServingState) -> dict[str, int]:
    """Version by digest. While a promotion is watched the former champion's too: a rollback keeps the new items."""
    served = [state.champion, state.bake, *(state.trial.challengers if state.trial else ())]
    return {each.digest: each.version for each in served if each is not None}


def _recipe(settings: Settings) -> str:
    """SHA-256 of the settings that decide what is in an index."""
    stated = {name: each.model_dump(mode="json") for name, each in settings.modalities.items()}
    said = json.dumps([stated, settings.serving.new_items_most], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def _build(
    home: Home,
    settings: Settings,
    version: int,
    bases: Mapping[str, int],
    former: InForce | None,
    rows: pa.Table,
    now: datetime,
) -> tuple[Indexed, dict[str, str]]:
    """What was built, and the digest of each release's index ("" for one without items)."""
    items, digests, encoded = {}, {}, 0
    usable = former.indexes if former is not None and former.recipe == _recipe(settings) else {}
    for base, number in bases.items():
        checkpoint = home.root / Ledger.of(home, settings).version(number).checkpoint
        vocabulary = Vocabulary.load(checkpoint / "vocabulary.json")
        wanted = _wanted(rows, vocabulary, most=settings.serving.new_items_most)
        before = _former_index(home, usable.get(base, ""))
        parts: list[_Rows] = []
        if before is not None:
            stands = [at for at, item in enumerate(before.items) if wanted.get(item.item_id) == item.valid_from_us]
            parts.append(before.only(stands))
        there = {item.item_id for part in parts for item in part[0]}
        if fresh := {item: at for item, at in wanted.items() if item not in there}:
            made = _made(
                home, settings, checkpoint, version=version, rows=rows, vocabulary=vocabulary, fresh=fresh, now=now
            )
            parts.append(made)
            encoded += len(made[0])
        index = _joined(base, parts)
        if index is not None:
            index = write_side_index(index, home.side_indexes, items_version=version, now=now)
            if settings.release.signing_key:
                sign(open_bundle(home.side_indexes, index.digest), Path(settings.release.signing_key))
        digests[base], items[base] = (index.digest, len(index.items)) if index else ("", 0)
    return Indexed(version, items, encoded), digests


def _wanted(rows: pa.Table, vocabulary: Vocabulary, *, most: int) -> dict[str, int]:
    """The available items that the network does not know, the newest `most`, with the time of their state."""
    known = pc.is_in(rows["item_id"], value_set=pa.array(vocabulary.items, pa.string()))
    fresh = rows.filter(pc.and_(rows["available"], pc.invert(known)))
    if len(fresh) > most:
        fresh = fresh.sort_by([("valid_from", "descending"), ("item_id", "ascending")]).slice(0, most)
    times = fresh["valid_from"].cast(pa.int64())
    return dict(zip(fresh["item_id"].to_pylist(), times.to_pylist(), strict=True))


def _former_index(home: Home, digest: str) -> SideIndex | None:
    try:
        return read_side_index(home.side_indexes, digest) if digest else None
    except DataRejected:  # damaged: every row is made anew, and may be the same
        shutil.rmtree(home.side_indexes / digest, ignore_errors=True)
    except DependencyFailed:  # gone
        pass
    return None


def _made(
    home: Home,
    settings: Settings,
    checkpoint: Path,
    *,
    version: int,
    rows: pa.Table,
    vocabulary: Vocabulary,
    fresh: Mapping[str, int],
    now: datetime,
) -> _Rows:
    """The rows of those of `fresh` that say something."""
    from model.fitted import load_fitted
    from model.side_items import side_rows
    from tasks.embedding_items import describe_items

    fitted = load_fitted(checkpoint)
    described = describe_items(
        home,
        settings,
        items_version=version,
        folder=checkpoint.parent,
        train=Histories.from_table(pa.table({"user": pa.array([], pa.string())})),  # adapters are trained already
        parent=checkpoint.parent,
        modalities=tuple(fitted.ranker.config.modalities),
        only=fresh.keys(),
        as_of=now,
    )
    spoken = {item for named in described.vectors.values() for item in named.items}
    admitted = set(described.new_items)
    allowed = [item for item in fresh if item not in spoken or item in admitted]
    categories = _categories(rows, fresh.keys() - spoken)
    side = side_rows(
        fitted,
        items=allowed,
        modalities=described.vectors,
        categories=categories,
        known=_known_members(rows, vocabulary, wanted={name for names in categories.values() for name in names}),
    )
    items = tuple(
        NewItem(item, fresh[item], bool(said)) for item, said in zip(side.items, side.described_R, strict=True)
    )
    return items, side.vector_RD, side.bias_R


def _categories(rows: pa.Table, items: Collection[str]) -> dict[str, list[str]]:
    here = rows.filter(pc.is_in(rows["item_id"], value_set=pa.array(sorted(items), pa.string())))
    pairs = zip(here["item_id"].to_pylist(), here["categories"].to_pylist(), strict=True)
    return {item: names for item, names in pairs if names}


def _known_members(rows: pa.Table, vocabulary: Vocabulary, *, wanted: Collection[str]) -> dict[str, list[str]]:
    """The network's items by category, for the categories in `wanted`."""
    if not wanted:
        return {}
    known = rows.filter(pc.is_in(rows["item_id"], value_set=pa.array(vocabulary.items, pa.string())))
    listed = known["categories"].combine_chunks()
    names = pc.list_flatten(listed)
    holder = known["item_id"].combine_chunks().take(pc.list_parent_indices(listed))
    here = pc.is_in(names, value_set=pa.array(sorted(wanted), pa.string()))
    members: dict[str, list[str]] = {}
    for name, item in zip(names.filter(here).to_pylist(), holder.filter(here).to_pylist(), strict=True):
        members.setdefault(name, []).append(item)
    return members


def _microseconds(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)


def _joined(base: str, parts: Sequence[_Rows]) -> SideIndex | None:
    items = [item for part in parts for item in part[0]]
    if not items:
        return None
    order = np.argsort([item.item_id for item in items], kind="stable").tolist()
    vector_RD = np.concatenate([part[1] for part in parts])[order]
    bias_R = np.concatenate([part[2] for part in parts])[order]
    return SideIndex(base, tuple(items[place] for place in order), vector_RD, bias_R)
