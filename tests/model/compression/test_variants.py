"""What is kept of a release's forms: what holds, and nothing that was not measured."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from model.compression import variants
from model.compression.forms import Form, Made, markdown
from model.compression.quantising import dynamic_int8, half, static_int8
from model.compression.running import GraphRecommender, medians_in_turns, open_session
from model.compression.variants import Judge, VariantOptions, make_variants
from model.evaluation import RankerRecommender, evaluate
from model.export import export_graph, parity_rows
from model.fitted import Fitted
from model.options import TrainOptions
from model.parity import measure_parity
from model.sequences import Histories, Split, split_by_time

EASY = VariantOptions(rows=20, exclude_seen=False, speedup=1.0, ndcg_loss=0.05)
CPU = "CPUExecutionProvider"


@pytest.fixture(scope="module")
def graph(fitted: Fitted) -> bytes:
    return export_graph(fitted.ranker).SerializeToString(deterministic=True)


@pytest.fixture(scope="module")
def split(cycle: Histories) -> Split:
    return split_by_time(cycle, holdout_share=0.3)


@pytest.fixture(autouse=True)
def one_run_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.compression.running.TURNS", 1)


@pytest.fixture
def twice_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two graphs the first takes 1 ms, the second 2 ms; what time they take is no matter of a test."""
    monkeypatch.setattr(variants, "medians_in_turns", lambda sessions, feed: (1.0, 2.0)[: len(sessions)])


def table(fitted: Fitted, graph: bytes, split: Split, forms: Sequence[Form], **stated: Any) -> list[Made]:
    parity = measure_parity(fitted.ranker, graph, sequences=[], max_abs=1e-4, top10=0.99)
    given: dict[str, Any] = {"options": EASY, "withdrawn": (), "training": TrainOptions(), "holdout": split.holdout}
    return make_variants(fitted, graph, parity=parity, forms=forms, train=split.train, **given | stated)


def judge(fitted: Fitted, graph: bytes, split: Split, options: VariantOptions = EASY) -> Judge:
    return Judge(fitted, graph, train=split.train, holdout=split.holdout, withdrawn=(), options=options)


def scaled(graph: bytes, *, seed: int) -> bytes:
    """Other weights in every matrix: a network that knows nothing."""
    model, rng = onnx.load_from_string(graph), np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2:
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(rng.permuted(array, axis=None).astype(np.float32), tensor.name))
    return bytes(model.SerializeToString(deterministic=True))


@pytest.mark.slow
@pytest.mark.usefixtures("twice_as_fast")
def test_every_form_of_a_network_that_is_sure_of_its_answers_is_kept(
    fitted: Fitted, graph: bytes, split: Split, brief: TrainOptions
) -> None:
    made = table(fitted, graph, split, list(Form), training=brief)
    rows = [each.row for each in made]
    assert [row.name for row in rows] == ["fp32", "fp16", "int8", "int8_static", "student", "pruned"]
    assert [row.kept for row in rows] == [True] * 6, [row.why for row in rows]
    whole = rows[0]
    assert whole.file == "model.onnx"
    assert whole.ndcg_loss == pytest.approx(0, abs=1e-9)
    assert made[0].graph is None  # it is in the release already
    sizes = [len(each.graph) for each in made[1:] if each.graph is not None]
    assert [row.bytes for row in rows[1:]] == sizes
    assert all(small < len(graph) for small in sizes)
    assert {row.provider for row in rows} == {CPU}
    assert (rows[2].ms, rows[2].fp32_ms) == ({1: 1.0, 32: 1.0}, {1: 2.0, 32: 2.0})
    assert rows[2].why.endswith("speed 2.00 times at batch 1, 2.00 times at batch 32")
    assert made[2].described == {"file": "model.int8.onnx", "precision": "int8", "state": "release"}
    stated = [row.as_json() for row in rows]
    assert json.loads(json.dumps(stated, allow_nan=False)) == stated
    assert len({tuple(row) for row in stated}) == 1  # the same columns
    assert markdown(stated).count("\n| ") == 6


def test_the_released_graph_passes_itself(fitted: Fitted, graph: bytes, split: Split) -> None:
    found = judge(fitted, graph, split)(Form.FP16, graph, fitted)
    assert found.row.kept
    assert found.row.top10_agreement == 1
    assert (found.row.ndcg_loss, found.row.ndcg_low, found.row.ndcg_high) == pytest.approx((0, 0, 0), abs=1e-9)


@pytest.mark.usefixtures("twice_as_fast")
@pytest.mark.parametrize("form", [Form.FP16, Form.INT8, Form.STUDENT])
def test_a_network_that_knows_nothing_is_refused(fitted: Fitted, graph: bytes, split: Split, form: Form) -> None:
    found = judge(fitted, graph, split)(form, scaled(graph, seed=1), fitted)
    assert not found.row.kept
    assert found.graph is None
    assert found.row.ndcg_loss is not None
    assert found.row.ndcg_loss > 0.3
    assert found.row.why.startswith("NDCG@10 loss ")
    assert "at most 5.00%" in found.row.why


@pytest.mark.parametrize(("form", "kept"), [(Form.FP16, True), (Form.INT8, False), (Form.PRUNED, False)])
def test_what_is_not_faster_is_refused_unless_it_is_for_accelerators(
    fitted: Fitted, graph: bytes, split: Split, form: Form, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "medians_in_turns", lambda sessions, feed: (2.0, 2.0))
    found = judge(fitted, graph, split, replace(EASY, speedup=1.05))(form, graph, fitted)
    assert found.row.kept is kept
    if not kept:
        assert found.row.why == "not 1.05 times as fast: 2 ms against 2 at batch 1, 2 ms against 2 at batch 32"


@pytest.mark.usefixtures("twice_as_fast")
def test_time_on_another_provider_is_no_proof(
    fitted: Fitted, graph: bytes, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [CPU])
    found = judge(fitted, graph, split, replace(EASY, device="cuda"))
    assert found(Form.INT8, graph, fitted).row.why == f"measured on {CPU}, and would serve on CUDAExecutionProvider"
    assert found(Form.FP16, graph, fitted).row.provider == CPU  # its ranking holds wherever it was computed


def test_a_graph_that_is_not_the_students_own_is_refused(fitted: Fitted, graph: bytes, split: Split) -> None:
    found = judge(fitted, graph, split)(Form.STUDENT, scaled(graph, seed=2), replace(fitted))
    assert found.row.why.startswith("ONNX Runtime does not reproduce it: top-10 agreement 0.")


def test_without_rows_to_judge_by_nothing_is_kept_or_even_made(
    fitted: Fitted, graph: bytes, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "_make", lambda *_, **__: pytest.fail("made, though it cannot be judged"))
    nothing = split.holdout.keep(np.zeros(len(split.holdout), dtype=bool))
    made = table(fitted, graph, split, [Form.INT8, Form.STUDENT], holdout=nothing)
    assert [each.row.kept for each in made] == [True, False, False]
    assert made[1].row.why == "0 held-out rows, fewer than variant_rows = 20: its ranking cannot be judged"
    assert made[1].row.ndcg is None
    json.dumps([each.row.as_json() for each in made], allow_nan=False)
    # all items withdrawn: rows of none of them are left
    made = table(fitted, graph, split, [Form.INT8], withdrawn=fitted.vocabulary.items)
    assert "0 held-out rows" in made[1].row.why


def test_a_form_that_cannot_be_made_is_a_row_and_no_failure(
    fitted: Fitted, graph: bytes, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(variants, "dynamic_int8", broken)
    options = replace(EASY, student=replace(EASY.student, blocks=2))
    made = table(fitted, graph, split, [Form.INT8, Form.STUDENT], options=options)
    assert made[1].row.why == "cannot be made: RuntimeError: no such kernel"
    assert "not smaller than the ranker's width 16 and 2 blocks" in made[2].row.why


def test_quantised_graphs_have_the_same_bytes_twice(fitted: Fitted, graph: bytes, split: Split) -> None:
    model = onnx.load_from_string(graph)
    feeds = judge(fitted, graph, split).feeds()
    for make in (half, dynamic_int8, lambda each: static_int8(each, feeds)):
        one, two = (make(model).SerializeToString(deterministic=True) for _ in range(2))
        assert one == two
        assert b".py" not in one
        assert b"/tmp" not in one
        assert [value.name for value in onnx.load_from_string(one).graph.input] == [
            value.name for value in model.graph.input
        ]
    assert model.SerializeToString(deterministic=True) == graph  # what they are made from stays as it is


def test_a_graph_is_judged_as_torch_is(fitted: Fitted, graph: bytes, split: Split) -> None:
    known = fitted.vocabulary.items
    recommender = GraphRecommender(open_session(graph), known, max_history=8, features=fitted.features)
    ours, theirs = (
        evaluate(each, split.holdout, exclude_seen=False, draws=0)
        for each in (recommender, RankerRecommender.of(fitted))
    )
    np.testing.assert_array_equal(ours.rank_R, theirs.rank_R)


def test_runs_in_turn(fitted: Fitted, graph: bytes, split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Told:
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self, outputs: list[str], feed: dict[str, np.ndarray]) -> None:
            told.append(self.name)

    monkeypatch.setattr("model.compression.running.TURNS", 4)
    assert len(medians_in_turns([Told("a"), Told("b")], {})) == 2
    assert "".join(told) == "ab" + "baabbaab"  # once to warm up, then each first as often as the other


def test_parity_rows_reach_the_longest_history(fitted: Fitted, split: Split) -> None:
    shapes = {feed["items"].shape for feed in judge(fitted, b"", split).feeds()}
    assert {(1, 8), (32, 8)} <= shapes
    assert parity_rows(fitted, split.train)
