"""Where does an index pay, and what does it miss? `ratchet bench nearest --data FOLDER`

A network learns from DIGINETICA's first twelve weeks (or another stream that `bench.continual_data` reads); the next
week's histories are what is asked about. Of its item vectors there are catalogues of several sizes: the most popular
ones, all of them, and larger ones with made items: points drawn from the normal distribution of an item's neighbourhood
(its 16 nearest items: their mean, their spread), so that norms, clusters and biases stay as they were learnt; beyond
the real ones the figures are of these. Each is released without and with an index, and both answer the same questions
in turns: the figures of one size are of one minute on one machine. Where an index would not find enough, all is scored.

Recall is of real histories, as a release measures it. Times are of full histories of 200 events, chained from real
ones, with their items left out: medians of the processor's time, ONNX Runtime and Faiss on one thread.
"""

import math
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.rows import Row, at_least, at_most

if TYPE_CHECKING:
    from model.fitted import Fitted
    from model.sequences import Holdout
    from serving.networks.engine import Engine
    from serving.networks.queries import Query

DATA = Path("../shared/data/diginetica-weeks")
WEEKS, USERS, LENGTH, BEST, BATCH = 12, 1_000, 200, 50, 32
SMALL = (3_416, 10_000)
LARGE = {100_000: 3.0, 1_000_000: 3.0}
"""Items → the most that a core may take for one user, in ms; recall@100 ≥ .98 with it."""
NEIGHBOURS = 16


def run(data: Path | None = None, rows: int = max(LARGE), seconds: float = 4.0) -> list[Row]:
    """`rows`: the largest catalogue; `seconds`: of each timing."""
    began = time.process_time()
    fitted, holdout = trained(DATA if data is None else data)
    found: list[Row] = [_figure("training", time.process_time() - began, "CPU-seconds")]
    real = len(fitted.vocabulary)
    for items in sorted({*(size for size in SMALL if size < real), real, *(size for size in LARGE if size > real)}):
        if items <= rows:
            made = "" if items <= real else f", {items - real:,} made"
            found += _size(of_size(fitted, items), holdout, name=f"{items:,} items{made}", seconds=seconds)
    return found


def trained(data: Path) -> "tuple[Fitted, Holdout]":
    """A network of the stream's first weeks, and what users did in the week after."""
    from bench.continual_data import read
    from model.fit import fit_full
    from model.options import Device, Loss, NetworkOptions, TrainOptions

    stream = read(data, base=WEEKS)
    fitted = fit_full(
        stream.before(WEEKS),
        network=NetworkOptions(max_history=LENGTH, relative_times=False),
        training=TrainOptions(
            epochs=3, learning_rate=3e-3, loss=Loss.SAMPLED, negatives=512, threads=1, device=Device.CPU
        ),
    )
    return fitted, stream.holdout(WEEKS, most_users=USERS)


def _size(fitted: "Fitted", holdout: "Holdout", *, name: str, seconds: float) -> list[Row]:
    from model.export import export_release
    from model.nearest import NearestOptions, add_nearest
    from serving.networks.engine import Engine
    from stores.bundle import write_bundle

    with tempfile.TemporaryDirectory() as scratch:
        folder, releases = Path(scratch) / "files", Path(scratch) / "releases"
        export_release(fitted, folder)
        without = write_bundle(folder, describe={}, releases=releases, attestation={})
        report = add_nearest(fitted, folder, holdout=holdout, options=NearestOptions(above=1))
        releases_of = {"all scored": without}
        if report.built:
            releases_of["searched"] = write_bundle(folder, describe={}, releases=releases, attestation={})
        engines = {how: Engine.load(bundle) for how, bundle in releases_of.items()}
        queries = _queries(fitted, holdout)
        batches = [queries[at : at + BATCH] for at in range(0, len(queries) - BATCH + 1, BATCH)]
        alone = _turns(engines, [[query] for query in queries], seconds=seconds)
        together = _turns(engines, batches, seconds=seconds)
        megabytes = [
            sum(entry["bytes"] for entry in bundle.manifest["files"].values()) / 1e6 for bundle in releases_of.values()
        ]
    bar = LARGE.get(len(fitted.vocabulary), math.inf)
    rows = []
    for how in releases_of:
        for what, value in (("batch 1", alone[how]), (f"batch {BATCH}, a user", together[how] / BATCH)):
            judge = how == "searched" and bar < math.inf
            label = f"{name}: {how}, {what}"
            rows.append(at_most(label, value, bar, "ms") if judge else _figure(label, value, "ms"))
    if not report.built:
        return [{**_figure(f"{name}: {report.reason}", 0, ""), "measured": None}, *rows]
    label = f"{name}: recall@{report.best}"
    return [
        at_least(label, report.recall, 0.98, "") if bar < math.inf else _figure(label, report.recall, ""),
        _figure(f"{label}, lower 95 % bound over {report.questions} histories", report.recall_low, ""),
        _figure(f"{name}: lists looked through, of {report.lists:,}", report.effort, ""),
        _figure(f"{name}: build and measure", report.seconds, "CPU-seconds"),
        _figure(f"{name}: index", report.bytes / 1e6, "MB"),
        _figure(f"{name}: release without it", megabytes[0], "MB"),
        _figure(f"{name}: release with it", megabytes[1], "MB"),
        *rows,
    ]


def of_size(fitted: "Fitted", items: int) -> "Fitted":
    """The most popular items alone, or all and made ones; the body of the network stays."""
    import torch

    from model.network.config import RankerConfig
    from model.network.ranker import Ranker
    from model.vocabulary import Vocabulary

    ids = fitted.vocabulary.items
    if items == len(ids):
        return fitted
    body = fitted.ranker.state_dict()
    table_VD, bias_V = body["item_table.weight"].numpy(), body["item_bias"].numpy()
    if items < len(ids):
        row_I = np.sort(np.argsort(-bias_V[1:], kind="stable")[:items]) + 1
        vocabulary = Vocabulary(tuple(ids[row - 1] for row in row_I))
        row_I = np.concatenate([[0], row_I])
        vector_VD, biases_V = table_VD[row_I], bias_V[row_I]
    else:
        new_ID = _made(np.hstack([table_VD[1:], bias_V[1:, None]]), items - len(ids))
        vocabulary = Vocabulary((*ids, *(f"made-{number}" for number in range(len(new_ID)))))
        vector_VD, biases_V = np.vstack([table_VD, new_ID[:, :-1]]), np.concatenate([bias_V, new_ID[:, -1]])
    with torch.device("meta"):
        ranker = Ranker(RankerConfig.from_dict(fitted.ranker.config.to_dict() | {"items": items}))
    tables = {"item_table.weight": vector_VD, "item_bias": biases_V}
    ranker.load_state_dict(body | {name: torch.from_numpy(value) for name, value in tables.items()}, assign=True)
    return replace(fitted, ranker=ranker.eval(), vocabulary=vocabulary)


def _made(known_VD: np.ndarray, count: int, *, seed: int = 0) -> np.ndarray:
    """[count, D] points, each from the normal distribution of a known one's neighbourhood."""
    import faiss

    rng = np.random.default_rng(seed)
    known_VD = np.ascontiguousarray(known_VD, np.float32)
    near = faiss.IndexIVFFlat(faiss.IndexFlatL2(known_VD.shape[1]), known_VD.shape[1], 200)
    near.train(known_VD)
    near.add(known_VD)
    near.nprobe = 8
    place_VK = near.search(known_VD, NEIGHBOURS + 1)[1]
    place_VK = np.where(place_VK < 0, np.arange(len(known_VD))[:, None], place_VK)
    made = []
    for begin in range(0, count, 50_000):
        size = min(50_000, count - begin)
        around_NKD = known_VD[place_VK[rng.integers(len(known_VD), size=size)]]
        mean_N1D = around_NKD.mean(axis=1, keepdims=True)
        weight_NK = (rng.normal(size=(size, NEIGHBOURS + 1)) / np.sqrt(NEIGHBOURS)).astype(np.float32)
        made.append(mean_N1D[:, 0] + np.einsum("nk,nkd->nd", weight_NK, around_NKD - mean_N1D))
    return np.vstack(made)


def _queries(fitted: "Fitted", holdout: "Holdout") -> "list[Query]":
    """Full histories: real ones, one behind the other, from many a place in that chain."""
    from model.nearest import questions_of
    from serving.networks.histories import Asked
    from serving.networks.queries import Query

    row_BL = questions_of(fitted, holdout, seed=0).row_BL
    chain = row_BL[row_BL > 0]
    begins = np.linspace(0, len(chain) - LENGTH, 8 * BATCH).astype(np.int64)
    ages = list(range(60 * LENGTH, 0, -60))
    return [
        Query(Asked(rows, [1] * LENGTH, ages, [[]] * LENGTH), sorted({row - 1 for row in rows}))
        for rows in chain[begins[:, None] + np.arange(LENGTH)].tolist()
    ]


def _turns(engines: "dict[str, Engine]", batches: "list[list[Query]]", *, seconds: float) -> dict[str, float]:
    """Each engine's median ms of a batch, asked in turns. Raises RuntimeError where a search gave way to scoring all:
    the figure would be of that."""
    taken: dict[str, list[float]] = {how: [] for how in engines}
    for engine in engines.values():
        engine.best(batches[0], n=BEST)
    end, number = time.perf_counter() + seconds, 0
    while time.perf_counter() < end or number < 5:
        for how, engine in engines.items():
            began = time.thread_time()
            found = engine.best(batches[number % len(batches)], n=BEST)
            taken[how].append((time.thread_time() - began) * 1e3)
            if engine.nearest is not None and not all(best.searched for best in found):
                raise RuntimeError(f"{how}: no answer to some query of batch {number}")
        number += 1
    return {how: statistics.median(times) for how, times in taken.items()}


def _figure(name: str, value: float, unit: str) -> Row:
    return {"name": name, "measured": value, "unit": unit, "bar": None, "holds": None}
