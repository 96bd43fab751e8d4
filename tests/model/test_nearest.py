"""An index beside a release: what it finds, when there is none, and how serving answers through it."""

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from model.export import export_release
from model.fitted import Fitted
from model.graph import add_best
from model.inverted_file import build_index, lists_for
from model.nearest import NearestOptions, NearestReport, add_nearest, least, questions_of
from model.network.config import RankerConfig
from model.network.ranker import Ranker
from model.objectives.options import ObjectiveOptions
from model.sequences import Histories, Holdout, split_by_time
from model.served import served_weights
from model.split_graph import initializer, scoring_of
from model.vocabulary import Vocabulary
from relations.errors import DataRejected
from serving.app import create_app
from serving.networks.engine import Engine
from serving.networks.histories import Asked
from serving.networks.queries import Query, mask_of
from stores.bundle import Bundle, open_bundle, write_bundle
from stores.deltas import Weights, find_change, read_delta, write_delta
from stores.home import Home
from stores.ledger import Ledger
from stores.ledger_records import VersionRecord
from stores.settings import Settings

ITEMS, WIDTH, GROUPS, LENGTH, USERS = 2_500, 16, 50, 8, 300
WITHDRAWN = (7, 1_250)
OPTIONS = NearestOptions(above=1_000, recall=0.9)
QUERIES = 40


def vectors(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Items in groups, as trained ones are: [V + 1, D] vectors, and the biases of a skewed popularity."""
    rng = np.random.default_rng(seed)
    centre_GD = rng.normal(size=(GROUPS, WIDTH)) * 0.3
    table_VD = centre_GD[np.arange(ITEMS + 1) % GROUPS] + rng.normal(size=(ITEMS + 1, WIDTH)) * 0.1
    bias_V = 0.5 * np.log(rng.pareto(1.5, size=ITEMS + 1) + 1)
    return table_VD.astype(np.float32), bias_V.astype(np.float32)


@pytest.fixture(scope="module")
def grouped() -> Fitted:
    """A network of random weights over items in groups."""
    torch.manual_seed(0)
    config = RankerConfig(items=ITEMS, behaviours=9, width=WIDTH, blocks=1, heads=2, max_history=LENGTH)
    ranker = Ranker(config).eval()
    table_VD, bias_V = vectors()
    with torch.no_grad():
        ranker.item_table.weight.copy_(torch.from_numpy(table_VD))
        ranker.item_bias.copy_(torch.from_numpy(bias_V))
    vocabulary = Vocabulary(tuple(f"i{row:05d}" for row in range(1, ITEMS + 1)), withdrawn=WITHDRAWN)
    nothing = {"optimizer_state": {}, "losses": (), "steps": 0, "seconds": 0.0, "tokens": 0, "targets": 0}
    return Fitted(ranker, ObjectiveOptions(), {}, vocabulary, **nothing)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def holdout() -> Holdout:
    """Users who stay in a group for 6 events; the last one is held out."""
    rng = np.random.default_rng(1)
    group_U = rng.integers(GROUPS, size=USERS)
    item_UL = group_U[:, None] + GROUPS * rng.integers(ITEMS // GROUPS, size=(USERS, 6))
    time_UL = np.arange(6) * 1_000_000_000 + np.arange(USERS)[:, None]
    histories = Histories(
        users=np.array([f"u{user:03d}" for user in range(USERS)], dtype=object),
        items=np.array([f"i{row:05d}" for row in range(1, ITEMS + 1)], dtype=object),
        item_N=item_UL.ravel(),
        behaviour_N=np.ones(item_UL.size, np.int64),
        time_N=time_UL.ravel(),
        offsets_U1=np.arange(USERS + 1) * 6,
    )
    return split_by_time(histories, cutoff_us=5_000_000_000).holdout


@pytest.fixture(scope="module")
def plain(grouped: Fitted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release as it is exported."""
    folder = tmp_path_factory.mktemp("plain")
    export_release(grouped, folder)
    return folder


@pytest.fixture(scope="module")
def indexed(
    grouped: Fitted, holdout: Holdout, plain: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[NearestReport, Bundle]:
    folder = tmp_path_factory.mktemp("indexed")
    shutil.copytree(plain, folder / "files")
    report = add_nearest(grouped, folder / "files", holdout=holdout, options=OPTIONS)
    return report, write_bundle(folder / "files", describe={"kind": "full"}, releases=folder / "r", attestation={})


@pytest.fixture(scope="module")
def engine(indexed: tuple[NearestReport, Bundle]) -> Engine:
    return Engine.load(indexed[1])


@pytest.fixture(scope="module")
def queries(grouped: Fitted, holdout: Holdout) -> list[Query]:
    """As serving asks: after the held-out users' histories, without what they have seen."""
    found = questions_of(grouped, holdout, seed=3)
    return [
        Query(Asked(rows.tolist(), [1] * len(rows), ages.tolist(), [[]] * len(rows)), sorted({row - 1 for row in rows}))
        for rows, ages in zip(found.row_BL[:QUERIES], found.age_BL[:QUERIES], strict=True)
    ]


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


@given(first=st.integers(1, 200), most=st.integers(1, 200))
def test_least_is_the_first_that_holds(first: int, most: int) -> None:
    asked: list[int] = []

    def holds(number: int) -> bool:
        asked.append(number)
        return number >= first

    assert least(holds, most=most) == (first if first <= most else None)
    assert max(asked) <= most
    assert len(asked) <= 2 * math.log2(most) + 2


def test_lists_are_a_power_of_two_near_five_roots() -> None:
    assert lists_for(2_500) == 256  # 5 √2,500 = 250
    assert lists_for(100_000) == 2_048  # 1,581, log₂ = 10.6
    assert lists_for(1_000_000) == 4_096  # 5,000, log₂ = 12.3


def test_recall_is_that_of_a_sort(
    indexed: tuple[NearestReport, Bundle], engine: Engine, queries: list[Query], holdout: Holdout
) -> None:
    report, bundle = indexed
    assert report.built
    assert OPTIONS.recall <= report.recall_low <= report.recall <= 1
    assert report.questions == len(holdout) // 2
    assert report.bytes == (bundle.folder / "nearest.index").stat().st_size
    assert json.loads(bundle.read("nearest.json"))["effort"] == report.effort
    shares = []
    for query, best in zip(queries, engine.best(queries, n=100), strict=True):
        scores_V = engine.scores(query.asked)
        scores_V[list(query.excluded)] = -np.inf
        exact = sorted(range(ITEMS), key=lambda row: -scores_V[row])[:100]
        shares.append(len(set(best.rows) & set(exact)) / 100)
        assert best.searched
        assert best.scores == sorted(best.scores, reverse=True)
        assert best.scores == pytest.approx(scores_V[best.rows], abs=1e-4)
    assert np.mean(shares) == pytest.approx(report.recall, abs=0.05)


def test_a_batch_answers_as_each_alone(engine: Engine, queries: list[Query]) -> None:
    for query, best in zip(queries, engine.best(queries, n=10), strict=True):
        (alone,) = engine.best([query], n=10)
        assert best.rows == alone.rows
        assert best.scores == pytest.approx(alone.scores, abs=1e-5)


def test_neither_what_is_excluded_nor_what_is_masked_is_found(engine: Engine, queries: list[Query]) -> None:
    (first,) = engine.best([queries[0]], n=20)
    blocked = set(first.rows[::2])
    mask_V1 = mask_of(np.isin(np.arange(ITEMS), [*blocked, *(row - 1 for row in WITHDRAWN)]))
    rest = first.rows[1::2]
    query = queries[0]._replace(excluded=sorted({*queries[0].excluded, *rest[::2]}), mask_V1=mask_V1)
    (best,) = engine.best([query], n=20)
    assert not set(best.rows) & {*blocked, *query.excluded, *(row - 1 for row in WITHDRAWN)}
    assert best.rows[: len(rest[1::2])] == rest[1::2]  # what is left of the first moves up
    everything = [row for found in engine.best(queries, n=100) for row in found.rows]
    assert not {row - 1 for row in WITHDRAWN} & set(everything)


def test_where_too_few_are_left_all_are_scored(engine: Engine, queries: list[Query]) -> None:
    scored = replace(engine, nearest=None)
    few = mask_of(np.arange(ITEMS) % 40 != 0)  # 63 of 2,500 stay
    for asked, n in (
        ([query._replace(mask_V1=few) for query in queries[:5]], 50),
        (queries[:2], 101),  # deeper than recall was measured
        ([queries[0]._replace(excluded=list(range(2_400)))], 50),
    ):
        found = engine.best(asked, n=n)
        assert not any(best.searched for best in found)
        assert found == scored.best(asked, n=n)
    # In one batch only those that need it are scored.
    both = engine.best([queries[0], queries[1]._replace(excluded=list(range(2_400)))], n=50)
    assert [best.searched for best in both] == [True, False]
    assert both[1] == scored.best([queries[1]._replace(excluded=list(range(2_400)))], n=50)[0]


def test_a_search_orders_as_scoring_all_does(engine: Engine, queries: list[Query]) -> None:
    for query in queries:
        (near,), (scored,) = engine.best([query], n=30), replace(engine, nearest=None).best([query], n=30)
        if min(-np.diff(scored.scores)) > 1e-5:  # closer ones may change places by rounding
            both = set(near.rows) & set(scored.rows)
            assert [row for row in near.rows if row in both] == [row for row in scored.rows if row in both]


def test_the_same_release_has_the_same_bytes(tmp_path: Path, indexed: tuple[NearestReport, Bundle]) -> None:
    table_VD, bias_V = vectors()
    vector_VP = np.zeros((ITEMS, 32), np.float32)
    vector_VP[:, :WIDTH], vector_VP[:, WIDTH] = table_VD[1:], bias_V[1:]
    state_QD = np.random.default_rng(5).normal(size=(200, WIDTH)).astype(np.float32)
    np.savez(tmp_path / "given.npz", vector_VP=vector_VP, state_QD=state_QD)
    code = (
        "import hashlib, sys, faiss, numpy as np; from model.inverted_file import build_index;"
        "given = np.load(sys.argv[1]); rows = np.arange(1, len(given['vector_VP']) + 1);"
        "index = build_index(given['vector_VP'], rows, given['state_QD'], seed=0);"
        "print(hashlib.sha256(faiss.serialize_index(index)).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "given.npz")],
        env=os.environ | {"OMP_NUM_THREADS": "2"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    import faiss

    index = build_index(vector_VP, np.arange(1, ITEMS + 1), state_QD, seed=0)
    assert done.stdout.strip() == hashlib.sha256(faiss.serialize_index(index)).hexdigest()
    other = build_index(vector_VP, np.arange(1, ITEMS + 1), state_QD, seed=1)
    assert done.stdout.strip() != hashlib.sha256(faiss.serialize_index(other)).hexdigest()


def test_adding_an_index_twice_gives_one_digest(
    tmp_path: Path, plain: Path, grouped: Fitted, holdout: Holdout, indexed: tuple[NearestReport, Bundle]
) -> None:
    shutil.copytree(plain, tmp_path / "files")
    add_nearest(grouped, tmp_path / "files", holdout=holdout, options=OPTIONS)
    again = write_bundle(tmp_path / "files", describe={"kind": "full"}, releases=tmp_path / "r", attestation={})
    assert again.digest == indexed[1].digest


def test_weights_are_stored_once(plain: Path, indexed: tuple[NearestReport, Bundle]) -> None:
    sizes = {name: entry["bytes"] for name, entry in indexed[1].manifest["files"].items()}
    both = sizes["model.onnx"] + sizes["encoder.onnx"] + sizes["model.onnx.data"]
    assert both < (plain / "model.onnx").stat().st_size + 30_000
    table = ITEMS * WIDTH * 4
    assert sizes["model.onnx"] + sizes["encoder.onnx"] < table < sizes["model.onnx.data"]


@pytest.mark.parametrize(
    ("options", "users", "why"),
    [
        (NearestOptions(above=ITEMS), USERS, "2,498 items; an index pays from 2,500 on"),  # two are withdrawn
        (OPTIONS, 100, "99 held-out histories"),
        (replace(OPTIONS, recall=1.0, best=1_000), USERS, "recall@1000 is 0."),
    ],
)
def test_without_an_index_the_release_stays_as_it_was(
    options: NearestOptions, users: int, why: str, tmp_path: Path, plain: Path, grouped: Fitted, holdout: Holdout
) -> None:
    shutil.copytree(plain, tmp_path / "files")
    few = holdout.keep(holdout.user_R < users)
    report = add_nearest(grouped, tmp_path / "files", holdout=few, options=options)
    assert not report.built
    assert report.reason.startswith(why)
    assert report.stated() == {"built": False, "reason": report.reason}
    assert digests(tmp_path / "files") == digests(plain)


def test_damage_is_found_before_anything_is_opened(tmp_path: Path, indexed: tuple[NearestReport, Bundle]) -> None:
    shutil.copytree(indexed[1].folder, tmp_path / indexed[1].digest)
    file = tmp_path / indexed[1].digest / "nearest.index"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataRejected, match=r"nearest\.index does not match its SHA-256"):
        open_bundle(tmp_path, indexed[1].digest)
    with pytest.raises(DataRejected, match=r"nearest\.index: changed since"):  # after it was verified
        Engine.load(replace(indexed[1], folder=tmp_path / indexed[1].digest))


def other_release(bundle: Bundle, folder: Path, change: Callable[[Path], None]) -> Bundle:
    shutil.copytree(bundle.folder, folder / "files", ignore=shutil.ignore_patterns("manifest.json", "attestation.json"))
    change(folder / "files")
    return write_bundle(folder / "files", describe={"kind": "full"}, releases=folder / "r", attestation={})


def restate(**stated: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "nearest.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | stated))

    return change


@pytest.mark.parametrize(
    "change",
    [
        restate(items=3),
        restate(table="w99"),
        restate(width=WIDTH + 1),
        lambda folder: (folder / "nearest.index").write_bytes(b"no index"),
    ],
)
def test_an_index_of_something_else_is_refused(
    change: Callable[[Path], None], tmp_path: Path, indexed: tuple[NearestReport, Bundle]
) -> None:
    with pytest.raises(DataRejected, match="index is not what it states"):
        Engine.load(other_release(indexed[1], tmp_path, change))


def test_where_the_index_cannot_be_read_all_are_scored(
    tmp_path: Path,
    indexed: tuple[NearestReport, Bundle],
    queries: list[Query],
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scored = replace(engine, nearest=None).best(queries, n=20)
    newer = Engine.load(other_release(indexed[1], tmp_path, restate(format=2)))
    monkeypatch.setitem(sys.modules, "faiss", None)
    without = Engine.load(indexed[1])
    for each in (newer, without):
        found = each.best(queries, n=20)
        assert [best.rows for best in found] == [best.rows for best in scored]
        assert not any(best.searched for best in found)


def test_a_delta_is_searched_with_its_own_vectors(
    grouped: Fitted, indexed: tuple[NearestReport, Bundle], engine: Engine, queries: list[Query]
) -> None:
    bundle = indexed[1]
    rows, body = served_weights(grouped.ranker)
    moved = {name: table.copy() for name, table in rows.items()}
    # Item 900 comes to lie where item 41 does, only longer; its list is still that of what it was. The body moves too.
    moved["item_table"][900] = 1.5 * rows["item_table"][41]
    moved["item_bias"][900] = rows["item_bias"][41] + 5
    shifted = body | {"final_norm.weight": body["final_norm.weight"] * np.float32(1.01)}
    change = find_change(bundle, before=Weights(rows, body), after=Weights(moved, shifted))
    assert change.rows_R.tolist() == [900]
    releases = bundle.folder.parent
    delta = write_delta(change, bundle, releases=releases, sequence=1, recipe="r" * 64, attestation={})
    changed = engine.with_delta(read_delta(delta))
    before, after = engine.best(queries, n=20), changed.best(queries, n=20)
    assert sum(899 in best.rows for best in before) < sum(899 in best.rows for best in after)
    for query, best in zip(queries, after, strict=True):
        assert best.searched
        scores_V = changed.scores(query.asked)
        assert best.scores == pytest.approx(scores_V[best.rows], abs=1e-4)
        exact = [row for row in np.argsort(-scores_V, kind="stable").tolist() if row not in query.excluded][:20]
        assert (899 in best.rows) == (899 in exact)
    assert engine.best(queries, n=20) == before  # the base stays as it was
    assert engine.nearest is not None
    assert engine.nearest.changed(moved, np.arange(10_001)) is None  # to score so many each time is to score all


def test_the_api_answers_through_the_index(tmp_path: Path, indexed: tuple[NearestReport, Bundle]) -> None:
    home = Home.create(tmp_path / "home", simulation=True)
    settings = Settings.model_validate({"home": {"clock": "request"}, "policy": {"exploration": 0.0}})
    shutil.copytree(indexed[1].folder, home.releases / indexed[1].digest)
    ledger, now = Ledger.of(home, settings), datetime(2026, 1, 1, tzinfo=UTC)
    stated = {"mode": "full", "parent": None, "metrics": {}, "run_id": "", "checkpoint": "", "submitter": "trainer"}
    numbers = {"events_version": 0, "items_version": 0, "cutoff_us": 0, "offline_passed": True, "created": now}
    record = VersionRecord(version=1, digest=indexed[1].digest, **stated, **numbers)  # type: ignore[arg-type]
    ledger.bootstrap(ledger.record_version(record), actor="ada", reason="first", now=now)
    time = now.isoformat().replace("+00:00", "Z")
    event = {"item_id": "i00042", "behaviour": "view", "event_time": time}
    with TestClient(create_app(home, settings), base_url="http://127.0.0.1") as client:
        for body in ({}, {"exclude": [f"i{row:05d}" for row in range(1, 1_500)]}):
            body |= {"user_id": "u", "k": 5, "events": [event]}
            answer = client.post("/v1/recommend", json=body, headers={"X-Ratchet-Now": time})
            assert answer.status_code == 200, answer.text
            assert "i00042" not in [item["item_id"] for item in answer.json()["items"]]
    files = sorted((home.landing / "exposures").iterdir())
    shown = [json.loads(line)["served_by"] for file in files for line in file.read_bytes().splitlines()]
    assert shown == ["onnxruntime/CPUExecutionProvider+nearest"] * 5 + ["onnxruntime/CPUExecutionProvider"] * 5


def cosine_graph(table_VD: np.ndarray, bias_V: np.ndarray, *, turned: bool = True) -> onnx.ModelProto:
    """Scores of the mean of the history's vectors with vectors of length 1, as the exporter writes large tables."""
    weights = {"table": table_VD, "bias": bias_V, "axes": np.array([1]), "size": np.array(table_VD.shape)}
    nodes = [
        helper.make_node("Gather", ["table", "items"], ["seen"]),
        helper.make_node("ReduceMean", ["seen", "axes"], ["state"], keepdims=0),
        helper.make_node("ReduceL2", ["table", "axes"], ["norms"], keepdims=1),
        helper.make_node("Expand", ["norms", "size"], ["wide"]),
        helper.make_node("Div", ["table", "wide"], ["catalogue"]),
        helper.make_node("Add", ["bias", "mask"], ["added"]),
        helper.make_node("Gemm", ["state", "catalogue", "added"], ["scores"], transB=int(turned)),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "cosine",
        [value("items", TensorProto.INT64, ["batch", "length"]), value("mask", TensorProto.FLOAT, [len(table_VD)])],
        [value("scores", TensorProto.FLOAT, ["batch", len(table_VD)]), value("state", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return add_best(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))


def test_a_computed_table_becomes_a_weight_of_its_own() -> None:
    rng = np.random.default_rng(0)
    table_VD, bias_V = rng.normal(size=(6, 4)).astype(np.float32), rng.normal(size=6).astype(np.float32)
    model = cosine_graph(table_VD, bias_V)
    feed = {
        "items": np.array([[1, 2], [3, 4]]),
        "mask": np.zeros(6, np.float32),
        "excluded": np.zeros((2, 1), np.int64),
        "k": np.array([3]),
    }
    before = onnxruntime.InferenceSession(model.SerializeToString()).run(["scores"], feed)[0]
    scoring = scoring_of(model)
    assert scoring is not None
    assert (scoring.table, scoring.bias) == ("catalogue", "bias")
    expected = table_VD / np.linalg.norm(table_VD, axis=1, keepdims=True)
    np.testing.assert_allclose(initializer(model, "catalogue"), expected, rtol=1e-6)
    onnx.checker.check_model(model)
    assert not {"Div", "ReduceL2"} & {node.op_type for node in model.graph.node}
    after = onnxruntime.InferenceSession(model.SerializeToString()).run(["scores"], feed)[0]
    np.testing.assert_allclose(after, before, rtol=1e-6)


def test_scores_that_are_no_inner_product_have_no_table() -> None:
    square = np.ones((4, 4), np.float32)
    assert scoring_of(cosine_graph(square, np.ones(4, np.float32), turned=False)) is None
