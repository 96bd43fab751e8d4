import json
import pickle
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from relations.errors import DataRejected
from serving.choosing.shelves import Offer, Shelf
from serving.choosing.snapshots import _by_popularity
from serving.networks.engine import Engine
from serving.networks.histories import Asked, History
from serving.networks.queries import Query, mask_of
from serving.networks.sessions import ProviderMissing
from stores.bundle import write_bundle

INPUTS = ("items", "behaviours", "ages")


def past(*events: tuple[str, str]) -> History:
    return History([item for item, _ in events], [behaviour for _, behaviour in events], [0] * len(events))


def told(asked: Asked) -> tuple[list[int], list[int], list[int], list[list[int]]]:
    return list(asked.items_L), list(asked.behaviours_L), list(asked.ages_L), asked.attributes_LA


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scores=st.lists(st.integers(-3, 3), min_size=1, max_size=12),
    n=st.integers(1, 20),
    excluded=st.lists(st.sets(st.integers(0, 11)), min_size=1, max_size=3),
    forbidden=st.sets(st.integers(0, 11)),
)
def test_best_rows_are_a_sorts(
    shop: Any, scores: list[int], n: int, excluded: list[set[int]], forbidden: set[int]
) -> None:
    items = range(len(scores))
    names = [str(row) for row in items]
    engine = Engine.load(
        shop.release(items=names, embedding_IxD=np.ones((len(scores) + 1, 1)), output_DxV=np.array([scores]))
    )
    mask_V1 = mask_of(np.isin(items, list(forbidden)))
    asked = Asked([1], [1], [0], [[]])
    queries = [Query(asked, sorted(out & set(items)), mask_V1) for out in excluded]
    for best, out in zip(engine.best(queries, n=n), excluded, strict=True):
        left = [row for row in items if row not in out | forbidden]
        expected = sorted(left, key=lambda row: (-scores[row], row))[:n]
        assert best.rows == expected
        assert best.scores == [scores[row] for row in expected]


@pytest.mark.parametrize("length", [1, 3, 5])
def test_a_batch_answers_as_each_alone(shop: Any, length: int) -> None:
    # What serving pads with must be what the network ignores: histories of one length need none.
    engine = Engine.load(shop.release())
    rng = np.random.default_rng(length)
    queries = [
        Query(Asked(rng.integers(1, 21, length).tolist(), [1] * length, [0] * length, [[]] * length), [place])
        for place in range(7)
    ]
    together = engine.best(queries, n=5)
    for query, best in zip(queries, together, strict=True):
        (alone,) = engine.best([query], n=5)
        assert best.rows == alone.rows
        assert best.scores == pytest.approx(alone.scores, rel=1e-5)
        assert query.excluded[0] not in best.rows


def test_scores_of_a_history_by_hand(shop: Any) -> None:
    embedding = np.array([[9, 9], [1, 0], [0, 2]])
    output = np.array([[1, 3], [10, 20]])
    bundle = shop.release(items=["a", "b"], embedding_IxD=embedding, output_DxV=output)
    engine = Engine.load(bundle)
    # a then b: mean of (1, 0) and (0, 2) is (½, 1); · output = (½ + 10, 1½ + 20)
    assert engine.scores(engine.codes(past(("a", "view"), ("b", "click")), now_us=0)).tolist() == [10.5, 21.5]
    unknown = past(("x", "view"), ("b", "hum"), ("b", "dislike"))
    assert told(engine.codes(unknown, now_us=0)) == ([2], [9], [0], [[]])
    assert told(engine.codes(past(("a", "<pad>")), now_us=0)) == ([], [], [], [])
    assert engine.provider == "CPUExecutionProvider"


def test_withdrawn_items_are_context_and_never_an_answer(shop: Any) -> None:
    output = np.array([[1, 3, 2]])
    bundle = shop.release(items=["a", "b", "c"], embedding_IxD=np.ones((4, 1)), output_DxV=output, withdrawn=[2])
    engine = Engine.load(bundle)
    asked = engine.codes(past(("b", "view")), now_us=0)
    assert list(asked.items_L) == [2]  # what the user did with it still counts
    assert engine.scores(asked).tolist() == [1.0, -np.inf, 2.0]
    assert [best.rows for best in engine.best([Query(asked), Query(asked, [2])], n=3)] == [[2, 0], [0]]
    shelf = Shelf(engine.rows, Offer(), order_N=_by_popularity(engine, ("b", "c")), withdrawn_N=engine.withdrawn_V)
    assert shelf.standing.by_popularity.tolist() == [2, 0]


def test_only_the_newest_events_reach_the_network(shop: Any) -> None:
    engine = Engine.load(shop.release(max_history=2))
    history = past(*((item, "view") for item in ("item-00", "item-01", "item-02")))
    assert list(engine.codes(history, now_us=0).items_L) == [2, 3]


def test_ages_are_whole_seconds_before_the_request(shop: Any) -> None:
    # mean of (1, 0) and (0, 2) is (½, 1); mean age (3 + 0) / 2 · ⅒ in both; · output = (0.65 + 11.5, 1.95 + 23)
    output = np.array([[1, 3], [10, 20]])
    bundle = shop.release(
        items=["a", "b"], embedding_IxD=np.array([[9, 9], [1, 0], [0, 2]]), output_DxV=output, per_second=0.1
    )
    engine = Engine.load(bundle)
    history = History(["a", "b"], ["view", "view"], [6_000_001, 9_500_000])
    asked = engine.codes(history, now_us=10_000_000)
    assert list(asked.ages_L) == [3, 0]  # 3.999999 s and half a second
    assert engine.scores(asked).tolist() == pytest.approx([0.65 + 11.5, 1.95 + 23])
    # A clock that runs ahead: what is later than now is of now.
    assert list(engine.codes(history, now_us=7_000_001).ages_L) == [1, 0]


ATTRIBUTES = [
    {"name": "age", "source": "user", "kind": "number", "edges": [18.0, 65.0]},
    {"name": "surface", "source": "context", "kind": "category", "values": ["app", "web"]},
]


def test_attributes_of_user_and_event_reach_the_network(shop: Any) -> None:
    output = np.array([[1, 3], [10, 20]])
    bundle = shop.release(
        items=["a", "b"], embedding_IxD=np.array([[9, 9], [1, 0], [0, 2]]), output_DxV=output, attributes=ATTRIBUTES
    )
    engine = Engine.load(bundle)
    history = History(["a", "x", "b"], ["view"] * 3, [0] * 3, [{"surface": "web"}, {"surface": "app"}, {}])
    asked = engine.codes(history, now_us=0, attributes={"age": 30})
    assert asked.attributes_LA == [[3, 3], [3, 0]]
    # mean of (1, 0) + 6 and (0, 2) + 3 is (5, 5½); · output = (5 + 55, 15 + 110)
    assert engine.scores(asked).tolist() == [60.0, 125.0]
    # Nobody's events: one padding position, when something is known of the user.
    assert told(engine.codes(History(), now_us=0, attributes={"age": 70})) == ([0], [0], [0], [[4, 0]])
    assert list(engine.codes(History(), now_us=0, attributes={"age": "?"}).items_L) == []
    assert list(engine.codes(History(), now_us=0).items_L) == []
    # A user's own events without a word about them, as they are remembered.
    assert engine.codes(past(("b", "view")), now_us=0, attributes={"age": 30}).attributes_LA == [[3, 0]]


@pytest.mark.parametrize(
    "broken", [{"kind": "colour"}, {"source": "item"}, {"edges": ["x"]}, {"name": None, "edges": 3}]
)
def test_a_spec_of_another_shape_is_refused(shop: Any, broken: dict[str, Any]) -> None:
    with pytest.raises(DataRejected, match="incomplete"):
        Engine.load(shop.release(attributes=[ATTRIBUTES[0] | broken]))


@pytest.mark.parametrize("inputs", [[], ["items", "behaviours"], ["items", "behaviours", "ages", "mask"], 3])
def test_a_network_with_other_inputs_is_refused(shop: Any, inputs: Any) -> None:
    with pytest.raises(DataRejected, match="train and release a model again"):
        Engine.load(shop.release(inputs=inputs))


def _fixed_length() -> bytes:
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, [1, 3]) for n in INPUTS]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 3])]
    graph = helper.make_graph([helper.make_node("Cast", ["items"], ["scores"], to=1)], "fixed", inputs, outputs)
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    )


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ({"graph": b"not a graph"}, "ONNX Runtime refuses"),
        ({"graph": _fixed_length()}, "fails on a history of 1"),
        ({"output_DxV": np.full((16, 20), np.nan)}, "not finite"),
        ({"output_DxV": np.zeros((16, 19))}, "fails on a history of 1"),
        ({"items": ["a"] * 20}, "distinct"),
        ({"max_history": 0}, "max_history"),
    ],
)
def test_a_bundle_that_does_not_work_is_refused(shop: Any, shape: dict[str, Any], told: str) -> None:
    with pytest.raises(DataRejected, match=told):
        Engine.load(shop.release(**shape))


def test_a_pickle_is_never_opened(shop: Any, tmp_path: Any) -> None:
    canary = tmp_path / "executed"

    class Harm:
        def __reduce__(self) -> Any:
            return (canary.touch, ())

    with pytest.raises(DataRejected):
        Engine.load(shop.release(graph=pickle.dumps(Harm())))
    assert not canary.exists()


def test_weights_beside_the_graph_are_found(shop: Any) -> None:
    sound = shop.release(seed=3)
    files = shop.scratch / "external"
    files.mkdir()
    for name in ("vocabulary.json", "features.json"):
        (files / name).write_bytes(sound.read(name))
    graph = onnx.load_from_string(sound.read("model.onnx"))
    onnx.save_model(
        graph, files / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=64
    )
    large = write_bundle(files, describe={}, releases=shop.home.releases, attestation={})
    assert "model.onnx.data" in large.manifest["files"]
    one, other = (Engine.load(bundle) for bundle in (sound, large))
    first, second = (engine.scores(engine.codes(past(("item-03", "click")), now_us=0)) for engine in (one, other))
    assert first.tolist() == second.tolist()


@pytest.mark.parametrize("content", ["[]", "{", '{"items": 5}', '{"items": [1, 2]}'])
def test_a_vocabulary_of_another_shape_is_refused(shop: Any, content: str) -> None:
    sound = shop.release()
    files = shop.scratch / "broken"
    files.mkdir()
    for name in sound.manifest["files"]:
        (files / name).write_bytes(sound.read(name))
    (files / "vocabulary.json").write_text(content)
    with pytest.raises(DataRejected):
        Engine.load(write_bundle(files, describe={}, releases=shop.home.releases, attestation={}))


def test_a_runtime_without_cuda_is_an_error(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = shop.release()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ProviderMissing, match=r'\[serving\] device = "cuda"'):
        Engine.load(bundle, device="cuda")


def test_a_machine_without_cuda_is_an_error(shop: Any) -> None:
    try:
        engine = Engine.load(shop.release(), device="cuda")
    except ProviderMissing as error:
        assert "CPUExecutionProvider" in str(error)  # noqa: PT017 -- a machine with a GPU loads it
    else:
        assert engine.provider == "CUDAExecutionProvider"


def test_the_fixture_is_what_the_exporter_promises(shop: Any) -> None:
    bundle = shop.release()
    assert json.loads(bundle.read("features.json"))["padding"] == 0
    assert set(bundle.manifest["files"]) == {"model.onnx", "vocabulary.json", "features.json"}
