import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from model import recommending
from model.attributes import Column
from model.evaluation import RankerRecommender
from model.export import Exported, export_release
from model.features import FeatureOptions, Kind
from model.fit import fit_full
from model.fitted import Fitted, load_fitted, save_fitted
from model.graph import canonical
from model.network.ranker import Ranker, RankerConfig
from model.options import NetworkOptions, TrainOptions
from model.parity import measure_parity
from model.recommending import Question
from model.sequences import Histories
from serving.networks import histories
from serving.networks.engine import Engine
from serving.networks.queries import Query
from stores.bundle import write_bundle


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def exported(fitted: Fitted, cycle: Histories, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_release(fitted, tmp_path_factory.mktemp("release"), histories=cycle)


def test_torch_and_onnx_agree(exported: Exported) -> None:
    assert exported.parity.holds
    assert exported.parity.max_abs_diff <= 1e-5
    assert exported.parity.top10_agreement >= 0.99
    assert [(case.batch, case.length) for case in exported.parity.cases] == [
        (batch, length) for batch in (1, 2, 7, 32) for length in (1, 2, 7, 8)
    ]


def test_files_say_what_serving_needs(exported: Exported, fitted: Fitted) -> None:
    assert {name: file.name for name, file in exported.files.items()} == {
        name: name for name in ("model.onnx", "vocabulary.json", "features.json")
    }
    features = json.loads(exported.files["features.json"].read_text())
    assert features["max_history"] == 8
    assert features["padding"] == 0
    assert features["inputs"] == ["items", "behaviours", "ages", "mask", "excluded", "k"]
    assert features["behaviours"][:3] == ["<pad>", "view", "click"]
    assert json.loads(exported.files["vocabulary.json"].read_text())["items"] == list(fitted.vocabulary.items)
    assert exported.describe["items"] == 12
    assert exported.describe["inputs"][0] == {"name": "items", "dtype": "int64", "shape": ["batch", "length"]}
    json.dumps(exported.describe)


def test_batch_and_length_are_dynamic(exported: Exported, fitted: Fitted) -> None:
    session = onnxruntime.InferenceSession(exported.files["model.onnx"], providers=["CPUExecutionProvider"])
    assert [(put.name, put.type, put.shape) for put in [*session.get_inputs(), *session.get_outputs()]] == [
        ("items", "tensor(int64)", ["batch", "length"]),
        ("behaviours", "tensor(int64)", ["batch", "length"]),
        ("ages", "tensor(int64)", ["batch", "length"]),
        ("mask", "tensor(float)", [13]),
        ("excluded", "tensor(int64)", ["batch", "excluded"]),
        ("k", "tensor(int64)", [1]),
        ("best_rows", "tensor(int64)", ["batch", "k"]),
        ("best_scores", "tensor(float)", ["batch", "k"]),
        ("scores", "tensor(float)", ["batch", 13]),
        ("state", "tensor(float)", ["batch", 16]),
    ]
    request = {"mask": np.zeros(13, np.float32), "excluded": np.array([[3, 0]]), "k": np.array([2])}
    padded, bare = (
        session.run(
            ["scores"],
            {"items": np.array([row]), "behaviours": np.array([row]).clip(max=1), "ages": np.array([age]), **request},
        )[0]
        for row, age in (([0, 0, 0, 4, 5], [0, 0, 0, 90, 7]), ([4, 5], [90, 7]))
    )
    np.testing.assert_allclose(padded, bare, rtol=0, atol=1e-5)


def test_serving_ranks_as_the_offline_answer_does(exported: Exported, fitted: Fitted, tmp_path: Path) -> None:
    bundle = write_bundle(
        exported.files["model.onnx"].parent, describe=exported.describe, releases=tmp_path, attestation={}
    )
    engine, rng = Engine.load(bundle), np.random.default_rng(0)
    told, offered, scores = [], [], []
    for _ in range(20):
        times = np.sort(rng.integers(0, 3 * 10**9, size=rng.integers(1, 12)))
        events = [
            ("unknown" if draw == 12 else f"i{draw:02d}", int(at))
            for draw, at in zip(rng.integers(0, 13, size=len(times)), times, strict=True)
        ]
        for now_us in (int(times[-1]) - 1, int(times[-1] + rng.integers(0, 2 * 10**9))):
            told.append(Question([recommending.Past(item, "view", at) for item, at in events], now_us))
            items, at_us = zip(*events, strict=True)
            asked = engine.codes(histories.History(items, ["view"] * len(items), at_us), now_us=now_us)
            if len(asked.items_L):
                scores.append(engine.scores(asked))
                (best,) = engine.best([Query(asked)], n=12)
                offered.append([engine.items[row] for row in best.rows])
            else:
                told.pop()
    assert offered == recommending.best_items(RankerRecommender.of(fitted), told, n=12)
    assert any((first != second).any() for first, second in zip(scores[::2], scores[1::2], strict=True))  # times count


def test_attributes_reach_the_served_network(
    cycle: Histories, tiny: NetworkOptions, brief: TrainOptions, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    said = {name: Column.of([str(draw) for draw in rng.integers(0, 4, size=len(cycle))]) for name in ("mood", "age")}
    declared = FeatureOptions(user={"mood": Kind.CATEGORY}, context={"age": Kind.NUMBER}, buckets=3)
    told = replace(cycle, attributes=said)
    fitted = fit_full(told, network=tiny, training=replace(brief, epochs=1), features=declared)
    exported = export_release(fitted, tmp_path / "files", histories=told)
    assert exported.parity.holds
    assert exported.describe["inputs"][3] == {
        "name": "attributes", "dtype": "int64", "shape": ["batch", "length", 2]
    }  # fmt: skip
    engine = Engine.load(
        write_bundle(tmp_path / "files", describe=exported.describe, releases=tmp_path / "r", attestation={})
    )
    questions, offered = [], []
    for mood in ("0", "3", "never"):
        events = [(f"i{n:02d}", n * 10**6, {"age": str(n)}) for n in range(5)]
        for begin in (0, 5):  # 5: of a user without events
            items, at_us, contexts = zip(*events, strict=True) if begin == 0 else ((), (), ())
            history = histories.History(items, ["view"] * len(items), at_us, contexts)
            asked = engine.codes(history, now_us=10**8, attributes={"mood": mood})
            if len(asked.items_L):
                (best,) = engine.best([Query(asked)], n=12)
                offered.append([engine.items[row] for row in best.rows])
                past = [recommending.Past(item, "view", at, context) for item, at, context in events[begin:]]
                questions.append(Question(past, 10**8, attributes={"mood": mood}))
    assert len(offered) == 5  # of nobody's unknown mood there is nothing to ask with
    assert offered == recommending.best_items(RankerRecommender.of(fitted), questions, n=12)


def test_no_trace_of_the_exporter_is_left(exported: Exported) -> None:
    graph = onnx.load(exported.files["model.onnx"])
    onnx.checker.check_model(graph)
    text = exported.files["model.onnx"].read_bytes()
    assert b"stack_trace" not in text
    assert b".py" not in text
    assert not graph.producer_version
    assert not graph.graph.value_info
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 20)]
    assert canonical(graph) == graph


def test_names_that_the_exporter_chose_do_not_count(exported: Exported) -> None:
    graph = onnx.load(exported.files["model.onnx"])
    other = onnx.ModelProto()
    other.CopyFrom(graph)
    for node in other.graph.node:
        node.doc_string = "/somewhere/else.py:7"
        node.metadata_props.add(key="stack", value="/somewhere/else.py")
        node.input[:] = [f"q{name}" if name[:1] in "vw" and name else name for name in node.input]
        node.output[:] = [f"q{name}" if name[:1] == "v" else name for name in node.output]
    for tensor in other.graph.initializer:
        tensor.name = f"q{tensor.name}"
    assert other != graph
    assert canonical(other) == graph


def test_the_same_model_gives_the_same_bytes_from_another_checkout(
    exported: Exported, fitted: Fitted, tmp_path: Path
) -> None:
    root = Path(__file__).parents[2]
    for room in ("model", "relations"):
        shutil.copytree(root / room, tmp_path / "else where" / room, ignore=shutil.ignore_patterns("__pycache__"))
    save_fitted(fitted, tmp_path / "fitted")
    code = (
        "import sys; from pathlib import Path; import model.export as e; from model.fitted import load_fitted;"
        "assert e.__file__.startswith(sys.argv[1]), e.__file__;"
        "e.export_release(load_fitted(Path(sys.argv[2])), Path(sys.argv[3]))"
    )
    place = tmp_path / "else where"
    found = subprocess.run(
        [sys.executable, "-c", code, str(place), str(tmp_path / "fitted"), str(tmp_path / "out")],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert {name: sha256(tmp_path / "out" / name) for name in exported.files} == {
        name: sha256(file) for name, file in exported.files.items()
    }


def test_a_difference_is_measured_and_judged(exported: Exported, fitted: Fitted, tmp_path: Path) -> None:
    save_fitted(fitted, tmp_path / "fitted")
    other = load_fitted(tmp_path / "fitted")
    with torch.no_grad():
        other.ranker.item_bias[5] += 0.01
    for limit, holds in ((1e-4, False), (0.011, True)):
        found = measure_parity(other.ranker, exported.files["model.onnx"], sequences=[], max_abs=limit, top10=0.0)
        assert found.holds is holds
        assert found.max_abs_diff == pytest.approx(0.01, rel=1e-3)


def test_a_vocabulary_of_another_size_is_no_parity(exported: Exported, fitted: Fitted) -> None:
    other = Ranker(
        RankerConfig.from_dict(fitted.ranker.config.to_dict() | {"items": 11})
    ).eval()  # the graph answers 12
    found = measure_parity(other, exported.files["model.onnx"], sequences=[], max_abs=1e9, top10=0.0)
    assert not found.holds


def test_large_weights_go_beside_the_graph(fitted: Fitted, exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "model.onnx.data").write_bytes(b"left over")
    found = export_release(fitted, tmp_path, single_file_bytes=1000)
    assert set(found.files) == {*exported.files, "model.onnx.data"}
    assert found.parity.holds
    assert found.files["model.onnx"].stat().st_size < exported.files["model.onnx"].stat().st_size
    weights = sum(tensor.numel() for tensor in fitted.ranker.parameters()) * 4
    assert found.files["model.onnx.data"].stat().st_size < 1.2 * weights + 4096
